"""One connected socket: its interest in poller events, and the bytes it hasn't taken yet.

`receive`, `send` and `flush` do what can be done now; only the coroutines wait.  A channel owns no
buffer while its socket takes everything: bytes are received into one buffer that all channels
share, and only what the socket doesn't take at once is kept (`unsent`).  `tls.TlsChannel` is a
channel under TLS.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from uproxy import sockets
from uproxy.contract import PeerSvid, TlsFacts
from uproxy.libssl import RECEIVE_SIZE, Buffer, TlsError
from uproxy.transport.poller import BROKEN, READ, WRITE, Poller, wake

_shared: Final = bytearray(RECEIVE_SIZE)
"""Where bytes are received: valid until the next receive of any channel."""
_view: Final = memoryview(_shared)


class Channel:
    """A connection in the clear.  `who` names the other end in reasons: `the peer`, `the
    application`."""

    __slots__ = (
        "_mask", "_on_events", "_output", "_poller", "_sending_ended", "_socket", "facts", "gone",
        "hung_up", "who",
    )  # fmt: skip

    def __init__(self, poller: Poller, connected: socket.socket, who: str) -> None:
        self.who = who
        self._poller = poller
        self._socket = connected
        self._output: Buffer = b""
        self._sending_ended = False
        self._mask = -1  # -1: the poller doesn't know it
        self._on_events: Callable[[int], None] | None = None
        self.facts: TlsFacts | None = None
        """What a handshake negotiated; None: there was none, or it isn't over."""
        self.hung_up = False
        """Both directions are shut: the kernel reports it for as long as the poller watches, so
        it is watched for READ or WRITE only."""
        self.gone: OSError | None = None
        """Why its socket has failed: bytes received before are still read, none can be sent."""

    @property
    def unsent(self) -> int:
        """Bytes accepted by `send` that the socket hasn't taken."""
        return len(self._output)

    @property
    def undelivered(self) -> int:
        """Bytes that the other end's kernel hasn't acknowledged, which a reset would drop; 0 on a
        unix socket, where the kernel hands them over at once."""
        if self.gone is not None or self._socket.family == socket.AF_UNIX:
            return 0
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    @property
    def pending(self) -> bool:
        """Whether `receive` has something to return, or to raise, without a poller event."""
        return self.gone is not None

    @property
    def failure(self) -> OSError | TlsError | None:
        """Why no more application bytes can be sent; None: they can."""
        return self.gone

    @property
    def must_receive_first(self) -> bool:
        """Whether nothing can be sent before more has been received."""
        return False

    @property
    def shown(self) -> str | None:
        """The SPIFFE ID that we showed to a TLS server; None: the other end is none."""
        return None

    @property
    def peer(self) -> PeerSvid | None:
        """Whom a handshake has verified; None: there was none, or it isn't over."""
        return None

    @property
    def finished(self) -> bool:
        """Whether the kernel has all bytes that were sent, and their end."""
        return self._sending_ended and not self._output

    def receive(self) -> Buffer | None:
        """Return application bytes, valid until the next receive; empty at the end; None: none
        have come yet.

        Raises:
            OSError: the connection was reset.
        """
        received = self._receive_raw()
        if not received and self.gone is not None:
            raise self.gone
        return received

    def lose(self, error: OSError) -> None:
        """Note that the socket has failed; the first error stays.  Drop what wasn't sent."""
        self.gone = self.gone or error
        self.hung_up = True
        self._output = b""

    def send(self, data: Buffer) -> None:
        """Send what the socket takes now, keep the rest.

        Raises:
            OSError: the connection was reset.
        """
        self._push(data)

    def finish(self) -> None:
        """Half-close: send a FIN, behind the bytes that are still unsent.

        Raises:
            OSError: the connection was reset.
        """
        self._sending_ended = True
        self._end_if_sent()

    def flush(self) -> None:
        """Send what the socket takes now of the unsent bytes.

        Raises:
            OSError: the connection was reset.
        """
        rest, self._output = self._output, b""
        self._push(rest)
        self._end_if_sent()

    def watch(self, mask: int, on_events: Callable[[int], None]) -> None:
        """Report the poller's events in `mask` (READ, WRITE, both or 0), and errors and hang-ups
        in any case, but a hang-up once only."""
        if mask == 0 and self.hung_up:
            self.mute()
            return
        self._on_events = on_events
        if mask != self._mask:
            self._mask = mask
            self._poller.watch(self._socket.fileno(), mask, self._report)

    def watch_loss(self, on_lost: Callable[[OSError], None]) -> None:
        """Report a reset, once.  A hang-up isn't reported: bytes may have come before it, which
        are read later."""

        def on_events(events: int) -> None:
            if events & BROKEN:
                on_lost(self.error())
            else:
                self.hung_up = True
            self.mute()

        self.watch(0, on_events)

    def mute(self) -> None:
        """Report nothing, not even errors, until it is watched again."""
        self._mask = -1
        self._on_events = None
        self._poller.forget(self._socket.fileno())

    async def receive_raw(self, size: int = RECEIVE_SIZE) -> bytes:
        """Wait for bytes as they come from the socket, and return them; empty at its end."""
        while True:
            await self._wait(READ)
            received = self._receive_raw(size)
            if received is not None:
                return bytes(received)

    async def wait_for_byte(self) -> bool:
        """Wait until the socket has a byte, and leave it there; False: it has ended.

        Raises:
            OSError: the connection was reset.
        """
        while True:
            await self._wait(READ)
            with suppress(BlockingIOError):
                return bool(self._socket.recv(1, socket.MSG_PEEK))

    async def flush_all(self) -> None:
        """Wait until the socket has taken all unsent bytes."""
        while self._output:
            await self._wait(WRITE)
            self.flush()

    def error(self) -> OSError:
        """Take the error that the kernel keeps for the socket; ECONNRESET if it keeps none."""
        return OSError(sockets.connect_error(self._socket) or errno.ECONNRESET, "")

    def has_unread(self) -> bool:
        """Whether bytes that were received wait, here or in the kernel."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def close(self) -> None:
        """Close in order: the kernel still delivers what it holds."""
        if self._socket.fileno() == -1:
            return
        self.mute()
        with suppress(OSError):  # it was reset: nothing is to be delivered
            self._receive_raw()  # the kernel would answer unread bytes with a reset
        self._socket.close()

    async def linger(self) -> None:
        """Send what is unsent and a FIN, and wait until the other end has closed."""
        with suppress(OSError):  # it was reset, which is an end too
            await self.flush_all()
            self._socket.shutdown(socket.SHUT_WR)
            while await self.receive_raw():
                continue

    def reset(self) -> None:
        """Close so that the other end sees a reset."""
        if self._socket.fileno() == -1:
            return
        self.mute()
        sockets.reset(self._socket)

    def _report(self, events: int) -> None:
        """The poller's callback."""
        if self._on_events is None:
            self.mute()
        else:
            self._on_events(events)

    async def _wait(self, mask: int) -> None:
        """Wait for one of the poller's events in `mask`, an error or a hang-up."""
        ready = asyncio.get_running_loop().create_future()
        self.watch(mask, lambda _events: wake(ready))
        try:
            await ready
        finally:
            self.mute()

    def _receive_raw(self, size: int = RECEIVE_SIZE) -> memoryview | None:
        """Return the bytes that the socket has, at most `size`; None: none have come yet."""
        try:
            return _view[: self._socket.recv_into(_shared, size)]
        except BlockingIOError:
            return None

    def _push(self, data: Buffer) -> None:
        """Give bytes to the socket, behind those that are still unsent; keep the rest."""
        if self._output:
            self._output = b"".join((self._output, data))
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            # a slice of bytes shares them; anything else is a buffer that its owner reuses
            self._output = memoryview(data if isinstance(data, bytes) else bytes(data))[sent:]

    def _end_if_sent(self) -> None:
        """Send the FIN that `finish` asked for, once nothing is unsent before it."""
        if self.finished:
            self._socket.shutdown(socket.SHUT_WR)
