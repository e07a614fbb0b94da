"""Node's http2, which is nghttp2, opens streams at a running uProxy's door for tunnels, and takes
some of one."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import crowds, traffic
from tests.helpers.background import background
from tests.helpers.crowds import Crowd
from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, handshakes, only
from tests.helpers.pair import ENGINES
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import ORDERS, UNWANTED, WEB, FileWorld, TunnelsIn, TunnelsOut
from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

MIB = 1 << 20
_PROGRAM = Path(__file__).parents[1] / "peers" / "node" / "http2.mjs"

pytestmark = pytest.mark.slow


class Node(Process):
    """The program in tests/peers/node."""

    def __init__(
        self, folder: Path, command: str, identity: IdentityFiles, port: int, *words: str | int
    ) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.skip("no node: `make test-all` installs it")
        self.port = port
        argv = [
            node, _PROGRAM, command, identity.svid, identity.key, identity.bundle, port, *words
        ]  # fmt: skip
        super().__init__(list(map(str, argv)), folder / f"node-{command}-{free_port()}.log")

    @property
    def printed(self) -> list[dict[str, Any]]:
        """What it has written so far."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]


class NodeServer(Node):
    """Takes at most `streams` at a time on a tunnel."""

    def __init__(self, folder: Path, identity: IdentityFiles, streams: int = 100) -> None:
        super().__init__(folder, "serve", identity, free_port(), streams)

    def is_ready(self) -> bool:
        return listens(self.port)


def dialled(
    folder: Path, identity: IdentityFiles, door: TunnelsIn, app: int, *, count: int, size: int
) -> dict[str, Any]:
    """Have Node open `count` streams at once on one tunnel, each with `size` bytes there and back;
    return how many came back whole, and why another one didn't."""
    authority = f"127.0.0.1:{app}"
    with Node(folder, "dial", identity, door.port, authority, count, size) as node:
        node.wait(60)
        return node.printed[-1]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def door(folder: Path, file_world: FileWorld, echo_app: int, engine: str) -> Iterator[TunnelsIn]:
    with TunnelsIn(folder, file_world.ours(ORDERS), echo_app, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


# Node opens streams.


@pytest.mark.parametrize(("count", "size"), [(1, 16 * MIB), (100, 100_000)])
def test_streams_of_node_come_back_whole_on_one_tunnel(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int, count: int, size: int
) -> None:
    before = handshakes(door)
    with ended(door, "closed", count=count) as lines:
        said = dialled(folder, file_world.theirs(WEB), door, echo_app, count=count, size=size)
    assert said == {"good": count, "last_failure": ""}
    assert {line["src.identity"] for line in lines} == {WEB}
    assert {(line["bytes_recv"], line["bytes_sent"]) for line in lines} == {(size, size)}
    assert handshakes(door) == before + 1


def test_node_is_told_that_no_rule_allows_it(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> None:
    with ended(door, "denied", count=3):
        said = dialled(folder, file_world.theirs(UNWANTED), door, echo_app, count=3, size=1)
    assert said == {"good": 0, "last_failure": "answered with 403"}


def test_node_is_told_that_a_get_is_not_served(
    folder: Path, file_world: FileWorld, door: TunnelsIn
) -> None:
    identity = file_world.theirs(WEB)
    with ended(door, "no_destination"), Node(folder, "get", identity, door.port) as node:
        node.wait()
    assert node.printed[-1] == {"status": 400}


# Node takes streams.


def test_streams_to_node_come_back_whole_and_it_knows_who_calls(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        NodeServer(folder, file_world.theirs(ORDERS)) as node,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=node.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=2) as lines:
            asyncio.run(traffic.exchange(uproxy.port, 8 * MIB + 1))
            assert ask(uproxy.port) == b"hello\n"
        assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(WEB, ORDERS)}
        assert node.printed[-1] == {
            "method": "CONNECT", "authority": f"127.0.0.1:{echo_app}", "caller": WEB,
        }  # fmt: skip


def test_a_cold_burst_keeps_to_what_node_allows(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        NodeServer(folder, file_world.theirs(ORDERS), 20) as node,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=node.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=150, timeout=30):
            assert asyncio.run(crowds.gather(uproxy.port, 150)) == Crowd(150, 0)


def test_a_half_close_comes_through_node(folder: Path, file_world: FileWorld, engine: str) -> None:
    with (
        background(traffic.answer_digest) as app,
        NodeServer(folder, file_world.theirs(ORDERS)) as node,
        TunnelsOut(folder, file_world.ours(WEB), app, end=node.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed"):
            asyncio.run(traffic.deliver(uproxy.port, MIB + 7))


def test_a_reset_behind_node_is_a_reset(folder: Path, file_world: FileWorld, engine: str) -> None:
    with (
        background(traffic.reset_after(5)) as app,
        NodeServer(folder, file_world.theirs(ORDERS)) as node,
        TunnelsOut(folder, file_world.ours(WEB), app, end=node.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "reset"),
            socket.create_connection(("127.0.0.1", uproxy.port), 10) as client,
        ):
            client.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                client.recv(100)


def test_an_application_that_is_down_behind_node_is_told_of_in_words(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    with (
        NodeServer(folder, file_world.theirs(ORDERS)) as node,
        TunnelsOut(
            folder, file_world.ours(WEB), free_port(), end=node.port, engine=engine
        ) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "connect_failed") as lines:
            assert ask(uproxy.port) == b""
        assert "answered the CONNECT with 503" in only(lines)["error"]


def test_a_node_that_drains_keeps_what_is_open_and_gets_nothing_new(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        NodeServer(folder, file_world.theirs(ORDERS)) as node,
        TunnelsOut(folder, file_world.ours(WEB), echo_app, end=node.port, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with socket.create_connection(("127.0.0.1", uproxy.port), 10) as old:
            old.sendall(b"before")
            assert old.recv(6, socket.MSG_WAITALL) == b"before"
            node.send(signal.SIGTERM)
            wait_until(lambda: not listens(node.port), "it to stop listening")
            with ended(uproxy, "connect_failed"):
                wait_until(lambda: ask(uproxy.port) == b"", "GOAWAY to be heard")
            old.sendall(b"after")
            assert old.recv(5, socket.MSG_WAITALL) == b"after"
        assert node.wait() == 0
        wait_until(lambda: uproxy.accesses[-1]["outcome"] == "closed", "its line in the log")
