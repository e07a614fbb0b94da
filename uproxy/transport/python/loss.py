"""Why a relay ends before both directions have ended in order, and what is still delivered then.

What the side that failed had sent is passed on, and what was passed on is delivered, before the
other side is reset: a reset drops what the kernel holds.
"""

from __future__ import annotations

from typing import Final

from uproxy.contract import RefusedError
from uproxy.libssl import TlsError
from uproxy.transport import failures
from uproxy.transport.python.side import Side
from uproxy.transport.python.tls import TlsSide

_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 1.0
"""Seconds between two looks at what the kernel hasn't delivered, of which it reports nothing."""


class Loss:
    """The first failure of a side while bytes passed."""

    __slots__ = ("_error", "_undelivered", "at", "side")

    def __init__(self, side: Side, error: OSError | TlsError, at: float) -> None:
        self.side = side
        self.at = at
        """Seconds of the loop's clock."""
        self._error = error
        self._undelivered = 0

    def name(self, side: Side, error: OSError | TlsError) -> None:
        """An alert says more than the failure to send that came before it was read."""
        if side is self.side and isinstance(self._error, OSError) and _alert(error) is not None:
            self._error = error

    def has_moved(self, *sides: Side) -> bool:
        """Whether the kernel has delivered something, or got more, since it was last asked."""
        before, self._undelivered = self._undelivered, sum(side.undelivered for side in sides)
        return self._undelivered != before

    def next_look(self, now: float) -> float:
        """When to ask again: the longer it takes, the less often."""
        return now + min(max((now - self.at) / 4, _FIRST_LOOK), _LAST_LOOK)

    def refusal(self, count: int) -> RefusedError:
        """How the relay ends; `count` is what the side that failed had sent.

        A TLS 1.3 server's refusal of our certificate comes after the handshake has ended for
        us (RFC 8446 §2): before its first application byte an alert is that refusal.
        """
        side, error = self.side, self._error
        if isinstance(side, TlsSide) and side.client and count == 0 and _alert(error) is not None:
            return RefusedError(failures.handshake(side.who, error, 0))
        return RefusedError(failures.broken(side.who, error))


def _alert(error: OSError | TlsError) -> int | None:
    return error.alert if isinstance(error, TlsError) else None
