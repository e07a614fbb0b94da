"""The applications of the demonstration: what they are to the story, and an embedded echo.

They know nothing of TLS, identities or uProxy: a server that listens on loopback, a client
that connects to a port of loopback.  `distribution` has the ones that nobody here wrote.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, Self

from uproxy.demo.processes import PATIENCE_S
from uproxy.errors import UproxyError
from uproxy.lab.listening import Listener, Streams

Doors = Mapping[str, int]
"""Service to the port of loopback at which the clients' workload reaches it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a client has done, and what proves it."""

    client: str
    server: str
    done: str
    """In the past tense, for the check mark."""


class Session(Protocol):
    """A connection that stays open."""

    async def ask(self) -> str:
        """The server's own name for this connection, asked of the server now.

        Raises:
            UproxyError: no answer comes: the connection is lost.
        """

    async def close(self) -> None: ...


class Applications(Protocol):
    """Some servers and their clients."""

    @property
    def servers(self) -> Mapping[str, int]:
        """Service to the port of loopback where its server listens; they are running."""

    async def talk(self, doors: Doors, marker: str) -> list[Exchange]:
        """Use every service once, sending and receiving `marker` in the clear.

        Raises:
            UproxyError: a service didn't answer, or not as it should.
        """

    async def open_session(self, doors: Doors) -> Session:
        """Connect and stay connected.

        Raises:
            UproxyError: nobody answers.
        """


class EchoApplications(Listener):
    """A server that numbers its connections and answers every line with it; needs nothing."""

    def __init__(self) -> None:
        super().__init__(self._echo)
        self._numbers = itertools.count(1)

    @property
    def servers(self) -> Mapping[str, int]:
        """One."""
        return {"echo": self.port}

    async def talk(self, doors: Doors, marker: str) -> list[Exchange]:
        """Send a line, get it back."""
        session = await EchoSession.open(doors["echo"])
        try:
            answer = await session.send(marker)
        finally:
            await session.close()
        if not answer.endswith(f": {marker}"):
            raise UproxyError(f"the echo of {marker!r} came back as {answer!r}")
        return [Exchange("client", "echo", f"sent {marker!r}, got it back")]

    async def open_session(self, doors: Doors) -> Session:
        """A connection of its own."""
        return await EchoSession.open(doors["echo"])

    async def _echo(self, streams: Streams) -> None:
        reader, writer = streams
        number = next(self._numbers)
        try:
            while line := await reader.readline():
                writer.write(b"connection %d: %b" % (number, line))
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, ValueError):
            pass  # a client that breaks off, or whose line never ends, gets no more answers
        finally:
            writer.transport.abort()


class EchoSession:
    """The client's side of an echo connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect.

        Raises:
            UproxyError: nobody listens there.
        """
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        except OSError as error:
            raise UproxyError(f"the echo client can't connect: {error}") from error

    async def ask(self) -> str:
        """The server's number for this connection."""
        name, _, _ = (await self.send("still there?")).partition(":")
        return f"the echo server's {name}"

    async def send(self, text: str) -> str:
        """One line; returns the server's.

        Raises:
            UproxyError: none came.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._writer.write(f"{text}\n".encode())
                line = await self._reader.readline()
        except OSError as error:  # TimeoutError is one
            raise UproxyError(f"the echo connection is lost: {error or 'no answer'}") from error
        if not line.endswith(b"\n"):
            raise UproxyError("the echo connection ended in the middle of a line")
        return line.decode().rstrip("\n")

    async def close(self) -> None:
        """End it in order."""
        self._writer.close()
        with suppress(OSError):  # it was lost: closed all the same
            await self._writer.wait_closed()
