"""Small TCP applications and clients with manners, and without: what end-to-end tests send.

The servers are async context managers that give their port; the clients take host and port.
Content is pseudo-random and checked by SHA-256, so a lost, doubled or swapped byte shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

_CHUNK = 64 * 1024

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def content(size: int, seed: int = 0) -> Iterator[bytes]:
    """`size` bytes, always the same for a seed, in chunks of 64 KiB."""
    source = random.Random(seed)  # noqa: S311  noise, not a secret
    for offset in range(0, size, _CHUNK):
        yield source.randbytes(min(_CHUNK, size - offset))


def digest_of(size: int, seed: int = 0) -> str:
    """The SHA-256 of `content(size, seed)`, in hex."""
    digest = hashlib.sha256()
    for chunk in content(size, seed):
        digest.update(chunk)
    return digest.hexdigest()


@contextlib.asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A TCP server, by default on an ephemeral port, which it gives; open connections are cut
    when the block ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            # a client that resets is a test's business, not this server's
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handler: sends everything back as it comes, and closes after the client has."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def answer_digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handler: says nothing until the client has half-closed, then how many bytes came and
    their SHA-256, as `SIZE DIGEST\\n`."""
    size, digest = await receive(reader)
    writer.write(f"{size} {digest}\n".encode())
    await writer.drain()


def send_content(size: int, seed: int = 0) -> Handler:
    """A handler that speaks first: sends `content`, half-closes, waits for the client's end."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _send(writer, size, seed)
        while await reader.read(_CHUNK):
            pass

    return handler


def reset_after(size: int) -> Handler:
    """A handler that reads `size` bytes and then answers with a TCP reset."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(size)
        reset(writer)

    return handler


async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handler that takes nothing from its socket: the sender has to stop by itself."""
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    await asyncio.Event().wait()


async def exchange(
    port: int, size: int, *, seed: int = 0, host: str = "127.0.0.1", half_close: bool = True
) -> None:
    """Through an `echo`: send `content` and read it back at the same time, half-close, and
    see the other side close.  Without `half_close`, for what stands between and can't do it
    (ghostunnel ends both directions with the first), close once everything is back.

    Raises:
        AssertionError: something else came back.
        OSError: the connection broke.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        sending = asyncio.create_task(_send(writer, size, seed, half_close=half_close))
        received = await receive(reader, None if half_close else size)
        await sending
    finally:
        await close(writer)
    assert received == (size, digest_of(size, seed)), f"sent {size} bytes, {received} came back"


async def deliver(port: int, size: int, *, seed: int = 0, host: str = "127.0.0.1") -> None:
    """To an `answer_digest`: send `content`, half-close, read the answer.

    Raises:
        AssertionError: the other side got something else.
        OSError: the connection broke.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await _send(writer, size, seed)
        answer = await reader.read()
    finally:
        await close(writer)
    assert answer.decode() == f"{size} {digest_of(size, seed)}\n"


async def receive(reader: asyncio.StreamReader, size: int | None = None) -> tuple[int, str]:
    """Read until the other side has finished, or `size` bytes: how many, and their SHA-256.

    Raises:
        ConnectionError: it ended in a reset.
    """
    digest, received = hashlib.sha256(), 0
    while received != size and (data := await reader.read(_CHUNK)):
        digest.update(data)
        received += len(data)
    return received, digest.hexdigest()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close, whatever state the connection is in."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a TCP reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def fill(sock: socket.socket, *, quiet: float = 0.5, limit: int = 256 << 20) -> int:
    """Send to somebody who doesn't read, until nothing has been taken for `quiet` seconds:
    how many bytes the way there holds.  More than `limit` bytes are not sent.

    Raises:
        ConnectionError: the other side cut the connection.
    """
    sock.settimeout(quiet)
    block, sent = bytes(_CHUNK), 0
    try:
        while sent < limit:
            sent += sock.send(block)
    except TimeoutError:
        pass
    return sent


async def _send(
    writer: asyncio.StreamWriter, size: int, seed: int, *, half_close: bool = True
) -> None:
    for chunk in content(size, seed):
        writer.write(chunk)
        await writer.drain()
    if half_close:
        writer.write_eof()
