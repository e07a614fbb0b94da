"""When a listener is short of descriptors or memory: how long it pauses, how often it says so.

Asked again at once, the kernel would say the same; whoever dialled in waits in its queue.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
BACK_OFF: Final = (0.05, 1.0)
"""Seconds without accepting: at first, at most."""
SAY_AGAIN: Final = 30.0
"""Seconds after which a shortage that lasts is worth another line."""

BEHIND: Final = errno.EBUSY
"""Not the kernel's: more arrivals have been refused than the event loop has heard of."""

_WAY_OUT: Final = {
    errno.EMFILE: "; raise LimitNOFILE",
    errno.ENFILE: "; the whole machine has no more: raise fs.file-max",
}

_log = logging.getLogger(__name__)


class Shortage:
    """Of one listener.  Times are the event loop's, in seconds."""

    def __init__(self) -> None:
        self._pause = BACK_OFF[0]
        self._last: float | None = None
        self._said: float | None = None
        self._said_of = 0

    def pause(self, error: int, now: float) -> float:
        """Accepting has failed with `error`: for how many seconds to let it be."""
        if self._last is None or now - self._last > 2 * BACK_OFF[1]:
            self._pause = BACK_OFF[0]
        self._last = now
        if error == BEHIND:  # it catches up in milliseconds
            self._pause = BACK_OFF[0]
        if self._said is None or error != self._said_of or now - self._said >= SAY_AGAIN:
            self._said, self._said_of = now, error
            why = "a flood of arrivals" if error == BEHIND else os.strerror(error).lower()
            way_out = _WAY_OUT.get(error, "")
            _log.warning("accepting pauses, callers wait: %s%s", why, way_out)
        pause, self._pause = self._pause, min(2 * self._pause, BACK_OFF[1])
        return pause
