"""Both ends of a relay, in the clear, as a test plays them: sockets on the event loop.

`Stream` says and hears bytes, half-closes and resets; `Listener` is an application that
hands over the connections it accepts.
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
PATIENCE = 10.0
"""Seconds a test waits for what must come."""


_made: list[socket.socket] = []


class Segments(enum.Enum):
    """Where `struct tcp_info` counts them (linux/tcp.h)."""

    ALL = 140
    WITH_BYTES = 152


class Stream:
    """One end of a connection."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.reset_at_once = False
        """An engine of threads may have reset it before we looked whether it is connected."""
        _made.append(connected)

    @classmethod
    async def connect(
        cls, address: Address, receive_buffer: int | None = None, source: str | None = None
    ) -> Self:
        """Dial, from the host `source`; a small `receive_buffer` (bytes) makes a reader that is
        soon full."""
        unix = isinstance(address, UnixAddress)
        connection = socket.socket(socket.AF_UNIX if unix else _family(address))
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            connection.bind((source, 0))
        target = address.path if isinstance(address, UnixAddress) else (address.host, address.port)
        stream = cls(connection)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(connection, target)
        except ConnectionResetError:
            stream.reset_at_once = True
        return stream

    async def say(self, data: bytes) -> None:
        async with asyncio.timeout(6 * PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def hear(self, size: int = _SIZE) -> bytes:
        """What comes next; empty at the end.

        Raises:
            ConnectionResetError: the other side was reset.
        """
        if self.reset_at_once:
            raise ConnectionResetError
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(self.socket, size)

    async def hear_exactly(self, size: int) -> bytes:
        """That many bytes, or fewer if the end comes first."""
        heard = bytearray()
        while len(heard) < size and (more := await self.hear(min(size - len(heard), _SIZE))):
            heard += more
        return bytes(heard)

    async def hear_all(self) -> bytes:
        """Everything up to the end."""
        heard = bytearray()
        while more := await self.hear():
            heard += more
        return bytes(heard)

    def say_last(self, data: bytes) -> None:
        """Little enough for one segment, and the end in the same one."""
        self.socket.send(data, socket.MSG_MORE)
        self.finish()

    def segments(self, which: Segments) -> int:
        """How many have come."""
        said = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, which.value + 4)
        return int.from_bytes(said[which.value :], sys.byteorder)

    async def is_reset(self) -> bool:
        """Wait for the end; whether it is a reset rather than an orderly one."""
        try:
            await self.hear_all()
        except ConnectionResetError:
            return True
        return False

    def finish(self) -> None:
        """Half-close: say no more."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


def close_all() -> None:
    """Close what the tests so far have left open."""
    while _made:
        _made.pop().close()


class Listener:
    """An application: it listens, and hands over what it accepts in order."""

    def __init__(self, path: str | None = None) -> None:
        if path is None:
            self.socket = socket.create_server(("127.0.0.1", 0))
            self.address: Address = TcpAddress(*self.socket.getsockname())
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(path)
            self.socket.listen()
            self.address = UnixAddress(path)
        self.socket.setblocking(False)

    async def accept(self) -> Stream:
        async with asyncio.timeout(PATIENCE):
            accepted, _name = await asyncio.get_running_loop().sock_accept(self.socket)
        return Stream(accepted)

    def close(self) -> None:
        self.socket.close()


@asynccontextmanager
async def listening(path: str | None = None) -> AsyncIterator[Listener]:
    """An application for the length of a block."""
    listener = Listener(path)
    try:
        yield listener
    finally:
        listener.close()


def _family(address: Address) -> socket.AddressFamily:
    v6 = isinstance(address, TcpAddress) and ":" in address.host
    return socket.AF_INET6 if v6 else socket.AF_INET
