"""An HTTP application that fails now and then, and clients of it, for the act with the L7 proxy.

`FlakyApplication` answers every second request for FLAKY with 503, and everything else with 200.
`HttpConnection` is a client's connection; the clients of `Load` make one for each request.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

import h11

from uproxy.demo.apps import connected
from uproxy.demo.processes import TIMEOUT_S
from uproxy.errors import UproxyError
from uproxy.lab.listening import LoopbackServer, Streams

_T = TypeVar("_T")

FLAKY = "/flaky"
STEADY = "/steady"
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: str


class FlakyApplication(LoopbackServer):
    """An HTTP server; `requests` is how many have reached it."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.requests = 0
        self._flaky = itertools.count(1)

    async def _serve(self, streams: Streams) -> None:
        reader, writer = streams
        http = h11.Connection(h11.SERVER)
        try:
            while await self._answer(http, reader, writer):
                http.start_next_cycle()
        except (OSError, h11.ProtocolError):
            pass  # the client is gone, or sent no HTTP
        finally:
            writer.transport.abort()

    async def _answer(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer the next request; return whether another may follow."""
        asked = await _event(http, reader, h11.Request)
        if asked is None:
            return False
        await _event(http, reader, h11.EndOfMessage)
        self.requests += 1
        target = asked.target.decode()
        fails = target == FLAKY and next(self._flaky) % 2 == 0
        body = f"{asked.method.decode()} {target}: {'try again' if fails else 'done'}\n".encode()
        head = h11.Response(
            status_code=503 if fails else 200, headers=[("content-length", str(len(body)))]
        )
        for part in (head, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()
        return http.our_state is h11.DONE and http.their_state is h11.DONE


class HttpConnection:
    """A client's connection, over which requests follow each other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a loopback port.

        Raises:
            UproxyError: nobody listens there.
        """
        return cls(*await connected(port, "web client"))

    async def ask(self, method: str, target: str) -> Answer:
        """Send a request, and return its answer.

        Raises:
            UproxyError: none came.
        """
        request = h11.Request(method=method, target=target, headers=[("host", "orders")])
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._writer.write(self._http.send(request) or b"")
                self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
                answer = await self._read()
        except (OSError, h11.ProtocolError) as error:  # TimeoutError is an OSError
            raise UproxyError(
                f"{method} {target} got no answer: {str(error) or 'timeout'}"
            ) from error
        if answer is None:
            raise UproxyError(f"{method} {target} got no answer: the connection was closed")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return answer

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # it was lost already

    async def _read(self) -> Answer | None:
        head = await _event(self._http, self._reader, h11.Response)
        if head is None:
            return None
        body = b""
        while isinstance(event := await _next(self._http, self._reader), h11.Data):
            body += bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            return None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, body.decode())


async def fetch(port: int, method: str, target: str) -> Answer:
    """Send one request over a connection of its own, and return its answer.

    Raises:
        UproxyError: nobody listens there, or no answer came.
    """
    connection = await HttpConnection.open(port)
    try:
        return await connection.ask(method, target)
    finally:
        await connection.close()


@dataclass(slots=True)
class Load:
    """Clients that fetch STEADY again and again inside the `async with`."""

    port: int
    clients: int
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    """What was answered with something else than 200, or not at all."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._tasks += [asyncio.create_task(self._run()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *why: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                answer = await fetch(self.port, "GET", STEADY)
            except UproxyError as error:
                self.failures.append(str(error))
                continue
            self.answered += 1
            if answer.status != 200:
                self.failures.append(f"status {answer.status}: {answer.body.strip()}")


async def _next(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | None:
    """Return the next event; None: the connection has ended."""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Event) and not isinstance(event, h11.ConnectionClosed):
            return event
        else:
            return None


async def _event(http: h11.Connection, reader: asyncio.StreamReader, kind: type[_T]) -> _T | None:
    """Return the next event of this kind, and skip others; None: the connection has ended."""
    while (event := await _next(http, reader)) is not None:
        if isinstance(event, kind):
            return event
    return None
