"""Connections that conntrack takes no part in, or was told lies about: none is made in clear."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.capture_world import HOST, HOST6, POD, POD6, World, existing, run

SOURCE = 40123
LIE = """
import socket, struct, sys
source, destination, source_port, port = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
signature = struct.pack("!BB16s2x", 19, 18, b"")  # which nobody expects: it is dropped in silence
ack = 0x10
def segment(check):
    offset = (20 + len(signature)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", source_port, port, 7, 9, offset, ack, 1024, check, 0)
    return head + signature
ends = socket.inet_aton(source) + socket.inet_aton(destination)
data = ends + struct.pack("!HH", 6, len(segment(0))) + segment(0)
total = sum(struct.unpack(f"!{len(data) // 2}H", data))
total = (total & 0xFFFF) + (total >> 16)
total = (total & 0xFFFF) + (total >> 16)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
    raw.sendto(segment(~total & 0xFFFF), (destination, 0))
"""
"""Sends an ACK of no connection, with a signature (RFC 2385)."""


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
    lie = [sys.executable, "-c", LIE, HOST, POD, str(SOURCE), "8080"]
    with world.proxy(), world.server(world.pod, 8080, world.app):
        run("ip", "netns", "exec", world.host, *lie)
        seen = world.call(POD, 8080, f"source={SOURCE}")
        assert seen.get("answer") != "real", seen
