"""Whoever has one IPv6 address has 2^64 of them: `per_source_connections` counts them as one.

A network of its own (namespaces) has the addresses; this file runs itself in there.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.engines import RecordingDoor, open_door, route
from tests.helpers.streams import Stream, listening
from uproxy.contract import Engine
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, Limits, TcpAddress

_INSIDE = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", __name__]
_NEIGHBOURS = ("fd00:dead::1", "fd00:dead::2", "fd00:dead:0:0:ffff::3")
_ELSEWHERE = "fd00:dead:0:1::1"
_UP, _SET_FLAGS, _SET_ADDRESS = 1, 0x8914, 0x8916


@pytest.mark.parametrize("engine", ["native", "python"])
def test_the_addresses_of_a_64_are_one_source_and_mapped_ones_are_themselves(engine: str) -> None:
    ran = subprocess.run(
        [*_INSIDE, engine],
        capture_output=True, text=True, timeout=60, check=False,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    if "unshare failed" in ran.stderr:
        pytest.skip("needs user and network namespaces")
    assert ran.stdout.split() == ["let-in", "refused", "refused", "let-in", "let-in", "let-in"], (
        ran.stderr
    )


async def _main(name: str) -> None:
    _make_network()
    for host in (*_NEIGHBOURS, _ELSEWHERE):
        await eventually(partial(_is_there, host), f"the address {host}")
    engine = _engine(name)
    engine.set_limits(Limits(per_source_connections=1))
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address))
        async with open_door(engine, door, TcpAddress("::", 0)) as address:
            assert isinstance(address, TcpAddress)
            for source in (*_NEIGHBOURS, _ELSEWHERE):
                there = TcpAddress(_NEIGHBOURS[0], address.port)
                await _call(door, there, source)
            for source in ("127.0.0.1", "127.0.0.2"):  # mapped, at a socket for both families
                await _call(door, TcpAddress("127.0.0.1", address.port), source)
    await engine.stop()


def _engine(name: str) -> Engine:
    if name == "native":
        from uproxy.transport.native import NativeEngine

        return NativeEngine(1)
    from uproxy.transport.python import PythonEngine

    return PythonEngine()


async def _call(door: RecordingDoor, address: TcpAddress, source: str) -> None:
    let_in, refused = len(door.opened_), len(door.endings)
    await Stream.connect(address, source=source)
    await eventually(lambda: len(door.opened_) > let_in or len(door.endings) > refused, "an answer")
    sys.stdout.write("refused\n" if len(door.endings) > refused else "let-in\n")


def _is_there(host: str) -> bool:
    """The kernel may take a moment to make sure that nobody else has it."""
    with socket.socket(socket.AF_INET6) as probe, suppress(OSError):
        probe.bind((host, 0))
        return True
    return False


def _make_network() -> None:
    index = socket.if_nametoindex("lo")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        for host in (*_NEIGHBOURS, _ELSEWHERE):
            packed = socket.inet_pton(socket.AF_INET6, host)
            fcntl.ioctl(control, _SET_ADDRESS, packed + struct.pack("=Ii", 128, index))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
