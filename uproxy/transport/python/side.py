"""One side of a connection in the clear: its socket, and what it couldn't take yet.

A side never waits by itself: `receive`, `send` and `flush` do what can be done now.  It owns
no buffer while nothing is in the way: bytes are received into one buffer shared by all, and
only what the socket doesn't take at once is kept (`backlog`).
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
from uproxy.libssl import RECEIVE_SIZE, Buffer, TlsError
from uproxy.transport.poller import BROKEN, READ, WRITE, Poller, wake

_shared: Final = bytearray(RECEIVE_SIZE)
"""Valid until the next receive of any side."""
_view: Final = memoryview(_shared)


class Side:
    """A plaintext side.  `who` names it in reasons: `the peer`, `the application`."""

    __slots__ = (
        "_backlog", "_ending", "_mask", "_on_events", "_poller", "_socket", "gone", "hung_up",
        "who",
    )  # fmt: skip

    def __init__(self, poller: Poller, connected: socket.socket, who: str) -> None:
        self.who = who
        self._poller = poller
        self._socket = connected
        self._backlog: Buffer = b""
        self._ending = False
        self._mask = -1
        self._on_events: Callable[[int], None] | None = None
        self.hung_up = False
        """Both directions are shut: the kernel would report it for ever to who wants nothing."""
        self.gone: OSError | None = None
        """Why its socket has failed: what came before that is read, and nothing is sent."""

    @property
    def backlog(self) -> int:
        """Bytes accepted by `send` that the socket hasn't taken."""
        return len(self._backlog)

    @property
    def ready(self) -> bool:
        """Whether what can be received is here, or in the kernel for good."""
        return self.gone is not None

    @property
    def failure(self) -> OSError | TlsError | None:
        """Why no more application bytes can be sent to it."""
        return self.gone

    @property
    def midway(self) -> bool:
        """Whether nothing can be sent before more has been received."""
        return False

    @property
    def undelivered(self) -> int:
        """Bytes that the kernel holds and a reset would drop.  A unix socket's are with the
        reader already."""
        if self.gone is not None or self._socket.family == socket.AF_UNIX:
            return 0
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    @property
    def finished(self) -> bool:
        """Whether we have said the end, and all of it is sent."""
        return self._ending and not self._backlog

    @property
    def delivered(self) -> bool:
        """Whether the other side's kernel has all that we were to send."""
        return not self._backlog and self.undelivered == 0

    def receive(self) -> Buffer | None:
        """Application bytes, valid until the next receive; empty at the end; None: not now.

        Raises:
            OSError: reset.
        """
        received = self._receive_raw()
        if not received and self.gone is not None:
            raise self.gone
        return received

    def lose(self, error: OSError) -> None:
        """Its socket takes no more: drop what waits to be sent."""
        self.gone = self.gone or error
        self.hung_up = True
        self._backlog = b""

    def send(self, data: Buffer) -> None:
        """Send now what the socket takes, keep the rest.

        Raises:
            OSError: reset.
        """
        self._push(data)

    def finish(self) -> None:
        """We send no more: half-close, behind the backlog."""
        self._ending = True
        self._end_if_sent()

    def flush(self) -> None:
        """Send more of the backlog."""
        rest, self._backlog = self._backlog, b""
        self._push(rest)
        self._end_if_sent()

    def watch(self, mask: int, on_events: Callable[[int], None]) -> None:
        """Report READ, WRITE or neither; errors and hang-ups always (a hang-up once)."""
        if mask == 0 and self.hung_up:
            self.mute()
            return
        self._on_events = on_events
        if mask != self._mask:
            self._mask = mask
            self._poller.watch(self._socket.fileno(), mask, self._report)

    def watch_loss(self, on_lost: Callable[[OSError], None]) -> None:
        """Report a reset, once, while nothing else is wanted; a hang-up may have bytes before it,
        which are read when they are wanted."""

        def on_events(events: int) -> None:
            if events & BROKEN:
                on_lost(self.error())
            else:
                self.hung_up = True
            self.mute()

        self.watch(0, on_events)

    def mute(self) -> None:
        """Report nothing, not even errors, until watched again."""
        self._mask = -1
        self._on_events = None
        self._poller.forget(self._socket.fileno())

    async def receive_some(self, size: int = RECEIVE_SIZE) -> bytes:
        """The next raw bytes as they come from the socket; empty at its end."""
        while True:
            await self._wait(READ)
            received = self._receive_raw(size)
            if received is not None:
                return bytes(received)

    async def send_all(self) -> None:
        """Wait until the backlog is sent."""
        while self._backlog:
            await self._wait(WRITE)
            self.flush()

    def error(self) -> OSError:
        """What the kernel reports for the socket."""
        return OSError(sockets.connect_error(self._socket) or errno.ECONNRESET, "")

    def discard(self) -> bool:
        """Take what is there to receive and forget it; False when it will bring no more."""
        try:
            received = self._receive_raw()
        except OSError:
            return False
        return received is None or len(received) > 0

    def close(self) -> None:
        """Orderly: what the kernel holds is still delivered."""
        if self._socket.fileno() == -1:
            return
        self.mute()
        self.discard()  # the kernel would answer unread bytes with a reset
        self._socket.close()

    async def linger(self, seconds: float) -> None:
        """Close when the other side had its time to read our last words."""
        with suppress(OSError):  # it has gone, or the time is over: both are an end
            async with asyncio.timeout(seconds):
                await self.send_all()
                self._socket.shutdown(socket.SHUT_WR)
                while await self.receive_some():
                    continue
        self.close()

    def reset(self) -> None:
        """The other side sees a reset."""
        if self._socket.fileno() == -1:
            return
        self.mute()
        sockets.reset(self._socket)

    def _report(self, events: int) -> None:
        if self._on_events is None:
            self.mute()
        else:
            self._on_events(events)

    async def _wait(self, mask: int) -> None:
        ready = asyncio.get_running_loop().create_future()
        self.watch(mask, lambda _events: wake(ready))
        try:
            await ready
        finally:
            self.mute()

    def has_unread(self) -> bool:
        """Whether bytes from it wait, here or in the kernel."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _receive_raw(self, size: int = RECEIVE_SIZE) -> memoryview | None:
        try:
            return _view[: self._socket.recv_into(_shared, size)]
        except BlockingIOError:
            return None

    def _push(self, data: Buffer) -> None:
        if self._backlog:
            self._backlog = b"".join((self._backlog, data))
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            # a slice of bytes shares them; anything else is somebody's buffer
            self._backlog = memoryview(data if isinstance(data, bytes) else bytes(data))[sent:]

    def _end_if_sent(self) -> None:
        if self.finished:
            self._socket.shutdown(socket.SHUT_WR)
