"""Flow control (RFC 9113 §5.2, §6.9): how much each end may send, on a tunnel and on a stream.

A stream that is read quickly gets a larger window: twice as large whenever half of it was read
within FAST_S.  The tunnel's grows with it, but by no more than is read: a stream that has stalled
holds nothing of another's.  Open streams have equal shares of what a tunnel may grow by, so that a
stream grows little on a tunnel where many others wait behind its bytes.

A share bounds what a stream may still grow by.  One that has grown and is quiet keeps that until it
ends, because the peer may send it at any time.  So that such streams don't keep everything from
other tunnels, each tunnel leaves as much of what all may grow by as it has itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakSet

from uproxy.hbone.codes import DEFAULT_WINDOW, ErrorCode, TunnelError

HELD_WINDOWS = 4
"""How many of its windows a tunnel holds for applications that don't read: as long as it is less,
bytes are given back when they arrive, so that a stream that stalls stops only itself."""
LEAST_INCREMENT = 4096
"""Bytes that a tunnel gives back at least, however much of its window is held; as Go."""
EXTRA_WINDOWS = 4
"""By how many windows of a tunnel those of its streams grow at most, together."""
MOST_EXTRA = 4 * 1024 * 1024
"""The same in bytes, however large that window is."""
MOST_EXTRA_OF_ALL = 16 * 1024 * 1024
"""Bytes, for all tunnels that share a Growth."""
FAST_S = 0.25
SLOW_S = 1.0
"""Seconds in which half of a window isn't read: the stream loses what it has grown by."""


class Growth:
    """By how much the windows of several tunnels have grown together."""

    def __init__(self) -> None:
        self._tunnels: WeakSet[Inflow] = WeakSet()

    def add(self, tunnel: Inflow) -> None:
        """Count a tunnel for as long as it exists."""
        self._tunnels.add(tunnel)

    @property
    def left(self) -> int:
        """How many bytes more there may be."""
        return MOST_EXTRA_OF_ALL - sum(each.extra for each in self._tunnels)

    def left_for(self, tunnel: Inflow) -> int:
        """Return by how much a tunnel may grow, and leave as much as it has then."""
        return max(0, self.left - tunnel.extra) // 2


@dataclass(slots=True, eq=False, weakref_slot=True)
class Inflow:
    """What the peer may send on a tunnel as a whole."""

    window: int
    """How large it is once everything that arrived was consumed, if nothing has grown."""
    left: int = DEFAULT_WINDOW
    """Bytes that the peer may send."""
    held: int = 0
    """Bytes that arrived and weren't consumed."""
    extra: int = 0
    """Bytes by which the windows of streams have grown, together."""
    growth: Growth = field(default_factory=Growth)
    """Where they are counted."""

    def __post_init__(self) -> None:
        self.growth.add(self)

    @property
    def _most_held(self) -> int:
        return HELD_WINDOWS * self.window + self.extra

    @property
    def most_extra(self) -> int:
        """Bytes by which the windows of all streams may grow together."""
        return min(EXTRA_WINDOWS * self.window, MOST_EXTRA)

    @property
    def is_overfull(self) -> bool:
        """Whether so much is held that the peer gets back only what is consumed."""
        return self.held > self._most_held

    @property
    def owed(self) -> int:
        """Bytes that the peer gets back only when they are consumed: as many as windows have grown
        by, and what makes the tunnel overfull."""
        return min(self.held, self.extra) + max(0, self.held - self._most_held)

    @property
    def returning(self) -> int:
        """Bytes that the peer gets back with the next WINDOW_UPDATE; below 0 after windows have
        become smaller."""
        return self.window + self.extra - self.left - self.owed

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

    def consumed(self, count: int) -> None:
        """Count bytes that went on, or aren't wanted any more."""
        self.held -= count

    def take_increment(self) -> int:
        """Return what to give back, in halves of what isn't held; 0: nothing yet."""
        if self.returning < max(self.left, LEAST_INCREMENT):
            return 0
        return self.grant()

    def grant(self) -> int:
        """Return what to give back; the peer has it from then on."""
        increment = self.returning
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
    returned_at: float
    """When the peer got something back last; seconds."""
    extra: int = 0
    """Bytes by which its window has grown."""
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

    def take_increment(self, window: int, inflow: Inflow, share: int, now: float) -> int:
        """Return what to give back, in halves of the window; 0: nothing yet.  The window, which is
        `window` at first, may have grown by `share` at most, and by no more than the tunnel's
        `inflow` allows."""
        if self.received_end:
            if not self.held:
                self.drop_extra(inflow)
            return 0
        if self.returning < (window + self.extra) // 2:
            return 0
        self._resize(window, inflow, share, now)
        increment, self.returning = self.returning, 0
        self.incoming += increment
        return increment

    def drop_extra(self, inflow: Inflow) -> None:
        """Let other streams grow by what this one has grown by, on which nothing more comes."""
        inflow.extra -= self.extra
        self.extra = 0

    def _resize(self, window: int, inflow: Inflow, share: int, now: float) -> None:
        """Make the window larger or smaller by how long it took to read half of it."""
        took, self.returned_at = now - self.returned_at, now
        extra = self.extra
        if took > SLOW_S:
            extra = 0
        elif took < FAST_S and not self.held:
            extra += window + self.extra
        extra = min(extra, share)
        if extra > self.extra:
            left = inflow.growth.left_for(inflow)
            by = min(extra - self.extra, inflow.most_extra - inflow.extra, left)
        else:
            # no further than to what it would get back: the rest is out of our hands
            by = -min(self.extra - extra, self.returning)
        self.extra += by
        inflow.extra += by
        self.returning += by
