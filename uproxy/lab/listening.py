"""A TCP server on a free loopback port, with one task for each connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class LoopbackServer:
    """Listens inside its `async with` and calls `serve` for each connection; cancels all at the
    end."""

    def __init__(self, serve: Callable[[Streams], Awaitable[None]]) -> None:
        """`serve` must close its connection itself, also when it is cancelled."""
        self._serve = serve
        self._server: asyncio.Server | None = None  # set by __aenter__
        self._tasks: set[asyncio.Future[None]] = set()

    @property
    def port(self) -> int:
        """The port, which the kernel chose."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *why: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
