"""Both ends of a plaintext relay: sockets on the event loop.

`Stream` sends and receives bytes, half-closes and resets; `Upstream` is an application that
returns the connections it accepts.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from uproxy.model import Address, TcpAddress, UnixAddress

_SIZE = 1 << 16
TIMEOUT_S = 10.0
"""Seconds that a test waits at most."""


_made: list[socket.socket] = []


class Segments(enum.Enum):
    """The offsets of TCP segment counters in `struct tcp_info` (linux/tcp.h)."""

    ALL = 140
    WITH_BYTES = 152


class Stream:
    """One end of a connection."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.reset_at_once = False
        """The connection was reset before connect(2) was seen to succeed."""
        _made.append(connected)

    @classmethod
    async def connect(
        cls, address: Address, receive_buffer: int | None = None, source: str | None = None
    ) -> Self:
        """Connect, from the host `source` if given; a small `receive_buffer` (bytes) fills soon
        when nothing is read."""
        unix = isinstance(address, UnixAddress)
        connection = socket.socket(socket.AF_UNIX if unix else _family(address))
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            connection.bind((source, 0))
        target = address.path if isinstance(address, UnixAddress) else (address.host, address.port)
        stream = cls(connection)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(connection, target)
        except ConnectionResetError:
            stream.reset_at_once = True
        except BaseException:
            stream.close()
            raise
        return stream

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(6 * TIMEOUT_S):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self, size: int = _SIZE) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            ConnectionResetError: the connection was reset.
        """
        if self.reset_at_once:
            raise ConnectionResetError
        async with asyncio.timeout(TIMEOUT_S):
            return await asyncio.get_running_loop().sock_recv(self.socket, size)

    async def receive_exactly(self, size: int) -> bytes:
        """Return this many bytes, or fewer if the end comes first."""
        heard = bytearray()
        while len(heard) < size and (more := await self.receive(min(size - len(heard), _SIZE))):
            heard += more
        return bytes(heard)

    async def receive_all(self) -> bytes:
        """Return everything up to the end."""
        heard = bytearray()
        while more := await self.receive():
            heard += more
        return bytes(heard)

    def send_last(self, data: bytes) -> None:
        """Send bytes and the FIN in the same segment; they must fit into one."""
        self.socket.send(data, socket.MSG_MORE)
        self.finish()

    def segments(self, which: Segments) -> int:
        """Return how many segments have been received."""
        said = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, which.value + 4)
        return int.from_bytes(said[which.value :], sys.byteorder)

    async def is_reset(self) -> bool:
        """Wait for the end; return whether it is a reset."""
        try:
            await self.receive_all()
        except ConnectionResetError:
            return True
        return False

    def finish(self) -> None:
        """Half-close: send a FIN."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


def close_all() -> None:
    """Close all streams that tests have left open."""
    while _made:
        _made.pop().close()


class Upstream:
    """An application that listens and returns the connections it accepts, in order."""

    def __init__(self, path: str | None = None) -> None:
        if path is None:
            self.socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
            self.address: Address = TcpAddress(*self.socket.getsockname())
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(path)
            self.socket.listen()
            self.address = UnixAddress(path)
        self.socket.setblocking(False)

    async def accept(self) -> Stream:
        async with asyncio.timeout(TIMEOUT_S):
            accepted, _name = await asyncio.get_running_loop().sock_accept(self.socket)
        return Stream(accepted)

    def close(self) -> None:
        self.socket.close()


@asynccontextmanager
async def listening(path: str | None = None) -> AsyncIterator[Upstream]:
    """Yield an application that listens inside the block."""
    listener = Upstream(path)
    try:
        yield listener
    finally:
        listener.close()


@asynccontextmanager
async def slow_listening() -> AsyncIterator[Upstream]:
    """As `listening`; whoever it accepts has little room for what comes."""
    async with listening() as upstream:
        upstream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield upstream


def _family(address: Address) -> socket.AddressFamily:
    v6 = isinstance(address, TcpAddress) and ":" in address.host
    return socket.AF_INET6 if v6 else socket.AF_INET


class FullQueue:
    """A listener whose queue is full: a dial to it gets no answer."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.address = TcpAddress(*self._listener.getsockname())
        self._fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self._listener.getsockname())
            self._fillers.append(filler)

    def close(self) -> None:
        for opened in (self._listener, *self._fillers):
            opened.close()
