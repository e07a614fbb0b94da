"""The limits on open connections and handshakes, and which connection is closed when all are open.

This page counts; it closes no socket itself.  A connection is *silent* until its ClientHello is
complete, and again while it is kept open only for its peer to read an alert: a slow-loris attack
consists of silent connections, so the oldest of them is closed first to make room.  Only where
there is none a peer's tunnel is closed that has been *spare*, which is without streams, for the
longest: strangers make room for each other first.

A handshake is *stalled* from our answer until the peer sends more, unless that waits to be read.
Strangers can stall after a ClientHello as well, so the one stalled for the longest is closed to
make room when there is no slot for a new one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import chain, islice
from typing import Final, Protocol

from uproxy.contract import Refusal, RefusedError
from uproxy.model import Limits
from uproxy.transport import failures

MAX_STALLED_SEEN: Final = 8
"""Handshakes that are looked at, the longest stalled first, to find one that makes room."""
MAX_TIMES_HEARD: Final = 32
"""In a handshake; whose peer sends more pieces is the next to make room."""


class LimitedConnection(Protocol):
    """What the limiter needs to know of a connection."""

    @property
    def source(self) -> str | None:
        """The network it is counted by (`sockaddr.network_of`); None on unix sockets, which have
        no address."""

    @property
    def is_stalled(self) -> bool:
        """Whether the peer of its handshake has neither sent what waits to be read, nor anything
        before it has taken what we have sent."""

    def close(self, refusal: Refusal) -> None: ...


class Limiter:
    """Counts the open connections and those that were refused."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.refused: Counter[str] = Counter(
            connections=0, handshakes_in_flight=0, per_source_connections=0, descriptors=0
        )
        self._open: set[LimitedConnection] = set()
        self._sources: Counter[str] = Counter()
        self._silent: dict[LimitedConnection, None] = {}
        self._spare: dict[LimitedConnection, None] = {}
        self._handshakes: Counter[LimitedConnection] = Counter()  # how often each was awaited
        self._stalled: OrderedDict[LimitedConnection, None] = OrderedDict()

    def add(self, connection: LimitedConnection) -> None:
        """Count a connection that was accepted.

        Raises:
            RefusedError: there is no room for it; it was not counted.
        """
        source, most = connection.source, self.limits.per_source_connections
        if source is not None and most and self._sources[source] >= most:
            self._refuse("per_source_connections", "source_full", source)
        if len(self._open) >= self.limits.connections and not self._evict():
            self._refuse("connections", "full")
        self._open.add(connection)
        if source is not None:
            self._sources[source] += 1

    def remove(self, connection: LimitedConnection) -> None:
        """Stop counting a connection; does nothing if it isn't counted."""
        self.mark_active(connection)
        self.free_slot(connection)
        if connection not in self._open:
            return
        self._open.remove(connection)
        source = connection.source
        if source is not None:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    def mark_silent(self, connection: LimitedConnection) -> None:
        """Allow a connection to be closed to make room: only its ClientHello, or its end, is
        awaited."""
        self._silent[connection] = None

    def mark_spare(self, connection: LimitedConnection) -> None:
        """Allow the tunnel of a peer, which has no streams, to be closed where nobody is silent."""
        self._spare[connection] = None

    def mark_active(self, connection: LimitedConnection) -> None:
        """Don't allow a connection to be closed to make room."""
        self._silent.pop(connection, None)
        self._spare.pop(connection, None)

    def take_slot(self, connection: LimitedConnection) -> None:
        """Count a handshake that begins; its ClientHello is complete.

        Raises:
            RefusedError: too many are in flight.
        """
        full = len(self._handshakes) >= self.limits.handshakes_in_flight
        if full and not self._evict_stalled():
            self._refuse("handshakes_in_flight", "slots")
        self._handshakes[connection] = 0

    def mark_stalled(self, connection: LimitedConnection) -> None:
        """Its handshake, if it is counted, goes on when the peer has sent more: from now on it may
        be closed to make room.  Who sends byte by byte isn't spared for it longer than
        MAX_TIMES_HEARD."""
        if connection in self._handshakes:
            self._handshakes[connection] += 1
            self._stalled[connection] = None
            is_next = self._handshakes[connection] > MAX_TIMES_HEARD
            self._stalled.move_to_end(connection, last=not is_next)

    def free_slot(self, connection: LimitedConnection) -> None:
        """Stop counting its handshake; does nothing if it isn't counted."""
        self._handshakes.pop(connection, None)
        self._stalled.pop(connection, None)

    def _evict(self) -> bool:
        """Close the oldest silent connection, or if there is none the oldest spare tunnel; returns
        whether there was one of these."""
        oldest = next(chain(self._silent, self._spare), None)
        if oldest is None:
            return False
        self.remove(oldest)
        self.refused["connections"] += 1
        oldest.close(failures.limit("evicted", self.limits))
        return True

    def _evict_stalled(self) -> bool:
        """Close the handshake that has stalled for the longest; returns whether there was one
        among the MAX_STALLED_SEEN longest: otherwise we are slow, and not they."""
        for connection in tuple(islice(self._stalled, MAX_STALLED_SEEN)):
            if connection.is_stalled:
                self.free_slot(connection)
                self.refused["handshakes_in_flight"] += 1
                connection.close(failures.limit("stalled", self.limits))
                return True
            self._stalled.move_to_end(connection)
        return False

    def _refuse(self, limit: str, what: str, source: str = "") -> None:
        """Count a refusal by the limit of this name, and raise it."""
        self.refused[limit] += 1
        raise RefusedError(failures.limit(what, self.limits, source))
