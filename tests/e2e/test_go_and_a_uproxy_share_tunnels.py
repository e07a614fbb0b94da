"""Go's x/net/http2 opens streams at a running uProxy's door for tunnels, and takes some of one."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import crowds, traffic
from tests.helpers.background import background
from tests.helpers.crowds import Crowd
from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, handshakes, only
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import (
    ORDERS,
    UNWANTED,
    WEB,
    FileWorld,
    TunnelsIn,
    TunnelsOut,
)
from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process
from uproxy.lab.software.golang import peer
from uproxy.lab.waiting import wait_until

MIB = 1 << 20


class Go(Process):
    """The program in tests/peers/http2."""

    def __init__(
        self, folder: Path, command: str, identity: IdentityFiles, port: int, *words: str | int
    ) -> None:
        self.port = port
        argv = [peer("http2"), command, identity.svid, identity.key, identity.bundle, port, *words]
        super().__init__(list(map(str, argv)), folder / f"go-{command}-{free_port()}.log")

    @property
    def printed(self) -> list[dict[str, Any]]:
        """What it has written so far."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]


class GoServer(Go):
    """Takes at most `streams` at a time on a tunnel."""

    def __init__(self, folder: Path, identity: IdentityFiles, streams: int = 100) -> None:
        super().__init__(folder, "serve", identity, free_port(), streams)

    def is_ready(self) -> bool:
        return listens(self.port)


def dialled(
    folder: Path, identity: IdentityFiles, door: TunnelsIn, app: int, *, count: int, size: int
) -> dict[str, Any]:
    """Have Go open `count` streams at once on one tunnel, each with `size` bytes there and back;
    return how many came back whole, and why another one didn't."""
    authority = f"127.0.0.1:{app}"
    with Go(folder, "dial", identity, door.port, authority, count, size) as go:
        go.wait(60)
        return go.printed[-1]


@pytest.fixture(scope="module")
def server(folder: Path, file_world: FileWorld) -> Iterator[GoServer]:
    with GoServer(folder, file_world.theirs(ORDERS)) as go:
        yield go


@pytest.fixture(scope="module")
def to_server(
    folder: Path, file_world: FileWorld, server: GoServer, echo_app: int, engine: str
) -> Iterator[TunnelsOut]:
    with TunnelsOut(
        folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


# Go opens streams.


@pytest.mark.parametrize(("count", "size"), [(1, 16 * MIB), (100, 100_000)])
def test_streams_of_go_come_back_whole_on_one_tunnel(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int, count: int, size: int
) -> None:
    before = handshakes(door)
    with ended(door, "closed", count=count) as lines:
        said = dialled(folder, file_world.theirs(WEB), door, echo_app, count=count, size=size)
    assert said == {"good": count, "last_failure": ""}
    assert {line["src.identity"] for line in lines} == {WEB}
    assert {(line["bytes_recv"], line["bytes_sent"]) for line in lines} == {(size, size)}
    assert handshakes(door) == before + 1


def test_go_is_told_that_no_rule_allows_it(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> None:
    with ended(door, "denied", count=3):
        said = dialled(folder, file_world.theirs(UNWANTED), door, echo_app, count=3, size=1)
    assert said == {"good": 0, "last_failure": "answered with 403"}


def test_go_is_told_that_a_get_is_not_served(
    folder: Path, file_world: FileWorld, door: TunnelsIn
) -> None:
    with ended(door, "no_destination"), Go(folder, "get", file_world.theirs(WEB), door.port) as go:
        go.wait()
    assert go.printed[-1] == {"status": 400}


# Go takes streams.


def test_streams_to_go_come_back_whole_and_it_knows_who_calls(
    to_server: TunnelsOut, server: GoServer, echo_app: int
) -> None:
    with ended(to_server, "closed", count=2) as lines:
        asyncio.run(traffic.exchange(to_server.port, 8 * MIB + 1))
        assert ask(to_server.port) == b"hello\n"
    assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(WEB, ORDERS)}
    assert server.printed[-1] == {
        "method": "CONNECT", "authority": f"127.0.0.1:{echo_app}", "caller": WEB,
    }  # fmt: skip


@pytest.mark.parametrize("allowed", [20, 250])
def test_a_cold_burst_keeps_to_what_go_allows(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str, allowed: int
) -> None:
    with (
        GoServer(folder, file_world.theirs(ORDERS), allowed) as go,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=go.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=150, timeout=30):
            assert asyncio.run(crowds.gather(uproxy.port, 150)) == Crowd(150, 0)


def test_a_half_close_comes_through_go(folder: Path, file_world: FileWorld, engine: str) -> None:
    with (
        background(traffic.answer_digest) as app,
        GoServer(folder, file_world.theirs(ORDERS)) as go,
        TunnelsOut(folder, file_world.ours(WEB), app, end=go.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed"):
            asyncio.run(traffic.deliver(uproxy.port, MIB + 7))


def test_a_reset_behind_go_is_a_reset(folder: Path, file_world: FileWorld, engine: str) -> None:
    with (
        background(traffic.reset_after(5)) as app,
        GoServer(folder, file_world.theirs(ORDERS)) as go,
        TunnelsOut(folder, file_world.ours(WEB), app, end=go.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "reset"),
            socket.create_connection(("127.0.0.1", uproxy.port), 10) as client,
        ):
            client.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                client.recv(100)


def test_an_application_that_is_down_behind_go_is_told_of_in_words(
    folder: Path, file_world: FileWorld, server: GoServer, engine: str
) -> None:
    with TunnelsOut(
        folder, file_world.ours(WEB), free_port(), end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "connect_failed") as lines:
            assert ask(uproxy.port) == b""
        assert "answered the CONNECT with 503" in only(lines)["error"]


def test_a_go_that_refuses_our_certificate_is_named_with_its_alert(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    """Under TLS 1.3 the alert comes when our handshake has ended."""
    theirs = file_world.theirs(ORDERS)
    others = folder / "others.pem"
    others.write_bytes(file_world.stranger_ca.pem)
    with (
        GoServer(folder, replace(theirs, bundle=others)) as go,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=go.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "handshake_failed") as lines:
            assert ask(uproxy.port) == b""
        assert "the peer refused our certificate (unknown ca): " in only(lines)["error"]
        assert go.output.count("failed to verify certificate") == 1  # it was dialled once


def test_a_go_that_drains_keeps_what_is_open_and_gets_nothing_new(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        GoServer(folder, file_world.theirs(ORDERS)) as go,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=go.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with socket.create_connection(("127.0.0.1", uproxy.port), 10) as old:
            old.sendall(b"before")
            assert old.recv(6, socket.MSG_WAITALL) == b"before"
            go.send(signal.SIGTERM)
            wait_until(lambda: not listens(go.port), "it to stop listening")
            with ended(uproxy, "connect_failed"):
                wait_until(lambda: ask(uproxy.port) == b"", "GOAWAY to be heard")
            old.sendall(b"after")
            assert old.recv(5, socket.MSG_WAITALL) == b"after"
        assert go.wait() == 0
        wait_until(lambda: uproxy.accesses[-1]["outcome"] == "closed", "its line in the log")
