"""Steady requests over HTTP while something is done to what is in between: what do clients see?"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from uproxy.lab.waiting import wait_until

PASSING, STAYING = 4, 6
"""Clients that open a connection for each request, and that keep theirs."""
_PAUSE_S = 0.01
_TIMEOUT_S = 20.0


class Visits:
    """Clients of a loopback port, in a thread, inside the `with` block."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="visits")
        self._stopping = False
        self._running: asyncio.Future[list[None]] | None = None
        self.answered = 0
        self.failures: list[str] = []
        """New connections whose only request wasn't answered with 200."""
        self.lost: list[str] = []
        """Connections that broke after an answer, in the middle of a request or before one."""

    def more(self, count: int = 100) -> None:
        """Wait until so many more requests were answered."""
        goal = self.answered + count
        wait_until(lambda: self.answered >= goal, f"{count} more answers", 30)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(10)
        self.more()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stopping = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(2 * _TIMEOUT_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _begin(self) -> None:
        staying = [_Visitor(self._port) for _ in range(STAYING)]
        for each in staying:  # one after the other, so that they are spread over what serves them
            await each.visit(self, stays=True)
        passing = (self._pass() for _ in range(PASSING))
        self._running = asyncio.gather(*passing, *map(self._stay, staying))

    async def _end(self) -> None:
        assert self._running is not None
        await self._running

    async def _pass(self) -> None:
        while not self._stopping:
            try:
                await _Visitor(self._port).visit(self)
            except _ERRORS as error:
                self.failures.append(repr(error))

    async def _stay(self, visitor: _Visitor) -> None:
        while not self._stopping:
            try:
                while await visitor.visit(self, stays=not self._stopping):
                    continue
            except _ERRORS as error:
                (self.lost if visitor.answers else self.failures).append(repr(error))
            visitor = _Visitor(self._port)


class _Visitor:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.answers = 0

    async def visit(self, visits: Visits, *, stays: bool = False) -> bool:
        """Make a request and pause; return whether the connection stays open for another.

        Raises:
            OSError, EOFError: the connection broke.
            ValueError: the answer isn't 200.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                stays = await self._visit(stays)
            self.answers += 1
            visits.answered += 1
        except BaseException:
            stays = False
            raise
        finally:
            if not stays:
                self._close()
            await asyncio.sleep(_PAUSE_S)
        return stays

    async def _visit(self, stays: bool) -> bool:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n%s\r\n" % (b"" if stays else _CLOSE))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(size)
        status = head.partition(b"\r\n")[0].decode()
        if " 200 " not in status:
            raise ValueError(status)
        return stays and _CLOSE not in head

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()


_CLOSE = b"connection: close\r\n"
_ERRORS = (OSError, EOFError, ValueError)
