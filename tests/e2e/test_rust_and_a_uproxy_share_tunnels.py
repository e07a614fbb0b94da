"""What Rust's h2 over rustls does at the edges of a tunnel, at either end of a running uProxy: full
windows, resets and their codes, refused streams, PING, GOAWAY."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.dialogue import ask, dial, talk
from tests.helpers.endings import ended, handshakes, only
from tests.helpers.http2_peers import Http2, Http2Server
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, TunnelsIn, TunnelsOut
from uproxy.lab.waiting import wait_until

MIB = 1 << 20
WINDOW = 1 << 18
"""What the program lets a peer send on a stream that isn't read."""

pytestmark = pytest.mark.slow


def caller(
    folder: Path, file_world: FileWorld, port: int, command: str, app: int, *words: int
) -> Http2:
    """Return the program as the end that opens streams to an application's port."""
    authority = f"127.0.0.1:{app}"
    return Http2(folder, "rust", command, file_world.theirs(WEB), port, authority, *words)


def told(http2: Http2) -> dict[str, Any]:
    """Wait for its end in order; return its last words."""
    with http2:
        assert http2.wait(60) == 0, http2.output
    return http2.printed[-1]


# Rust opens streams.


def test_a_ping_of_rust_is_answered(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> None:
    rust = caller(folder, file_world, door.port, "dial", echo_app, 1, 1)
    assert told(rust) == {"good": 1, "last_failure": ""}
    assert rust.said("is_ping_answered") == [True]


def test_a_stream_that_rust_does_not_read_keeps_to_its_window_and_stalls_alone(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> None:
    """When it is read its bytes come whole, and so do those that were held up on the way there."""
    size = 48 * MIB
    rust = caller(folder, file_world, door.port, "stall", echo_app, size)
    with ended(door, "closed", count=2, timeout=60) as lines:
        assert told(rust) == {"good": 1}
    assert rust.printed[-2] == {"unread": WINDOW, "beyond": False, "is_all_sent": False}
    assert [line["bytes_sent"] for line in lines] == [size // 16, size]


def test_a_reset_of_rust_resets_the_application_and_leaves_the_tunnel(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    ends: list[str] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await traffic.echo(reader, writer)
        except ConnectionResetError:
            ends.append("reset")
            raise
        ends.append("in order")

    with (
        background(echo) as app,
        TunnelsIn(folder, file_world.ours(ORDERS), app, engine=engine) as door,
    ):
        door.wait_until_ready()
        assert told(caller(folder, file_world, door.port, "cancel", app)) == {"good": 1}
        wait_until(lambda: len(ends) == 2, "the application to see both ends")
        wait_until(lambda: len(door.accesses) == 2, "two access lines")
        assert sorted(ends) == ["in order", "reset"]
        assert {line["outcome"] for line in door.accesses} == {"reset", "closed"}
        assert handshakes(door) == 1


def test_rust_is_told_of_an_applications_reset_by_its_code(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    """RFC 9113 §8.5."""
    with (
        background(traffic.reset_after(5)) as app,
        TunnelsIn(folder, file_world.ours(ORDERS), app, engine=engine) as door,
    ):
        door.wait_until_ready()
        with ended(door, "reset"):
            said = told(caller(folder, file_world, door.port, "await", app))
        assert said == {"reset": "CONNECT_ERROR"}


def test_rust_is_told_that_a_uproxy_drains_and_ends_what_it_has_open(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    timeouts = {"drain_delay": "0", "drain": "60s"}
    ours = file_world.ours(ORDERS)
    with TunnelsIn(folder, ours, echo_app, engine=engine, timeouts=timeouts) as door:
        door.wait_until_ready()
        with caller(folder, file_world, door.port, "hold", echo_app, MIB) as rust:
            wait_until(lambda: rust.said("is_open"), "a stream to be open")
            door.send(signal.SIGTERM)
            assert rust.wait(30) == 0, rust.output
        assert rust.said("goaway") == ["NO_ERROR"]
        assert rust.printed[-1] == {"good": 1}
        assert door.wait() == 0
        assert [line["outcome"] for line in door.accesses] == ["closed"]


# Rust takes streams.


@pytest.fixture(scope="module")
def server(folder: Path, file_world: FileWorld) -> Iterator[Http2Server]:
    with Http2Server(folder, "rust", file_world.theirs(ORDERS)) as rust:
        yield rust


def test_a_ping_to_a_uproxy_that_dials_is_answered(
    folder: Path, file_world: FileWorld, server: Http2Server, echo_app: int, engine: str
) -> None:
    before = len(server.said("is_ping_answered"))
    with TunnelsOut(
        folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        assert ask(uproxy.port) == b"hello\n"
        wait_until(lambda: server.said("is_ping_answered")[before:] == [True], "the answer")


def test_a_callers_reset_reaches_rust_by_its_code(
    folder: Path, file_world: FileWorld, server: Http2Server, echo_app: int, engine: str
) -> None:
    before = len(server.said("reset"))
    with TunnelsOut(
        folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "reset"), dial(uproxy.port) as client:
            talk(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: server.said("reset")[before:] == ["CANCEL"], "the reset to be told")


def test_a_stream_that_rust_refuses_is_asked_for_again(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        Http2Server(folder, "rust", file_world.theirs(ORDERS), 100, 1) as rust,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=rust.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed"):
            assert ask(uproxy.port) == b"hello\n"
        assert rust.said("refused") == rust.said("authority") == [f"127.0.0.1:{echo_app}"]


def test_a_rust_that_refuses_every_stream_is_not_asked_for_ever(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        Http2Server(folder, "rust", file_world.theirs(ORDERS), 100, 1000) as rust,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=rust.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "connect_failed") as lines:
            assert ask(uproxy.port) == b""
        error = only(lines)["error"]
        assert "takes no stream on its tunnels" in error or "has as many streams as it may" in error
        assert 2 <= len(rust.said("refused")) <= 10
