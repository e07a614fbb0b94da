"""The limits, where guests speak in threads: it looks when it matters whether one has."""

from __future__ import annotations

from typing import Protocol, cast

from uproxy.transport.twin.gate import Gate, Guest


class Speaker(Guest, Protocol):
    """A guest that is silent until it `spoke`."""

    @property
    def spoke(self) -> bool: ...


class ThreadedGate(Gate):
    """A gate that is told of silence, and finds out about its end."""

    def _evict(self) -> bool:
        while (oldest := self._oldest()) is not None and cast("Speaker", oldest).spoke:
            self.speaks(oldest)
        return super()._evict()

    def _oldest(self) -> Guest | None:
        return next(iter(self._silent), None)
