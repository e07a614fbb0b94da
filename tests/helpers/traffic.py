"""Small TCP servers and clients for end-to-end tests, well behaved and not.

Servers are async context managers that yield their port; clients take host and port.  Content is
pseudo-random and checked by SHA-256, so that lost, duplicated or swapped bytes are noticed.
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
    """Yield `size` bytes, always the same for a seed, in chunks of 64 KiB."""
    source = random.Random(seed)  # noqa: S311  noise, not a secret
    for offset in range(0, size, _CHUNK):
        yield source.randbytes(min(_CHUNK, size - offset))


def digest_of(size: int, seed: int = 0) -> str:
    """Return the SHA-256 of `content(size, seed)` in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in content(size, seed):
        digest.update(chunk)
    return digest.hexdigest()


_TURNS = 5
"""Of the loop, in which everything that a server has begun comes to its end."""


@contextlib.asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Run a TCP server, by default on an ephemeral port; yield the port.  Open connections are
    cut at the end of the block."""
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
        # what was accepted just now has no task yet, and what is closed is so a turn later
        for _ in range(_TURNS):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handler: send back what comes, and close after the client has."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def answer_digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handler: wait for the client's half-close, then answer `SIZE DIGEST\\n` with the number
    of bytes and their SHA-256."""
    size, digest = await receive(reader)
    writer.write(f"{size} {digest}\n".encode())
    await writer.drain()


def send_content(size: int, seed: int = 0) -> Handler:
    """Return a handler that sends `content` first, half-closes, and waits for the client's end."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _send(writer, size, seed)
        while await reader.read(_CHUNK):
            pass

    return handler


def reset_after(size: int) -> Handler:
    """Return a handler that reads `size` bytes and then resets the connection."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(size)
        reset(writer)

    return handler


async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handler: never read from the socket, so that the sender must stop."""
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    await asyncio.Event().wait()


async def exchange(
    port: int, size: int, *, seed: int = 0, host: str = "127.0.0.1", half_close: bool = True
) -> None:
    """Through an `echo`: send `content`, read it back at the same time, half-close, and wait
    for the other side's end.

    Without `half_close` (ghostunnel ends both directions with the first) close once all is
    back.

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
    """Through an `answer_digest`: send `content`, half-close, and check the answer.

    Raises:
        AssertionError: the other side received something else.
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
    """Read until the other side has finished, or `size` bytes; return their number and SHA-256.

    Raises:
        ConnectionError: it ended with a reset.
    """
    digest, received = hashlib.sha256(), 0
    while received != size and (data := await reader.read(_CHUNK)):
        digest.update(data)
        received += len(data)
    return received, digest.hexdigest()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close the connection in whatever state it is."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def fill(sock: socket.socket, *, quiet: float = 0.5, limit: int = 256 << 20) -> int:
    """Send to a peer that doesn't read, until nothing was accepted for `quiet` seconds; return
    the number of bytes sent, `limit` at most.

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
