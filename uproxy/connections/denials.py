"""The last connections that were refused or cut for who somebody is.

Refusals that say the same of the same caller are one row with a count: a probe that repeats
itself must not push the others out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from uproxy.connections.recheck import ConnectionInfo
from uproxy.contract import Connection, Ending
from uproxy.model import Direction, TcpAddress

KEPT_DENIALS = 50

_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Denial:
    """A connection that was refused or cut for who somebody is."""

    at: datetime
    direction: Direction
    door: str
    source: str
    identity: str | None
    destination: str | None
    ending: Ending
    count: int = 1
    """Of those alike; this is the last one."""


class Denials:
    """At most KEPT_DENIALS that differ."""

    def __init__(self) -> None:
        self._kept: dict[_Key, Denial] = {}  # by what is alike, oldest first

    def add(
        self, info: ConnectionInfo, connection: Connection, ending: Ending, at: datetime
    ) -> None:
        """One more; the one that happened longest ago makes room."""
        peer = connection.peer or connection.arrival.peer
        denial = Denial(
            at=at,
            direction=info.direction,
            door=info.door,
            source=str(connection.arrival.source),
            identity=None if peer is None else peer.spiffe_id,
            destination=None if connection.route is None else connection.route.destination,
            ending=ending,
        )
        key = _key(denial, connection)
        before = self._kept.pop(key, None)
        if before is None and len(self._kept) >= KEPT_DENIALS:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = denial if before is None else replace(denial, count=before.count + 1)

    def newest(self) -> tuple[Denial, ...]:
        """Newest first."""
        return tuple(reversed(self._kept.values()))


def _key(denial: Denial, connection: Connection) -> _Key:
    """Equal for denials that are alike."""
    source, ending = connection.arrival.source, denial.ending
    host = source.host if isinstance(source, TcpAddress) else str(source)
    return (denial.direction, denial.door, host, denial.identity, denial.destination,
            ending.outcome, ending.rule, ending.reason)  # fmt: skip
