"""How a relay ends in which one side has failed.

What the failed side had sent is passed on, and is delivered, before the other side is reset: a
reset drops what the kernel holds.
"""

from __future__ import annotations

from typing import Final

from uproxy.contract import Refusal
from uproxy.libssl import TlsError
from uproxy.transport import failures
from uproxy.transport.python.side import Failure, Side

_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 1.0
"""Seconds between two looks at what is undelivered, which nothing reports: at first, at last."""


def is_delivered(side: Side) -> bool:
    """Whether the other end has received all that was written."""
    return side.unsent == 0 and side.undelivered == 0


class Loss:
    """The first failure of a side of a relay."""

    __slots__ = ("_error", "_undelivered", "at", "side")

    def __init__(self, side: Side, error: Failure, at: float) -> None:
        self.side = side
        self.at = at
        """When it failed, in seconds of the loop's clock."""
        self._error = error
        self._undelivered = 0

    def add_error(self, side: Side, error: Failure) -> None:
        """Take another error of a side: an alert of the failed one is reported instead of the
        failure to send, which came first but says less."""
        if side is self.side and isinstance(self._error, OSError) and _alert(error) is not None:
            self._error = error

    def has_moved(self, *sides: Side) -> bool:
        """Whether the number of undelivered bytes has changed since the last call."""
        before, self._undelivered = self._undelivered, sum(side.undelivered for side in sides)
        return self._undelivered != before

    def next_look(self, now: float) -> float:
        """Return when to look again, in seconds of the loop's clock: the longer it takes, the
        less often."""
        return now + min(max((now - self.at) / 4, _FIRST_LOOK), _LAST_LOOK)

    def refusal(self, count: int, age: float) -> Refusal:
        """Return how the relay ends; `count`: bytes read from the side that failed; `age`: seconds
        since the connection was accepted."""
        side, error = self.side, self._error
        if side.shown is None or count:
            return failures.broken(side.who, error)
        if _alert(error) is not None:
            return failures.handshake(side.who, error, 0, side.shown)
        return failures.unanswered(side.who, error, age)


def _alert(error: Failure) -> int | None:
    """Return the number of the alert that the peer sent, if it was one."""
    return error.alert if isinstance(error, TlsError) else None
