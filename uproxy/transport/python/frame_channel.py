"""The channel of a tunnel: frames out, in one piece for each turn of the loop, and what came in.

Bytes that come are given to a `hbone.Session`, which knows HTTP/2 and says what has happened; what
it wants sent leaves at the end of the loop's turn, so that the frames of many streams share
records.  `tunnel.Tunnel` says what is done about what has happened.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from time import monotonic
from typing import Final

from uproxy.hbone import codes, events
from uproxy.hbone.session import Session
from uproxy.transport import failures
from uproxy.transport.poller import BROKEN, HUNG_UP, READ, WRITE
from uproxy.transport.python.side import FAILURES, Failure
from uproxy.transport.python.tls import TlsChannel

CLOSE_S: Final = 5.0
"""Seconds for which a peer may take the last bytes of a tunnel that ends, and end it too: if the
socket were closed at once, what the peer still says would be answered by a reset, which drops what
the kernel hasn't delivered."""


class FrameChannel:
    """A channel under TLS on which two sessions talk."""

    def __init__(self, channel: TlsChannel, session: Session) -> None:
        self.channel = channel
        self.last_heard = monotonic()
        """When bytes came last, in seconds of the monotonic clock."""
        self.is_over = False
        """Whether it has ended: nothing is read or sent any more."""
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._flush_soon: asyncio.Handle | None = None
        self._closing: asyncio.TimerHandle | None = None  # until it ends without the peer's end
        self._is_finished = False  # our end is behind all that was sent

    # What is done about what has happened.

    def _on_received(self, received: list[events.Event]) -> None:
        """The peer's bytes mean this."""
        raise NotImplementedError

    def _on_all_sent(self) -> None:
        """The socket has taken everything."""
        raise NotImplementedError

    def _on_end(self, failure: Failure | None) -> None:
        """It has ended; None: in order."""
        raise NotImplementedError

    # Out.

    def close(self) -> None:
        """End it with GOAWAY, close_notify and FIN, behind what is unsent; no stream goes on.  One
        whose peer has broken HTTP/2 ends by itself, for that reason."""
        if not self.is_over and not self._session.is_closed:
            self._session.close(codes.ErrorCode.NO_ERROR, "")
            self._closing = self._loop.call_later(CLOSE_S, self._give_up)
            self._guarded(self._send)

    def abort(self) -> None:
        """End it at once: what the socket doesn't take now is lost."""
        if not self.is_over:
            self._session.close(codes.ErrorCode.NO_ERROR, "")
            self._guarded(self._send)
            self._end(None)

    def send_soon(self) -> None:
        """Send what the session has for the peer, when this turn of the loop ends."""
        if self._flush_soon is None and not self.is_over:
            self._flush_soon = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_soon = None
        self._guarded(self._send)

    def _send(self) -> None:
        """Send what the session has, if the socket has taken all that was sent before: what answers
        the peer waits in the session, which bounds it."""
        output = b"" if self.channel.unsent else self._session.take_output()
        if output:
            self.channel.send(output)
        self._on_sent()
        self._watch()

    def _on_sent(self) -> None:
        if self.channel.unsent:
            return
        if self._session.has_output:
            self.send_soon()
        elif self._closing is None:
            self._on_all_sent()
        elif not self._is_finished:
            self._is_finished = True
            self.channel.finish()

    # In.

    def _watch(self) -> None:
        if not self.is_over:
            writing = WRITE if self.channel.unsent else 0
            self.channel.watch(READ | writing, self._on_ready)

    def _on_ready(self, ready: int) -> None:
        """The poller's events."""
        self._guarded(lambda: self._turn(ready))

    def _turn(self, ready: int) -> None:
        if ready & WRITE and self.channel.unsent:
            self.channel.flush()
            self._on_sent()
        if ready & (READ | BROKEN | HUNG_UP):
            self._receive()
            self._receive_pending()
        self._watch()

    def _receive_pending(self) -> None:
        """Read what has come already, and makes no event."""
        while not self.is_over and self.channel.pending:
            self._receive()

    def _receive(self) -> None:
        received = self.channel.receive()
        if received is None:
            return
        if not received:
            lost = ConnectionResetError(errno.ECONNRESET, "") if self._session.streams else None
            self._end(lost)
            return
        self.last_heard = monotonic()
        self._on_received(self._session.receive(received, self.last_heard))
        self.send_soon()

    # The end.

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do something with the channel; a failure of it is the end."""
        if self.is_over:
            return
        try:
            work()
        except FAILURES as error:
            if isinstance(error, OSError):
                self.channel.lose(error)
            # whoever has said goodbye may be gone before it has read ours, and without a stream
            # nothing can be lost
            is_harmless = failures.is_cut(error) and not self._session.streams
            self._end(None if is_harmless or self._closing is not None else error)

    def _give_up(self) -> None:
        """The peer hasn't ended it in time."""
        self._end(None if self._is_finished else TimeoutError())

    def _end(self, failure: Failure | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        for handle in (self._flush_soon, self._closing):
            if handle is not None:
                handle.cancel()
        self.channel.mute()
        self._on_end(failure)
