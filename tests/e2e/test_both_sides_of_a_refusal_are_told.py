"""Two real uProxies: what the caller's says when the called side has refused it, and where."""

from __future__ import annotations

import json
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.endings import Line, ended, only
from uproxy.cli import main
from uproxy.cli.dry_run import REFUSED
from uproxy.lab.mesh import (
    ORDERS,
    STRANGER,
    UNWANTED,
    WEB,
    FileWorld,
    Inbound,
    Outbound,
    TunnelsIn,
    TunnelsOut,
    own_serial,
)
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until


@pytest.fixture
def world(tmp_path: Path) -> FileWorld:
    return FileWorld(tmp_path)


@pytest.fixture
def app() -> Iterator[int]:
    with background(traffic.echo) as port:
        yield port


def status_of(uproxy: Uproxy) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(uproxy.request("/status.json")[1])
    return status


def joined(callers: Line, called: Line) -> None:
    """Both lines are about one connection, and say so."""
    there = (callers["local.addr"], callers["dst.addr"])
    assert (called["src.addr"], called["local.addr"]) == there


def ready(*uproxies: Uproxy) -> None:
    for uproxy in uproxies:
        uproxy.wait_until_ready()


def call_in_vain(uproxy: Outbound | TunnelsOut) -> None:
    with socket.create_connection(("127.0.0.1", uproxy.port), timeout=10) as client:
        client.sendall(b"anybody?")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_who_is_denied_there_is_told_where_to_look(
    tmp_path: Path, world: FileWorld, app: int
) -> None:
    with (
        Inbound(tmp_path, world.ours(ORDERS), app, allow=(WEB,)) as called,
        Outbound(tmp_path, world.ours(UNWANTED), called.port) as caller,
    ):
        ready(called, caller)
        with ended(caller, "peer_refused") as ours, ended(called, "denied", rule=None) as theirs:
            call_in_vain(caller)
        line = only(ours)
        assert line["level"] == "warning"
        assert str(line["error"]).endswith("probably refused there: its log says why")
        assert f"no rule allows {UNWANTED}" in only(theirs)["error"]
        joined(line, only(theirs))
        assert (line["door"], line["destination"]) == (f"127.0.0.1:{caller.port}", "peer")
        assert (only(theirs)["door"], only(theirs)["destination"]) == ("door", None)
        assert line["tls"] == only(theirs)["tls"]
        assert str(line["tls"]).startswith("TLSv1.3 ")
        [row] = status_of(caller)["denials"]
        assert (row["outcome"], row["identity"], row["destination"]) == (
            "peer_refused", ORDERS, "peer",
        )  # fmt: skip


def to_one(folder: Path, world: FileWorld) -> tuple[Uproxy, Uproxy]:
    called = Inbound(folder, world.ours(ORDERS), free_port())
    return called, Outbound(folder, world.ours(WEB), called.port)


def through_tunnels(folder: Path, world: FileWorld) -> tuple[Uproxy, Uproxy]:
    app = free_port()
    called = TunnelsIn(folder, world.ours(ORDERS), app, engine="native")
    return called, TunnelsOut(folder, world.ours(WEB), app, end=called.port, engine="native")


def through_tunnels_to_what_they_name(folder: Path, world: FileWorld) -> tuple[Uproxy, Uproxy]:
    app, port = free_port(), free_port()
    door = {"name": "tunnels", "listen": f"127.0.0.1:{port}", "transport": "hbone",
            "ports": "all", "addresses": ["127.0.0.1"]}  # fmt: skip
    called = TunnelsIn(folder, world.ours(ORDERS), app, engine="native", port=port, inbound=[door])
    return called, TunnelsOut(folder, world.ours(WEB), app, end=port, engine="native")


@pytest.mark.parametrize(
    ("pair", "outcome"),
    [
        (to_one, "peer_refused"),
        (through_tunnels, "connect_failed"),
        (through_tunnels_to_what_they_name, "connect_failed"),
    ],
)
def test_an_application_that_is_down_is_listed_there_and_marks_its_door(
    tmp_path: Path,
    world: FileWorld,
    pair: Callable[[Path, FileWorld], tuple[Any, Any]],
    outcome: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    called, caller = pair(tmp_path, world)
    with called, caller:
        ready(called, caller)
        with ended(caller, outcome), ended(called, "connect_failed", rule="callers"):
            call_in_vain(caller)
        status = status_of(called)
        [door], [row] = status["doors"], status["denials"]
        assert "connection refused" in door["trouble"]
        assert (row["outcome"], row["identity"]) == ("connect_failed", WEB)
        assert main(["status", "--admin", f"127.0.0.1:{called.admin_port}"]) == 0
        assert "1 application down" in capsys.readouterr().out.splitlines()[0]
        # the answer to a CONNECT tells the caller too
        [theirs] = status_of(caller)["doors"]
        assert (theirs["trouble"] is None) == (outcome == "peer_refused")


def test_whose_certificate_is_refused_there_is_told_what_may_be_missing(
    tmp_path: Path, world: FileWorld, app: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Inbound(tmp_path, world.ours(ORDERS), app) as called,
        Outbound(tmp_path, world.ours(STRANGER), called.port) as caller,
    ):
        ready(called, caller)
        with (
            ended(caller, "handshake_failed", opened=True) as ours,
            ended(called, "peer_untrusted", rule="X5-17") as theirs,
        ):
            call_in_vain(caller)
        line, [row] = only(theirs), status_of(called)["denials"]
        claimed = (STRANGER, own_serial(caller))
        assert (line["unproven.identity"], line["unproven.serial"]) == claimed
        assert (row["unproven_identity"], row["unproven_serial"]) == claimed
        assert (line["src.identity"], row["identity"]) == (None, None)
        joined(only(ours), line)
        both = [f"127.0.0.1:{uproxy.admin_port}" for uproxy in (caller, called)]
        assert main(["explain", *both]) == REFUSED
        told = capsys.readouterr().out
        assert told.count(" ago: ") == 1
        assert "no bundle for the trust domain stranger.test (X5-17)" in told
        assert told.endswith('"stranger.test": "stranger.test.pem"\n')
        words = (
            "the peer refused our certificate (unknown ca): it may lack a bundle for stranger.test"
        )
        assert only(ours)["error"] == words
        assert [row["reason"] for row in status_of(caller)["denials"]] == [words]


def test_what_explain_suggests_lets_the_caller_in(
    tmp_path: Path, world: FileWorld, app: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Inbound(tmp_path, world.ours(ORDERS), app, allow=(WEB,)) as called,
        Outbound(tmp_path, world.ours(UNWANTED), called.port) as caller,
    ):
        ready(called, caller)
        both = [f"127.0.0.1:{uproxy.admin_port}" for uproxy in (caller, called)]
        assert main(["explain", *both]) == 0
        assert "nothing was refused lately, 0 open" in capsys.readouterr().out
        with ended(caller, "peer_refused"), ended(called, "denied"):
            call_in_vain(caller)
        assert main(["explain", *both]) == REFUSED
        told = capsys.readouterr().out
        assert f"{UNWANTED} -> {ORDERS}, called's side: denied: no rule allows {UNWANTED}" in told
        assert main(["explain", both[1], "--as", UNWANTED]) == REFUSED
        suggested = textwrap.dedent(told[told.index("    authorization:") :])
        added = yaml.safe_load(suggested)["authorization"]
        called.change(authorization=[*called.config["authorization"], *added])
        wait_until(lambda: "unwanted-to-door" in called.request("/config_dump")[1], "the new rule")
        with socket.create_connection(("127.0.0.1", caller.port), timeout=10) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_a_wrong_workload_at_an_address_is_suggested_only_to_who_asks_about_it(
    tmp_path: Path, world: FileWorld, app: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both end tunnels at one port, and orders answers where the other one is expected."""
    end = free_port()
    called = TunnelsIn(tmp_path, world.ours(ORDERS), app, engine="native", port=end)
    other = TunnelsIn(
        tmp_path, world.ours(UNWANTED), app, engine="native", port=end, host="127.0.0.2"
    )
    caller = TunnelsOut(
        tmp_path, world.ours(WEB), app, end=end, engine="native", expect=(UNWANTED,)
    )
    with called, other, caller:
        ready(called, other, caller)
        with ended(caller, "peer_unexpected"), ended(called, "handshake_failed", opened=False):
            call_in_vain(caller)
        addresses = [f"127.0.0.1:{each.admin_port}" for each in (caller, other, called)]
        assert main(["explain", *addresses[:2]]) == 0
        assert f"{WEB} -> {UNWANTED}: nothing was refused lately" in capsys.readouterr().out
        assert main(["explain", addresses[0], addresses[2]]) == REFUSED
        told = capsys.readouterr().out
        assert f"wanted {UNWANTED}, found {ORDERS}" in told
        assert f'identities: ["{ORDERS}"]' in told


def test_debug_tells_each_accept_handshake_and_dial(
    tmp_path: Path, world: FileWorld, app: int
) -> None:
    debug = {"level": "debug"}
    with (
        Inbound(tmp_path, world.ours(ORDERS), app) as called,
        Outbound(tmp_path, world.ours(WEB), called.port, free_port(), log=debug) as caller,
    ):
        ready(called, caller)
        with ended(caller, "closed", count=2) as lines:
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", caller.port), timeout=10) as client:
                    client.sendall(b"hello")
                    assert client.recv(5) == b"hello"
        said = [str(line.get("message")) for line in caller.lines]
        for line in lines:
            dialled = f"dialled {line['dst.addr']} from {line['local.addr']}"
            [number] = [each.split(":")[0] for each in said if each.endswith(dialled)]
            accepted = f"{number}: accepted from {line['src.addr']} at door {line['door']}"
            assert accepted in said
            assert [each for each in said if each.startswith(f"{number}: handshake with {ORDERS}")]
        assert [each for each in said if "failed: connection refused by" in each]
