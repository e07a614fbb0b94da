"""The limits: who may come in, and who goes when it is full.

Counts only; it closes nothing itself.  A connection is *silent* until its ClientHello is
complete, and again while it is only left to read its refusal: silent ones are what a
slow-loris has, so the oldest of them makes room first.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from uproxy.contract import Refusal, RefusedError
from uproxy.model import Limits
from uproxy.transport import failures


class Guest(Protocol):
    """What the gate needs to know of a connection."""

    @property
    def source(self) -> str | None:
        """By what it is counted (`sockaddr.network_of`); None where there is no address (unix)."""

    def close(self, refusal: Refusal) -> None: ...


class Gate:
    """Everybody inside, and everybody turned away."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.refused: Counter[str] = Counter(
            connections=0, handshakes_in_flight=0, per_source_connections=0, descriptors=0
        )
        self._inside: set[Guest] = set()
        self._sources: Counter[str] = Counter()
        self._silent: dict[Guest, None] = {}
        self._handshakes: set[Guest] = set()

    def enter(self, guest: Guest) -> None:
        """Count an arrival in.

        Raises:
            RefusedError: no room for it; it was not counted in.
        """
        source, most = guest.source, self.limits.per_source_connections
        if source is not None and most and self._sources[source] >= most:
            self._refuse("per_source_connections", "source_full", source)
        if len(self._inside) >= self.limits.connections and not self._evict():
            self._refuse("connections", "full")
        self._inside.add(guest)
        if source is not None:
            self._sources[source] += 1

    def leave(self, guest: Guest) -> None:
        """Count it out, if it is in."""
        self.speaks(guest)
        self._handshakes.discard(guest)
        if guest not in self._inside:
            return
        self._inside.remove(guest)
        source = guest.source
        if source is not None:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    def waits(self, guest: Guest) -> None:
        """Nothing but its ClientHello, or its end, is awaited: it is silent."""
        self._silent[guest] = None

    def speaks(self, guest: Guest) -> None:
        """It isn't silent any more."""
        self._silent.pop(guest, None)

    def begin_handshake(self, guest: Guest) -> None:
        """Take a slot, with a complete ClientHello.

        Raises:
            RefusedError: none is free.
        """
        if len(self._handshakes) >= self.limits.handshakes_in_flight:
            self._refuse("handshakes_in_flight", "slots")
        self._handshakes.add(guest)

    def end_handshake(self, guest: Guest) -> None:
        """Give the slot back."""
        self._handshakes.discard(guest)

    def _evict(self) -> bool:
        """Send the oldest silent one away, if there is one."""
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return False
        self.leave(oldest)
        self.refused["connections"] += 1
        oldest.close(failures.limit("evicted", self.limits))
        return True

    def _refuse(self, limit: str, what: str, source: str = "") -> None:
        self.refused[limit] += 1
        raise RefusedError(failures.limit(what, self.limits, source))
