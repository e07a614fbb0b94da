"""Tunnels: connections that carry others as their streams.

Those that peers have made to us are listed here; of those that the engine has dialled only the ends
are reported.

They are kept apart from open connections, because a tunnel is nobody's connection: it isn't
counted, not waited for, and has no line in the access log if it ends in order.  What is true of
its handshake is true of all its streams, so it is checked and cut as they are.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from datetime import datetime

from uproxy.connections.checking import Checks, Entry
from uproxy.connections.recheck import ConnectionInfo
from uproxy.contract import Connection, Ending, OwnSvid, PeerSvid, Refusal
from uproxy.log import alike
from uproxy.metrics import Metrics
from uproxy.model import Direction, Outcome, TcpAddress

_IN_ORDER = frozenset({Outcome.CLOSED, Outcome.DRAINED, Outcome.TIMED_OUT})
_TOLD_BY_STREAMS = frozenset({Outcome.HANDSHAKE_FAILED})
"""How tunnels that we have dialled end where each connection that needed one is on record with the
reason, and nothing was open."""
_log = logging.getLogger(__name__)


class Tunnels:
    """The tunnels that are open, by the id of their arrival."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], datetime],
        checks: Checks,
        count_handshake: Callable[[Direction, Connection], None],
    ) -> None:
        """`clock` is the wall clock, UTC; `count_handshake` counts a handshake that has
        succeeded."""
        self._metrics = metrics
        self._clock = clock
        self._count_handshake = count_handshake
        self._checks = checks
        self._open: dict[int, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Open tunnels, oldest first."""
        return iter(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def newest(self, limit: int) -> tuple[Entry, ...]:
        """At most `limit` open tunnels, newest first."""
        return tuple(itertools.islice(reversed(self._open.values()), limit))

    def began(self, connection: Connection, info: ConnectionInfo, revision: int) -> Entry:
        """Register a connection that carries streams from now on; `revision` is that of the
        snapshot under which its handshake was found good."""
        arrival = connection.arrival
        entry = self._open[arrival.id] = Entry(connection, info, self._clock())
        self._count_handshake(info.direction, connection)
        _log.debug("connection %d: carries streams from %s to door %s",
                   arrival.id, arrival.source, info.door)  # fmt: skip
        self._checks.began(entry, revision)
        return entry

    def ended(self, connection: Connection, ending: Ending) -> None:
        """Register the end of a tunnel, after those of its streams."""
        entry = self._open.pop(connection.arrival.id)
        entry.has_ended = True
        self._count(entry.info.direction, ending.outcome, ending.breach)
        peer, source = connection.peer, connection.arrival.source
        who = source if peer is None else peer.spiffe_id
        words = (connection.arrival.id, who, source, ending.outcome, ending.reason)
        if entry.was_cut or ending.outcome in _IN_ORDER:
            _log.debug("connection %d: the tunnel of %s from %s has ended: %s: %s", *words)
        else:
            _log.warning("connection %d: the tunnel of %s from %s was broken: %s: %s", *words,
                         extra=alike("broken tunnel", str(who)))  # fmt: skip

    def ended_dialled(self, peer: PeerSvid, end: TcpAddress, why: Refusal | None) -> None:
        """Register the end of a tunnel to `end` that we have dialled, after those of its streams;
        `why` None: in order."""
        outcome = Outcome.CLOSED if why is None else why.outcome
        self._count(Direction.OUTBOUND, outcome, None if why is None else why.breach)
        if why is not None and outcome not in _IN_ORDER | _TOLD_BY_STREAMS:
            _log.warning("the tunnel to %s at %s was broken: %s: %s", peer.spiffe_id, end, outcome,
                         why.reason, extra=alike("broken tunnel", str(peer.spiffe_id)))  # fmt: skip

    def _count(self, direction: Direction, outcome: Outcome, breach: str | None) -> None:
        self._metrics.tunnel_ended(direction, outcome)
        if breach is not None:
            self._metrics.tunnel_broken(direction, breach)

    def shown(self, number: int) -> OwnSvid | None:
        """Return the SVID that we showed in the handshake of a tunnel; None: it has ended."""
        entry = self._open.get(number)
        return None if entry is None else entry.info.own

    def cut(self, refusal: Refusal) -> None:
        """Cut every tunnel, and with it its streams."""
        for entry in tuple(self._open.values()):
            entry.cut(refusal)
