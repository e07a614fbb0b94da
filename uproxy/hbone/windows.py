"""Flow control (RFC 9113 §5.2, §6.9): how much each end may send, on a tunnel and on a stream."""

from __future__ import annotations

from dataclasses import dataclass

from uproxy.hbone.codes import DEFAULT_WINDOW, ErrorCode, TunnelError

HELD_WINDOWS = 4
"""How many of its windows a tunnel holds for applications that don't read: as long as it is less,
bytes are given back when they arrive, so that a stream that stalls stops only itself."""
LEAST_INCREMENT = 4096
"""Bytes that a tunnel gives back at least, however much of its window is held; as Go."""


@dataclass(slots=True)
class Inflow:
    """What the peer may send on a tunnel as a whole."""

    window: int
    """How large it is once everything that arrived was consumed."""
    left: int = DEFAULT_WINDOW
    """Bytes that the peer may send."""
    held: int = 0
    """Bytes that arrived and weren't consumed."""
    owed: int = 0
    """Of them, those that the peer gets back only when they are consumed."""
    returning: int = 0
    """Bytes that the peer gets back with the next WINDOW_UPDATE."""

    @property
    def is_overfull(self) -> bool:
        """Whether so much is held that the peer gets back only what is consumed."""
        return self.held > HELD_WINDOWS * self.window

    def arrived(self, count: int) -> None:
        """Count bytes that the peer sent.

        Raises:
            TunnelError: They are more than the peer may send.
        """
        if count > self.left:
            reason = f"{count} bytes of DATA, but {self.left} are left of the tunnel's window"
            raise TunnelError(ErrorCode.FLOW_CONTROL_ERROR, reason)
        self.left -= count
        self.held += count
        if self.is_overfull:
            self.owed += count
        else:
            self.returning += count

    def consumed(self, count: int) -> None:
        """Count bytes that went on, or aren't wanted any more."""
        self.held -= count
        back = min(count, self.owed)
        self.owed -= back
        self.returning += back

    def take_increment(self) -> int:
        """Return what to give back, in halves of what isn't held; 0: nothing yet."""
        if self.returning < max(self.left, LEAST_INCREMENT):
            return 0
        return self.grant()

    def grant(self) -> int:
        """Return what to give back; the peer has it from then on."""
        increment, self.returning = self.returning, 0
        self.left += increment
        return increment


@dataclass(slots=True)
class Stream:
    """One stream, seen from this end of its tunnel."""

    id: int
    outgoing: int
    """Bytes that we may send; below 0 after the peer made its windows smaller (§6.9.2)."""
    incoming: int
    """Bytes that the peer may send."""
    held: int = 0
    """Bytes that arrived and weren't consumed."""
    returning: int = 0
    """Bytes that were consumed, and that the peer hasn't got back."""
    shortfall: int = 0
    """How much the small DATA frames among those held are smaller than they should be."""
    answered: bool = False
    informational: int = 0
    """Answers 1xx that came before the real one."""
    sent_end: bool = False
    received_end: bool = False
    was_reset: bool = False
    """By either end: frames for it are ignored, what it holds may be consumed."""

    @property
    def is_over(self) -> bool:
        """Whether nothing passes any more and nothing is held."""
        return self.sent_end and self.received_end and not self.held

    def consumed(self, count: int) -> int:
        """Count bytes that went on; return by how much the shortfall is smaller."""
        relief = self.shortfall * count // self.held if self.held else 0
        self.held -= count
        self.shortfall -= relief
        self.returning += count
        return relief

    def take_increment(self, window: int) -> int:
        """Return what to give back, in halves of the window; 0: nothing yet."""
        if self.received_end or self.returning < window // 2:
            return 0
        increment, self.returning = self.returning, 0
        self.incoming += increment
        return increment
