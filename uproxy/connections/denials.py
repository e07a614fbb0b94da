"""The last connections that were refused, on either side, or couldn't be made.

Equal refusals of the same caller are one row with a count, so that a caller which keeps trying
doesn't push the others out; and when there are too many rows, the oldest goes of the host that
has most, so that a caller which is refused differently each time doesn't either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from uproxy.accesslog import DENIALS
from uproxy.connections.recheck import ConnectionInfo
from uproxy.contract import Connection, Ending
from uproxy.lifecycle import State
from uproxy.model import Direction, Outcome, TcpAddress

KEPT_DENIALS = 50

_Key = tuple[object, ...]


def is_listed(ending: Ending) -> bool:
    """Whether a connection that ended like this is kept for operators: somebody was refused, or
    nobody answered where it was to go, or its door doesn't lead there."""
    if ending.outcome is Outcome.TIMED_OUT:
        return ending.state is State.CONNECTING
    return ending.outcome in DENIALS or ending.outcome in _NOT_REACHED


_NOT_REACHED = (Outcome.CONNECT_FAILED, Outcome.L7_UNAVAILABLE, Outcome.NO_DESTINATION)


@dataclass(frozen=True, slots=True)
class Denial:
    """A connection that was refused, here or there, was cut, or couldn't be made."""

    at: datetime
    direction: Direction
    door: str
    source: str
    identity: str | None
    destination: str | None
    ending: Ending
    count: int = 1
    """How many equal ones there were; this is the last."""
    since: datetime | None = None
    """When the first of several was."""
    port: int | None = None
    """The one that a tunnel named; None: it was no stream."""
    via: str | None = None
    """The L7 proxy that connected for `identity`, as `inbound_trust` calls it; None: none."""


class Denials:
    """The last KEPT_DENIALS different denials."""

    def __init__(self) -> None:
        self._kept: dict[_Key, Denial] = {}  # by `_key`, oldest first
        self._lost: dict[tuple[Direction, Outcome], datetime] = {}

    def add(
        self, info: ConnectionInfo, connection: Connection, ending: Ending, at: datetime
    ) -> None:
        """Add a denial; the oldest is dropped if there are too many."""
        route = connection.route
        denial = Denial(
            at=at,
            direction=info.direction,
            door=info.door,
            source=str(connection.arrival.source),
            identity=info.identity_of(connection),
            via=None if info.caller is None else info.caller.via,
            destination=route.destination if route is not None else info.destination,
            ending=ending,
            port=None if connection.arrival.target is None else connection.arrival.target.port,
        )
        key = _key(denial, connection)
        before = self._kept.pop(key, None)
        if before is None and len(self._kept) >= KEPT_DENIALS:
            self._drop(self._oldest_of_most())
        if before is not None:
            since = before.since or before.at
            denial = replace(denial, count=before.count + 1, since=since)
        self._kept[key] = denial

    def _drop(self, key: _Key) -> None:
        dropped = self._kept.pop(key)
        if all(_whom(each) != _whom(dropped) for each in self._kept.values()):
            kind = dropped.direction, dropped.ending.outcome
            self._lost[kind] = max(dropped.at, self._lost.get(kind, dropped.at))

    def _oldest_of_most(self) -> _Key:
        """Return the oldest denial's key, of the host that has most of them."""
        counts = Counter(key[:_HOST] for key in self._kept)
        most = max(counts.values())
        return next(key for key in self._kept if counts[key[:_HOST]] == most)

    def newest(self) -> tuple[Denial, ...]:
        """Return the denials, newest first."""
        return tuple(reversed(self._kept.values()))

    @property
    def lost(self) -> Mapping[tuple[Direction, Outcome], datetime]:
        """When the last denial of each kind was that had to go, and with it all that was known of
        its caller, or outbound of its destination."""
        return self._lost


def _whom(denial: Denial) -> tuple[Direction, str]:
    """Return the caller, or outbound the destination."""
    if denial.direction is Direction.OUTBOUND:
        return denial.direction, denial.destination or denial.door
    return denial.direction, denial.identity or denial.source.rpartition(":")[0]


_HOST = 3
"""How many parts of a `_Key` tell the direction, the door and the host."""


def _key(denial: Denial, connection: Connection) -> _Key:
    """Return what is equal for denials that are counted together."""
    source, ending = connection.arrival.source, denial.ending
    host = source.host if isinstance(source, TcpAddress) else str(source)
    claimed = None if ending.claim is None else ending.claim.spiffe_id
    return (denial.direction, denial.door, host, denial.identity, denial.via, denial.destination,
            ending.outcome, ending.rule, ending.reason, claimed)  # fmt: skip
