"""Limits how often failures of the same kind are logged before they are only counted.

Pure; `now` is in seconds of a monotonic clock.  Each kind has a window that begins with its
first event.  The first events of a window are logged; the rest are counted, and their number
is logged when the window is over.  Memory is bounded: beyond MAX_KINDS open windows, new kinds
share one.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 10.0
"""Seconds that a window lasts."""
MAX_LOGGED = 10
"""How many events of one kind are logged in a window."""
MAX_KINDS = 1000
"""How many windows may be open at once."""

Kind = tuple[str, ...]


@dataclass(slots=True)
class _Window:
    """What is known of one kind since its window began."""

    began: float
    passed: int = 0
    suppressed: int = 0


class RateLimit:
    """The open windows, by kind."""

    def __init__(self) -> None:
        self._windows: dict[Kind, _Window] = {}  # oldest first

    def allows(self, kind: Kind, now: float) -> bool:
        """Return whether this event is to be logged; if not, it is counted.  Call
        `close_windows` first."""
        if kind not in self._windows and len(self._windows) >= MAX_KINDS:
            kind = ("many different failures",)
        window = self._windows.setdefault(kind, _Window(now))
        if window.passed < MAX_LOGGED:
            window.passed += 1
            return True
        window.suppressed += 1
        return False

    def close_windows(self, now: float) -> list[tuple[Kind, int]]:
        """Close the windows that are over; return (kind, suppressed events) of those with any."""
        summaries: list[tuple[Kind, int]] = []
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if now - window.began < WINDOW_S:
                break
            del self._windows[kind]
            if window.suppressed:
                summaries.append((kind, window.suppressed))
        return summaries
