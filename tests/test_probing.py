from __future__ import annotations

import asyncio

import pytest

from tests.helpers import traffic
from tests.helpers.streams import FullQueue
from uproxy.lab.ports import free_port
from uproxy.model import TcpAddress
from uproxy.probing import MAX_LINE, probe


def answering(answer: bytes, asked: list[bytes] | None = None) -> traffic.Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(request)
        writer.write(answer)
        await writer.drain()

    return handle


async def asked_of(answer: bytes, limit: float = 5.0) -> str | None:
    async with traffic.serving(answering(answer)) as port:
        return await probe(TcpAddress("127.0.0.1", port), "/ready", limit)


async def test_200_is_healthy_and_nothing_else_is_asked() -> None:
    asked: list[bytes] = []
    async with traffic.serving(answering(b"HTTP/1.1 200 OK\r\n\r\nLIVE", asked)) as port:
        assert await probe(TcpAddress("127.0.0.1", port), "/ready?x=1", 5.0) is None
    host = f"127.0.0.1:{port}".encode()
    assert asked == [b"GET /ready?x=1 HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "it answers 503"),
        (b"HTTP/1.0 204 No Content\r\n\r\n", "it answers 204"),
        (b"SSH-2.0-OpenSSH\r\n", "it answers no HTTP"),
        (b"HTTP/1.1 \r\n", "it answers no HTTP"),
        (b"", "it closed without an answer"),
        (b"HTTP/1.1 200" + b"x" * 4 * MAX_LINE, "it closed without an answer"),
    ],
)
async def test_anything_else_is_said(answer: bytes, why: str) -> None:
    assert await asked_of(answer) == why


async def test_who_is_silent_has_so_long_and_no_longer() -> None:
    async with traffic.serving(traffic.never_read) as port:
        address = TcpAddress("127.0.0.1", port)
        assert await probe(address, "/", 0.1) == f"no answer from {address} in 0.1 s"


async def test_who_is_not_there_is_said() -> None:
    gone = TcpAddress("127.0.0.1", free_port())
    assert "refused" in str(await probe(gone, "/", 5.0))
    full = FullQueue()
    assert str(await probe(full.address, "/", 0.1)).startswith("no answer from ")
    full.close()
