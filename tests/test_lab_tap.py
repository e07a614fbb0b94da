"""The tap between two ends: what passes, what is kept."""

from __future__ import annotations

import asyncio

from tests.helpers import traffic
from uproxy.lab import tap
from uproxy.lab.ports import free_port
from uproxy.lab.tap import Tap
from uproxy.lab.waiting import eventually

MIB = 1 << 20


async def test_what_passes_is_kept_each_way() -> None:
    async with traffic.serving(traffic.echo) as app, Tap(app) as tapped:
        reader, writer = await asyncio.open_connection("127.0.0.1", tapped.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await traffic.close(writer)
    (capture,) = tapped.captures
    assert [bytes(way) for way in capture.both_ways] == [b"hello", b"hello"]


async def test_it_changes_nothing_and_passes_the_half_close() -> None:
    async with traffic.serving(traffic.answer_digest) as app, Tap(app) as tapped:
        await traffic.deliver(tapped.port, 3 * MIB + 7)


async def test_it_keeps_no_more_than_it_says() -> None:
    async with traffic.serving(traffic.answer_digest) as app, Tap(app) as tapped:
        await traffic.deliver(tapped.port, 2 * tap.KEPT)
    assert len(tapped.captures[0].from_client) == tap.KEPT


async def test_a_client_is_cut_when_the_server_breaks_off() -> None:
    async with traffic.serving(traffic.reset_after(4)) as app, Tap(app) as tapped:
        reader, writer = await asyncio.open_connection("127.0.0.1", tapped.port)
        writer.write(b"data")
        assert await _ended(reader)
        await traffic.close(writer)


async def test_a_client_is_cut_when_nobody_is_there() -> None:
    async with Tap(free_port()) as tapped:
        reader, writer = await asyncio.open_connection("127.0.0.1", tapped.port)
        assert await _ended(reader)
        await traffic.close(writer)


async def test_its_end_cuts_what_is_open() -> None:
    async with traffic.serving(traffic.echo) as app:
        async with Tap(app) as tapped:
            reader, writer = await asyncio.open_connection("127.0.0.1", tapped.port)
            await eventually(lambda: tapped.captures, "the tap has met the client")
        assert await _ended(reader)
        await traffic.close(writer)


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
