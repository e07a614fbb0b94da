"""HTTP/2 of Go (x/net/http2), of Node (nghttp2) and of Rust (h2 over rustls, which ztunnel is made
of) opens streams at a running uProxy's door for tunnels, and takes some of one."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import crowds, traffic
from tests.helpers.background import background
from tests.helpers.crowds import Crowd
from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, handshakes, only
from tests.helpers.http2_peers import Http2, Http2Server, dialled
from uproxy.lab.mesh import ORDERS, UNWANTED, WEB, FileWorld, TunnelsIn, TunnelsOut
from uproxy.lab.ports import free_port, listens
from uproxy.lab.waiting import wait_until

MIB = 1 << 20
KINDS = ["go", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("node", "rust"))]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(folder: Path, file_world: FileWorld, kind: str) -> Iterator[Http2Server]:
    with Http2Server(folder, kind, file_world.theirs(ORDERS)) as server:
        yield server


@pytest.fixture(scope="module")
def to_server(
    folder: Path, file_world: FileWorld, server: Http2Server, echo_app: int, engine: str
) -> Iterator[TunnelsOut]:
    with TunnelsOut(
        folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


# It opens streams.


@pytest.mark.parametrize(("count", "size"), [(1, 16 * MIB), (100, 100_000)])
def test_their_streams_come_back_whole_on_one_tunnel(
    folder: Path,
    file_world: FileWorld,
    kind: str,
    door: TunnelsIn,
    echo_app: int,
    count: int,
    size: int,
) -> None:
    before, web = handshakes(door), file_world.theirs(WEB)
    with ended(door, "closed", count=count) as lines:
        said = dialled(folder, kind, web, door.port, echo_app, count=count, size=size)
    assert said == {"good": count, "last_failure": ""}
    assert {line["src.identity"] for line in lines} == {WEB}
    assert {(line["bytes_recv"], line["bytes_sent"]) for line in lines} == {(size, size)}
    assert handshakes(door) == before + 1


def test_they_are_told_that_no_rule_allows_them(
    folder: Path, file_world: FileWorld, kind: str, door: TunnelsIn, echo_app: int
) -> None:
    unwanted = file_world.theirs(UNWANTED)
    with ended(door, "denied", count=3):
        said = dialled(folder, kind, unwanted, door.port, echo_app, count=3, size=1)
    assert said == {"good": 0, "last_failure": "answered with 403"}


def test_they_are_told_that_a_get_is_not_served(
    folder: Path, file_world: FileWorld, kind: str, door: TunnelsIn
) -> None:
    with (
        ended(door, "no_destination"),
        Http2(folder, kind, "get", file_world.theirs(WEB), door.port) as http2,
    ):
        http2.wait()
    assert http2.printed[-1] == {"status": 400}


# It takes streams.


def test_streams_to_them_come_back_whole_and_they_know_who_calls(
    to_server: TunnelsOut, server: Http2Server, echo_app: int
) -> None:
    before = len(server.printed)
    with ended(to_server, "closed", count=2) as lines:
        asyncio.run(traffic.exchange(to_server.port, 8 * MIB + 1))
        assert ask(to_server.port) == b"hello\n"
    assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(WEB, ORDERS)}
    call = {"method": "CONNECT", "authority": f"127.0.0.1:{echo_app}", "caller": WEB}
    assert server.printed[before:].count(call) == 2


@pytest.mark.parametrize("allowed", [20, 250])
def test_a_cold_burst_keeps_to_what_they_allow(
    folder: Path, file_world: FileWorld, kind: str, echo_app: int, engine: str, allowed: int
) -> None:
    with (
        Http2Server(folder, kind, file_world.theirs(ORDERS), allowed) as server,
        TunnelsOut(
            folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
        ) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=150, timeout=30):
            assert asyncio.run(crowds.gather(uproxy.port, 150)) == Crowd(150, 0)


def test_a_half_close_comes_through_them(
    folder: Path, file_world: FileWorld, kind: str, engine: str
) -> None:
    with (
        background(traffic.answer_digest) as app,
        Http2Server(folder, kind, file_world.theirs(ORDERS)) as server,
        TunnelsOut(folder, file_world.ours(WEB), app, end=server.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed"):
            asyncio.run(traffic.deliver(uproxy.port, MIB + 7))


def test_a_reset_behind_them_is_a_reset(
    folder: Path, file_world: FileWorld, kind: str, engine: str
) -> None:
    with (
        background(traffic.reset_after(5)) as app,
        Http2Server(folder, kind, file_world.theirs(ORDERS)) as server,
        TunnelsOut(folder, file_world.ours(WEB), app, end=server.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "reset"),
            socket.create_connection(("127.0.0.1", uproxy.port), 10) as client,
        ):
            client.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                client.recv(100)


def test_an_application_that_is_down_behind_them_is_told_of_in_words(
    folder: Path, file_world: FileWorld, server: Http2Server, engine: str
) -> None:
    with TunnelsOut(
        folder, file_world.ours(WEB), free_port(), end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "connect_failed") as lines:
            assert ask(uproxy.port) == b""
        assert "answered the CONNECT with 503" in only(lines)["error"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("go", "failed to verify certificate"),
        pytest.param("rust", "invalid peer certificate", marks=pytest.mark.slow),
    ],
)
def test_who_refuses_our_certificate_is_named_with_its_alert(
    folder: Path, file_world: FileWorld, kind: str, echo_app: int, engine: str, says: str
) -> None:
    """Under TLS 1.3 the alert comes when our handshake has ended; Node closes without one."""
    others = folder / "others.pem"
    others.write_bytes(file_world.stranger_ca.pem)
    theirs = replace(file_world.theirs(ORDERS), bundle=others)
    with (
        Http2Server(folder, kind, theirs) as server,
        TunnelsOut(
            folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
        ) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "handshake_failed") as lines:
            assert ask(uproxy.port) == b""
        assert "the peer refused our certificate (unknown ca): " in only(lines)["error"]
        assert server.output.count(says) == 1  # it was dialled once


def test_who_drains_keeps_what_is_open_and_gets_nothing_new(
    folder: Path, file_world: FileWorld, kind: str, echo_app: int, engine: str
) -> None:
    with (
        Http2Server(folder, kind, file_world.theirs(ORDERS)) as server,
        TunnelsOut(
            folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
        ) as uproxy,
    ):
        uproxy.wait_until_ready()
        with socket.create_connection(("127.0.0.1", uproxy.port), 10) as old:
            old.sendall(b"before")
            assert old.recv(6, socket.MSG_WAITALL) == b"before"
            server.send(signal.SIGTERM)
            wait_until(lambda: not listens(server.port), "it to stop listening")
            with ended(uproxy, "connect_failed"):
                wait_until(lambda: ask(uproxy.port) == b"", "GOAWAY to be heard")
            old.sendall(b"after")
            assert old.recv(5, socket.MSG_WAITALL) == b"after"
        assert server.wait() == 0
        wait_until(lambda: uproxy.accesses[-1]["outcome"] == "closed", "its line in the log")
