"""The limits, where guests speak in threads: it looks when it matters whether one has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from uproxy.transport.twin.gate import Gate, Guest


class Speaker(Guest, Protocol):
    """A guest that is silent until it `spoke`."""

    @property
    def spoke(self) -> bool: ...


class ThreadedGate(Gate):
    """A gate that is told of silence, and finds out about its end."""

    def __init__(self, catch_up: Callable[[], None]) -> None:
        """`catch_up` learns what the threads have reported by now."""
        super().__init__()
        self._catch_up = catch_up

    def enter(self, guest: Guest) -> None:
        """As ever, but nobody is refused, or sent away, for somebody who has gone already."""
        if len(self._inside) >= self.limits.connections:
            self._catch_up()
        super().enter(guest)

    def _evict(self) -> bool:
        while (oldest := self._oldest()) is not None and cast("Speaker", oldest).spoke:
            self.speaks(oldest)
        return super()._evict()

    def _oldest(self) -> Guest | None:
        return next(iter(self._silent), None)
