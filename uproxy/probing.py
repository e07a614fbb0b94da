"""Asks over HTTP, in clear, whether an L7 proxy may be used.

What comes back is bounded in time and size, and of it the status alone counts.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from uproxy import sockets
from uproxy.model import TcpAddress

LONGEST_S: Final = 2.0
"""Seconds for an answer at most, however long the interval is."""
MAX_LINE: Final = 1024
"""Bytes of the first line of an answer."""


async def probe(address: TcpAddress, path: str, limit: float) -> str | None:
    """Return why `GET path` there isn't answered with 200 within `limit` seconds, LONGEST_S at
    most; None: it is."""
    limit = min(limit, LONGEST_S)
    try:
        async with asyncio.timeout(limit):
            return _judge(await _ask(address, path))
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:  # the kernel's has a number
            return f"no answer from {address} in {limit:g} s"
        return sockets.explain(error.errno or 0, address, "its health listener")


async def _ask(address: TcpAddress, path: str) -> bytes:
    """Return the first line of the answer, or as much of it as there is."""
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=MAX_LINE)
    try:
        words = f"GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        writer.write(words.encode())
        with suppress(ValueError):  # longer than MAX_LINE
            return await reader.readline()
        return b""
    finally:
        writer.transport.abort()


def _judge(line: bytes) -> str | None:
    """Return why the first line of an answer isn't that of a 200; None: it is."""
    words = line.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return "it answers no HTTP" if line else "it closed without an answer"
    status = int(words[1])
    return None if status == 200 else f"it answers {status}"
