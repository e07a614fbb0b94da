"""Connections that conntrack takes no part in, or was told lies about: none is made in clear."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import capture_forged
from tests.helpers.capture_world import HOST, HOST6, POD, POD6, World, existing, run

SOURCE = 40123


@pytest.fixture
def world(tmp_path: Path, bpffs: Path) -> Iterator[World]:
    with existing(World(tmp_path, bpffs, "nft")) as made:
        yield made


def leave_alone(world: World, hook: str, port: int) -> None:
    """Let conntrack ignore what goes to a port."""
    rules = f"""table inet other {{
        chain other {{
            type filter hook {hook} priority raw; policy accept;
            tcp dport {port} notrack
        }}
    }}"""
    run("ip", "netns", "exec", world.pod, "nft", rules)


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_an_untracked_connection_does_not_get_out(world: World, address: str) -> None:
    world.attach()
    leave_alone(world, "output", 80)
    with world.proxy(), world.server(world.host, 80):
        assert world.connect(address, 80)["error"] == "timeout"
        assert world.connect(address, 81)["answer"]["original"] == [address, 81]


@pytest.mark.parametrize("address", [POD, POD6])
def test_an_untracked_connection_does_not_get_in(world: World, address: str) -> None:
    world.attach("--inbound", "8080")
    leave_alone(world, "prerouting", 8080)
    with world.proxy(), world.server(world.pod, 8080, world.app):
        assert world.call(address, 8080)["error"] == "timeout"


def test_whoever_sends_something_else_first_does_not_get_in(world: World) -> None:
    world.attach("--inbound", "8080")
    lie = [
        sys.executable, capture_forged.__file__, "A", HOST, str(SOURCE), POD, "8080", "signed",
    ]  # fmt: skip
    with world.proxy(), world.server(world.pod, 8080, world.app):
        run("ip", "netns", "exec", world.host, *lie)
        seen = world.call(POD, 8080, f"source={SOURCE}")
        assert seen.get("answer") != "real", seen
