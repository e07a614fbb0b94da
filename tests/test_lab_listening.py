"""Listeners of the demonstration: every connection ends with them."""

from __future__ import annotations

import asyncio

from uproxy.lab.listening import LoopbackServer, Streams


async def test_every_connection_is_served_until_the_end() -> None:
    endings: list[str] = []

    async def serve(streams: Streams) -> None:
        try:
            while line := await streams[0].readline():
                streams[1].write(line.upper())
        finally:
            endings.append("ended")
            streams[1].transport.abort()

    async with LoopbackServer(serve) as listener:
        clients = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
        for reader, writer in clients:
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
        assert endings == []
    assert endings == ["ended", "ended"]
    for reader, writer in clients:
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
