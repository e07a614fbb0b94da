"""Many connections at once to one port, in one thread: all are opened before any is closed."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass

from tests.helpers import traffic


@dataclass(frozen=True, slots=True)
class Crowd:
    """What became of the connections."""

    served: int
    """How many got their own word back while all of the others were open."""
    lost: int
    """How many ended or were reset instead."""


async def gather(port: int, count: int, *, host: str = "127.0.0.1") -> Crowd:
    """Open `count` connections to an `echo` at once; each says a word of its own, and stays until
    all have an answer or were lost."""
    raise_descriptor_limit()
    everybody = asyncio.Event()
    left = count
    served = 0

    async def visit(number: int) -> None:
        nonlocal left, served
        word = b"%09d" % number
        writer = None
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(word)
            answer = await reader.readexactly(len(word))
            served += answer == word
        except (OSError, asyncio.IncompleteReadError):
            pass
        left -= 1
        if not left:
            everybody.set()
        await everybody.wait()
        if writer is not None:
            await traffic.close(writer)

    async with asyncio.timeout(90):
        await asyncio.gather(*(visit(number) for number in range(count)))
    return Crowd(served, count - served)


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as it may allow itself."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
