"""The last connections that were refused or cut because of an identity.

Equal refusals of the same caller are one row with a count, so that a caller which keeps trying
doesn't push the others out.
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
    """A connection that was refused or cut because of an identity."""

    at: datetime
    direction: Direction
    door: str
    source: str
    identity: str | None
    destination: str | None
    ending: Ending
    count: int = 1
    """How many equal ones there were; this is the last."""


class Denials:
    """The last KEPT_DENIALS different denials."""

    def __init__(self) -> None:
        self._kept: dict[_Key, Denial] = {}  # by `_key`, oldest first

    def add(
        self, info: ConnectionInfo, connection: Connection, ending: Ending, at: datetime
    ) -> None:
        """Add a denial; the oldest is dropped if there are too many."""
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
        """Return the denials, newest first."""
        return tuple(reversed(self._kept.values()))


def _key(denial: Denial, connection: Connection) -> _Key:
    """Return what is equal for denials that are counted together."""
    source, ending = connection.arrival.source, denial.ending
    host = source.host if isinstance(source, TcpAddress) else str(source)
    return (denial.direction, denial.door, host, denial.identity, denial.destination,
            ending.outcome, ending.rule, ending.reason)  # fmt: skip
