"""The limits on open connections and handshakes, and which connection is closed when all are open.

This page counts; it closes no socket itself.  A connection is *silent* until its ClientHello is
complete, and again while it is kept open only for its peer to read an alert: a slow-loris attack
consists of silent connections, so the oldest of them is closed first to make room.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from uproxy.contract import Refusal, RefusedError
from uproxy.model import Limits
from uproxy.transport import failures


class LimitedConnection(Protocol):
    """What the limiter needs to know of a connection."""

    @property
    def source(self) -> str | None:
        """The network it is counted by (`sockaddr.network_of`); None on unix sockets, which have
        no address."""

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
        self._handshakes: set[LimitedConnection] = set()

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
        self._handshakes.discard(connection)
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

    def mark_active(self, connection: LimitedConnection) -> None:
        """Don't allow a connection to be closed to make room."""
        self._silent.pop(connection, None)

    def take_slot(self, connection: LimitedConnection) -> None:
        """Count a handshake that begins; its ClientHello is complete.

        Raises:
            RefusedError: too many are in flight.
        """
        if len(self._handshakes) >= self.limits.handshakes_in_flight:
            self._refuse("handshakes_in_flight", "slots")
        self._handshakes.add(connection)

    def free_slot(self, connection: LimitedConnection) -> None:
        """Stop counting its handshake; does nothing if it isn't counted."""
        self._handshakes.discard(connection)

    def _evict(self) -> bool:
        """Close the oldest silent connection; returns whether there was one."""
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return False
        self.remove(oldest)
        self.refused["connections"] += 1
        oldest.close(failures.limit("evicted", self.limits))
        return True

    def _refuse(self, limit: str, what: str, source: str = "") -> None:
        """Count a refusal by the limit of this name, and raise it."""
        self.refused[limit] += 1
        raise RefusedError(failures.limit(what, self.limits, source))
