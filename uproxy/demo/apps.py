"""The applications of the demonstration: their interface, and an echo server and client.

They know nothing of TLS, identities or uProxy: servers listen on loopback, clients connect to
a loopback port.  `distribution` has PostgreSQL and nginx.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, Self

from uproxy.demo.processes import TIMEOUT_S
from uproxy.errors import UproxyError
from uproxy.lab.listening import LoopbackServer, Streams

DoorPorts = Mapping[str, int]
"""The loopback port at which the client reaches each service."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a client did with a service."""

    client: str
    server: str
    done: str
    """In the past tense, as it is printed."""


class AppSession(Protocol):
    """A connection that stays open."""

    async def ask(self) -> str:
        """Ask the server how it names this connection, and return the answer.

        Raises:
            UproxyError: no answer comes: the connection is lost.
        """

    async def close(self) -> None: ...


class Applications(Protocol):
    """Some servers and their clients."""

    @property
    def servers(self) -> Mapping[str, int]:
        """The loopback port of each service's server; the servers are running."""

    async def talk(self, doors: DoorPorts, marker: str) -> list[Exchange]:
        """Use every service once, sending and receiving `marker` in plaintext.

        Raises:
            UproxyError: a service didn't answer, or not as it should.
        """

    async def call(self, doors: DoorPorts, times: int) -> str:
        """Use a service this many times, each over a short connection of its own; return the
        client's name.

        Raises:
            UproxyError: the service didn't answer, or not as it should.
        """

    async def open_session(self, doors: DoorPorts) -> AppSession:
        """Open a connection that stays open.

        Raises:
            UproxyError: nobody answers.
        """


class EchoApplications(LoopbackServer):
    """An echo server that numbers its connections and puts the number before each line."""

    def __init__(self) -> None:
        super().__init__(self._echo)
        self._numbers = itertools.count(1)

    @property
    def servers(self) -> Mapping[str, int]:
        """The port of the echo server."""
        return {"echo": self.port}

    async def talk(self, doors: DoorPorts, marker: str) -> list[Exchange]:
        """Send a line and check that it comes back."""
        await _echo_once(doors["echo"], marker)
        return [Exchange("client", "echo", f"sent {marker!r}, got it back")]

    async def call(self, doors: DoorPorts, times: int) -> str:
        """Send a line over each of several connections."""
        for number in range(times):
            await _echo_once(doors["echo"], f"call {number}")
        return "client"

    async def open_session(self, doors: DoorPorts) -> AppSession:
        """Open another connection."""
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
            pass  # the client is gone, or sent a line without end
        finally:
            writer.transport.abort()


async def _echo_once(port: int, text: str) -> None:
    """Send a line over a new connection and check that it comes back."""
    session = await EchoSession.open(port)
    try:
        answer = await session.send(text)
    finally:
        await session.close()
    if not answer.endswith(f": {text}"):
        raise UproxyError(f"the echo of {text!r} came back as {answer!r}")


async def connected(port: int, client: str) -> Streams:
    """Connect to a loopback port; `client` is who does, in the error.

    Raises:
        UproxyError: nobody listens there.
    """
    try:
        return await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise UproxyError(f"the {client} can't connect: {error}") from error


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
        return cls(*await connected(port, "echo client"))

    async def ask(self) -> str:
        """Return the server's number for this connection."""
        name, _, _ = (await self.send("still there?")).partition(":")
        return f"the echo server's {name}"

    async def send(self, text: str) -> str:
        """Send a line and return the server's line.

        Raises:
            UproxyError: no line came back.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._writer.write(f"{text}\n".encode())
                line = await self._reader.readline()
        except OSError as error:  # TimeoutError is one
            raise UproxyError(
                f"the echo connection is lost: {str(error) or 'no answer'}"
            ) from error
        if not line.endswith(b"\n"):
            raise UproxyError("the echo connection ended in the middle of a line")
        return line.decode().rstrip("\n")

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        with suppress(OSError):  # the connection was lost already
            await self._writer.wait_closed()
