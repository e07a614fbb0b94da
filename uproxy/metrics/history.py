"""How much happened per second in the last quarter of an hour, for the status page's charts.

It is given totals every STEP_S seconds and keeps the differences, KEPT steps at most.  Pure: the
time comes in as `now`, seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

STEP_S: Final = 15.0
KEPT: Final = 60


class Totals(NamedTuple):
    """What has happened since the start."""

    opened: int = 0
    """Connections that began to relay."""
    failed: int = 0
    """Connections that were refused or couldn't be made."""
    received: int = 0
    """Bytes from peers."""
    sent: int = 0
    """Bytes to peers."""


class History:
    """The rates of the last KEPT steps."""

    def __init__(self, now: float) -> None:
        """Begin at zero totals."""
        self._before, self._taken = Totals(), now
        self._steps: deque[tuple[float, ...]] = deque(maxlen=KEPT)

    def take(self, totals: Totals, now: float) -> None:
        """Add the step that ends now."""
        seconds = now - self._taken
        if seconds <= 0:
            return
        moved = (after - before for after, before in zip(totals, self._before, strict=True))
        self._steps.append(tuple(round(max(0, each) / seconds, 3) for each in moved))
        self._before, self._taken = totals, now

    def rates(self) -> tuple[tuple[float, ...], ...]:
        """Return, for each field of Totals, what happened per second in each step, the oldest
        first."""
        return tuple(zip(*self._steps, strict=True)) or ((),) * len(Totals._fields)
