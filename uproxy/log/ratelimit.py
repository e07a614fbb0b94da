"""How often the same failure may be told before it is only counted.

Pure; time comes in as `now` (seconds of a monotonic clock).  Each kind has a window that
begins with its first event; the first few of a window pass, the rest are counted and told
as one summary when the window is over.  Memory is bounded: when there are too many kinds,
new ones share one.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 10.0
PASSING = 10
"""Events of one kind that pass in a window."""
MAX_KINDS = 1000

Kind = tuple[str, ...]


@dataclass(slots=True)
class _Window:
    began: float
    passed: int = 0
    held_back: int = 0


class RateLimit:
    """The windows of every kind that happened lately."""

    def __init__(self) -> None:
        self._windows: dict[Kind, _Window] = {}  # oldest first

    def passes(self, kind: Kind, now: float) -> bool:
        """Whether to tell this one; otherwise it is counted.  Call `due` first."""
        if kind not in self._windows and len(self._windows) >= MAX_KINDS:
            kind = ("many different failures",)
        window = self._windows.setdefault(kind, _Window(now))
        if window.passed < PASSING:
            window.passed += 1
            return True
        window.held_back += 1
        return False

    def due(self, now: float) -> list[tuple[Kind, int]]:
        """Close the windows that are over: (kind, how many were held back), if any were."""
        told: list[tuple[Kind, int]] = []
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if now - window.began < WINDOW_S:
                break
            del self._windows[kind]
            if window.held_back:
                told.append((kind, window.held_back))
        return told
