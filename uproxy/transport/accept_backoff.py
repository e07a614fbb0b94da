"""Decides how long a listener pauses when accept(2) fails for lack of descriptors or memory.

An immediate retry would fail too; meanwhile clients wait in the kernel's accept queue.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The errno values with which accept(2) reports such a shortage."""
BACK_OFF: Final = (0.05, 1.0)
"""Seconds of the first pause, and of the longest."""
LOG_AGAIN: Final = 30.0
"""Seconds after which a shortage that lasts is logged again."""

LOOP_BEHIND: Final = errno.EBUSY
"""A value of our own, not the kernel's: the event loop has yet to process so many refused
arrivals that accepting must wait."""

_WAY_OUT: Final = {
    errno.EMFILE: "; raise LimitNOFILE",
    errno.ENFILE: "; the whole machine has no more: raise fs.file-max",
}

_log = logging.getLogger(__name__)


class AcceptBackoff:
    """The pauses of one listener.  Times are in seconds of the event loop's clock."""

    def __init__(self) -> None:
        self._pause = BACK_OFF[0]
        self._last: float | None = None
        self._logged_at: float | None = None
        self._logged_error = 0

    def pause(self, error: int, now: float) -> float:
        """Return for how many seconds to stop accepting after it failed with `error` (an
        errno)."""
        if self._last is None or now - self._last > 2 * BACK_OFF[1]:
            self._pause = BACK_OFF[0]
        self._last = now
        if error == LOOP_BEHIND:  # the loop catches up in milliseconds
            self._pause = BACK_OFF[0]
        if (
            self._logged_at is None
            or error != self._logged_error
            or now - self._logged_at >= LOG_AGAIN
        ):
            self._logged_at, self._logged_error = now, error
            why = "a flood of arrivals" if error == LOOP_BEHIND else os.strerror(error).lower()
            way_out = _WAY_OUT.get(error, "")
            _log.warning("accepting pauses, callers wait: %s%s", why, way_out)
        pause, self._pause = self._pause, min(2 * self._pause, BACK_OFF[1])
        return pause
