"""What clients of the admin server may use."""

from __future__ import annotations

from dataclasses import dataclass

ACCEPTS = 8
"""Connections that a listener accepts in one iteration of the event loop."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one client, and all clients of a listener together, may use."""

    head_bytes: int = 16 * 1024
    """The largest head of a request."""
    clients: int = 32
    """How many connections one listener keeps open."""
    clients_per_source: int = 16
    """How many of them one IPv4 address, or one /64 of IPv6, has."""
    request_s: float = 10.0
    """Seconds from the connection to the end of the first request's head."""
    idle_s: float = 60.0
    """Seconds from an answer to the end of the next request's head; also for reading the
    answer."""
    linger_s: float = 2.0
    """Seconds in which a client can read a refusal, before the rest of its request is cut off."""

    @property
    def descriptors(self) -> int:
        """The most descriptors that one listener has open at a time: its own, its clients, and
        what two iterations of the event loop accept before those that make room are closed."""
        return 1 + self.clients + 2 * ACCEPTS


DEFAULT_BOUNDS = Bounds()
