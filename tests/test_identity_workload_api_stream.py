"""The socket under a call: every way to fail becomes one ending in words."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.helpers.workload_api import FakeAgent, good_response
from uproxy.identity.workload_api import stream
from uproxy.identity.workload_api.grpc import Ended, Event, Message
from uproxy.identity.workload_api.stream import explain, watch
from uproxy.lab.ports import free_port
from uproxy.model import Address, TcpAddress, UnixAddress

Silent = tuple[Address, bytearray]


async def ending_of(address: Address) -> Ended:
    events: list[Event] = [event async for event in watch(address)]
    assert len(events) == 1
    assert isinstance(events[0], Ended)
    return events[0]


async def test_a_missing_socket_asks_whether_the_agent_runs(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    ending = await ending_of(UnixAddress(str(path)))

    assert ending == Ended(f"agent socket {path} does not exist: is the SPIRE agent running?")


async def test_a_left_over_socket_says_that_its_agent_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    ending = await ending_of(UnixAddress(str(path)))

    assert ending.text == (
        f"agent socket {path} refused the connection: the agent that made it is gone"
    )


async def test_a_tcp_endpoint_that_refuses_is_named() -> None:
    address = TcpAddress("127.0.0.1", free_port())

    ending = await ending_of(address)

    assert ending.text.startswith(f"{address} refused the connection")


async def test_a_path_too_long_for_a_socket_is_an_ending_too() -> None:
    ending = await ending_of(UnixAddress("/tmp/" + "x" * 200))

    assert "can't be reached" in ending.text


async def test_a_server_that_hangs_up_is_an_ending(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.sock")

    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(hang_up, path):
        ending = await ending_of(UnixAddress(path))

    assert ending.status is None
    assert ending.text.startswith("the connection ")


async def test_a_server_of_another_protocol_is_an_ending(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.sock")

    def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(greet, path):
        ending = await ending_of(UnixAddress(path))

    assert ending == Ended("the endpoint doesn't speak HTTP/2")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "may not be opened by this user"),
        (TimeoutError(), "does not answer: is the agent stopped or overloaded?"),
        (OSError(errno.ENOTDIR, "Not a directory"), "can't be reached: not a directory"),
    ],
)
def test_other_errors_are_explained(error: OSError, said: str) -> None:
    text = explain(UnixAddress("/run/agent.sock"), error)

    assert text.startswith("agent socket /run/agent.sock ")
    assert said in text


@pytest.fixture(params=["unix", "tcp"])
async def silent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Silent]:
    """An endpoint that takes connections and says only what it is told to."""
    said, connections = bytearray(), list[asyncio.StreamWriter]()

    async def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(bytes(said))

    address: Address
    if request.param == "unix":
        address = UnixAddress(str(tmp_path / "agent.sock"))
        server = await asyncio.start_unix_server(take, address.path)
    else:
        address = TcpAddress("127.0.0.1", free_port())
        server = await asyncio.start_server(take, address.host, address.port)
    yield address, said
    for each in connections:
        each.close()
    server.close()


async def test_an_endpoint_that_says_nothing_is_given_up(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_BYTES_S", 0.1)

    ending = await ending_of(silent[0])

    assert ending.text == "no answer within 0.1 s: is the agent stopped or overloaded?"


async def test_an_endpoint_that_greets_and_never_answers_is_given_up(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_MESSAGE_S", 0.3)
    address, said = silent
    said += b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # an empty SETTINGS frame

    ending = await ending_of(address)

    assert ending.text == "no answer within 0.3 s: is the agent stopped or overloaded?"


async def test_a_stream_that_has_answered_may_be_silent_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_BYTES_S", 1.0)
    monkeypatch.setattr(stream, "FIRST_MESSAGE_S", 1.0)
    async with FakeAgent(tmp_path / "agent.sock") as agent:
        agent.send(good_response())
        events = watch(UnixAddress(str(tmp_path / "agent.sock")))
        assert isinstance(await anext(events), Message)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await anext(events)
        await events.aclose()


@pytest.mark.parametrize("silent", ["tcp"], indirect=True)
async def test_over_tcp_the_kernel_looks_for_a_host_that_is_gone(silent: Silent) -> None:
    address, _ = silent
    _reader, writer = await stream._connect(address)
    connection = writer.get_extra_info("socket")
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    tcp = socket.IPPROTO_TCP
    idle, interval, count = (
        connection.getsockopt(tcp, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert idle + interval * count <= 60
    writer.close()
