"""One end of a relay: what moves bytes sees of a connection.

A relay uses nothing but this: it reads, writes, finishes, and says what it waits for.  A side owns
its channel (`ChannelSide`), or is one of several that share the channel of a carrier, each with
its own bytes, end and reset.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, Protocol

from uproxy.contract import PeerSvid, RefusedError, TlsFacts
from uproxy.libssl import Buffer, TlsError
from uproxy.transport.poller import BROKEN, HUNG_UP, READ, WRITE
from uproxy.transport.python.channel import Channel

Failure = OSError | TlsError
"""Why a side can't be read from, or written to, any more."""
FAILURES: Final = (OSError, TlsError)
"""The same, to catch it."""

OnReady = Callable[[bool, bool], None]
"""Called with whether the side can be read now, and whether unsent bytes were sent.  A failure
found meanwhile is in `Side.failure`."""


class Side(Protocol):
    """One end of a relay.  Nothing here waits."""

    @property
    def who(self) -> str:
        """The other end's name in reasons: `the peer`, `the application`."""

    @property
    def unsent(self) -> int:
        """Bytes accepted by `write` that are still ours to send."""

    @property
    def undelivered(self) -> int:
        """Bytes sent that the other end hasn't received yet, as far as it can be known."""

    @property
    def pending(self) -> bool:
        """Whether `read` has something to return, or to raise, for which `want` calls nobody."""

    @property
    def failure(self) -> Failure | None:
        """Why no more bytes can be written; None: they can."""

    @property
    def must_read_first(self) -> bool:
        """Whether nothing can be written before more has been read."""

    @property
    def shown(self) -> str | None:
        """The SPIFFE ID that we showed to a TLS server; None: the other end is none.  A server
        judges it when the handshake has ended for us (TLS 1.3), so an alert before the first byte
        read is its refusal."""

    def read(self) -> Buffer | None:
        """Return application bytes, valid until the next read of any side; empty at the end; None:
        none have come yet.

        Raises:
            Failure: it was reset, or cut off, and all bytes before that were read.
        """

    def write(self, data: Buffer) -> None:
        """Send application bytes, and keep what can't be sent now.

        Raises:
            Failure: nothing can be written any more.
        """

    def finish(self, *, in_order: bool = True) -> None:
        """Send the end, behind all that was written; not `in_order`: a reset, at once.

        Raises:
            Failure: nothing can be written any more.
        """

    def want(self, reading: bool, writing: bool, on_ready: OnReady) -> None:
        """From now on call `on_ready` when it can be read (if `reading`), when unsent bytes were
        sent (if `writing`), and when it fails."""


class End(Side, Protocol):
    """A side with what a connection needs besides a relay."""

    @property
    def peer(self) -> PeerSvid | None:
        """Whom the handshake has verified that it came through; None: there was none."""

    @property
    def facts(self) -> TlsFacts | None:
        """What that handshake negotiated."""

    @property
    def gone(self) -> Failure | None:
        """Why nothing comes but what was received already; None: more may come."""

    @property
    def finished(self) -> bool:
        """Whether the end was sent, behind all bytes."""

    @property
    def is_stranded(self) -> bool:
        """Whether it was lost with its tunnel to an L7 proxy, and holds nothing that has come."""

    def watch_loss(self, on_lost: Callable[[OSError], None]) -> None:
        """Report a reset, once, while it isn't relayed yet.

        Raises:
            RefusedError: it has been reset already.
        """

    def has_unread(self) -> bool:
        """Whether bytes that were received wait."""

    def lose(self, error: OSError) -> None:
        """Note that it has failed; what came before is still read."""

    def close(self) -> None:
        """Nobody uses it any more: what was written is still delivered."""

    def reset(self) -> None:
        """End it so that the other end sees a reset."""


class StreamRefusedError(RefusedError):
    """The peer hasn't looked at a CONNECT, so it may be sent again, elsewhere (RFC 9113 §8.7).
    It is here, and not beside streams, so that nobody needs these to catch it."""


class ChannelSide:
    """A side with a channel of its own."""

    __slots__ = ("_on_ready", "_reading", "channel")

    is_stranded = False

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._reading = False
        self._on_ready: OnReady | None = None

    @property
    def who(self) -> str:
        return self.channel.who

    @property
    def unsent(self) -> int:
        return self.channel.unsent

    @property
    def undelivered(self) -> int:
        return self.channel.undelivered

    @property
    def pending(self) -> bool:
        return self.channel.pending

    @property
    def failure(self) -> Failure | None:
        return self.channel.failure

    @property
    def must_read_first(self) -> bool:
        return self.channel.must_receive_first

    @property
    def shown(self) -> str | None:
        return self.channel.shown

    @property
    def peer(self) -> PeerSvid | None:
        """Whom the channel's handshake has verified; None without TLS, and before its end."""
        return self.channel.peer

    @property
    def facts(self) -> TlsFacts | None:
        """What the channel's handshake negotiated; None without TLS, and before its end."""
        return self.channel.facts

    @property
    def gone(self) -> OSError | None:
        """Why its socket has failed."""
        return self.channel.gone

    @property
    def finished(self) -> bool:
        """Whether the kernel has all bytes that were sent, and their end."""
        return self.channel.finished

    def watch_loss(self, on_lost: Callable[[OSError], None]) -> None:
        """Report a reset, once, while it isn't relayed yet."""
        self.channel.watch_loss(on_lost)

    def has_unread(self) -> bool:
        """Whether bytes that were received wait, here or in the kernel."""
        return self.channel.has_unread()

    def lose(self, error: OSError) -> None:
        """Note that the socket has failed; what came before is still read."""
        self.channel.lose(error)

    def close(self) -> None:
        """Close in order: the kernel still delivers what it holds."""
        self.channel.close()

    def reset(self) -> None:
        """Close so that the other end sees a reset."""
        self.channel.reset()

    def read(self) -> Buffer | None:
        try:
            return self.channel.receive()
        except OSError as error:
            self.channel.lose(error)
            raise

    def write(self, data: Buffer) -> None:
        self._send(lambda: self.channel.send(data))

    def finish(self, *, in_order: bool = True) -> None:
        if in_order:
            self._send(self.channel.finish)
        else:
            self.channel.reset()
            self.channel.lose(OSError(errno.ECONNRESET, ""))

    def want(self, reading: bool, writing: bool, on_ready: OnReady) -> None:
        self._reading, self._on_ready = reading, on_ready
        self.channel.watch(READ * reading | WRITE * writing, self._on_events)

    def _on_events(self, events: int) -> None:
        """The poller's events: send what is unsent, or note why nothing can be sent any more."""
        broken, sent = events & (BROKEN | HUNG_UP), False
        if self.unsent and events & WRITE | broken:
            sent = True
            try:
                self.channel.flush()
            except OSError as error:
                self.channel.lose(error)
        elif broken and not self._reading:
            self._hang_up(events)
        if self._on_ready is not None:
            self._on_ready(self._reading and bool(events & READ | broken), sent)

    def _hang_up(self, events: int) -> None:
        """Note a hang-up, or take the socket's error, that came while nothing was wanted."""
        self.channel.hung_up = True
        if events & BROKEN:
            self.channel.lose(self.channel.error())

    def _send(self, work: Callable[[], None]) -> None:
        """Send something.  If the socket fails, what came from it is still read."""
        try:
            work()
        except OSError as error:
            self.channel.lose(error)
            raise
