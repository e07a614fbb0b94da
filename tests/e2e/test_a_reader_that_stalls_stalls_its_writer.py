"""Back-pressure through two uProxies: who doesn't read isn't sent to, and loses nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.helpers import traffic
from tests.helpers.memory import Growth
from tests.helpers.pair import MTLS, TUNNELS_IN_TIME, Pair
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually

MIB = 1 << 20
SIZE = 160 * MIB
HELD = 80 * MIB
"""More than the kernel's buffers on the way hold, three connections long, and far less than is
sent."""
QUIET = 0.5
"""Seconds without a byte after which a writer counts as stalled."""


@dataclass
class Writer:
    """Sends content and counts what was taken."""

    size: int = SIZE
    sent: int = 0
    moved_at: float = 0.0

    async def send(self, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        for chunk in traffic.content(self.size, seed=7):
            writer.write(chunk)
            await writer.drain()
            self.sent += len(chunk)
            self.moved_at = loop.time()
        writer.write_eof()

    def stalled(self) -> bool:
        return bool(self.sent) and asyncio.get_running_loop().time() - self.moved_at > QUIET


@dataclass
class StallingApplication:
    """Reads nothing before it is told, then everything."""

    told: asyncio.Event = field(default_factory=asyncio.Event)
    answers: list[tuple[int, str]] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.told.wait()
        self.answers.append(await traffic.receive(reader))


@pytest.fixture(scope="module")
def app_port() -> int:
    return free_port()


@pytest.fixture(scope="module", params=[MTLS, *TUNNELS_IN_TIME], ids=str)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, app_port: int
) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair"), {"app": app_port}, request.param) as pair:
        yield pair


async def test_an_application_that_stalls_gets_all_when_it_resumes(
    pair: Pair, app_port: int
) -> None:
    app, client = StallingApplication(), Writer()
    async with traffic.serving(app.handle, port=app_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.port("app"))
        sending = asyncio.create_task(client.send(writer))
        await eventually(client.stalled, "the client to be stopped")
        assert client.sent < HELD
        app.told.set()
        await sending
        assert await reader.read() == b""
        await traffic.close(writer)
    assert app.answers == [(SIZE, traffic.digest_of(SIZE, seed=7))]


async def test_a_client_that_stalls_gets_all_when_it_resumes(pair: Pair, app_port: int) -> None:
    app = Writer()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await app.send(writer)
        await reader.read()

    async with traffic.serving(handle, port=app_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.port("app"))
        await eventually(app.stalled, "the application to be stopped")
        assert app.sent < HELD
        received = await traffic.receive(reader)
        await traffic.close(writer)
    assert received == (SIZE, traffic.digest_of(SIZE, seed=7))


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may measure uProxy's memory")
async def test_stalled_connections_cost_little_and_hold_nobody_up(
    pair: Pair, app_port: int
) -> None:
    app, clients = StallingApplication(), [Writer(64 * MIB) for _ in range(20)]
    earlier = {uproxy: len(uproxy.accesses) for uproxy in (pair.orders, pair.frontend)}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # the first byte says what the client wants: to be stalled or to be answered
        if await reader.readexactly(1) == b"!":
            await traffic.echo(reader, writer)
        else:
            await app.handle(reader, writer)

    async def stall(client: Writer) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", pair.port("app"))
        writer.write(b"?")
        try:
            await client.send(writer)
        finally:
            traffic.reset(writer)

    async with traffic.serving(handle, port=app_port):
        with Growth([pair.frontend.pid, pair.orders.pid]) as growth:
            stalling = [asyncio.create_task(stall(client)) for client in clients]
            await eventually(lambda: all(client.stalled() for client in clients), "all to stall")
            reader, writer = await asyncio.open_connection("127.0.0.1", pair.port("app"))
            writer.write(b"!hello")
            assert await reader.readexactly(5) == b"hello"
            await traffic.close(writer)
            for task in stalling:
                task.cancel()
            await asyncio.gather(*stalling, return_exceptions=True)
        app.told.set()
        await eventually(
            lambda: all(len(uproxy.accesses) >= had + 21 for uproxy, had in earlier.items()),
            "every connection to have ended",
            timeout=60,
        )
    # seen: a quarter of a MiB each; what they would send is 1280 MiB
    assert max(growth.peak.values()) < 32 * MIB, growth.peak
