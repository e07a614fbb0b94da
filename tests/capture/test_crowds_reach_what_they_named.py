"""Many connections, to many addresses and ports: not one ends where it wasn't made to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.helpers import capture_crowd, capture_service
from tests.helpers.capture_mesh import Mesh, as_json
from tests.helpers.capture_world import HOST, HOST6, SECOND, SECOND6, World, existing, run
from uproxy.capture.control import DEFAULT_MARK
from uproxy.lab.waiting import wait_until

PORTS = range(7001, 7021)
ADDRESSES = f"{HOST},{SECOND},{HOST6},{SECOND6}"
MESHES, EACH = 5, 8_000
"""A process may have 20,000 descriptors, and a uProxy needs two for a connection."""
CHURN_S = 60


@contextlib.contextmanager
def serving(world: World) -> Iterator[Mesh]:
    """Both workloads, with a service at all the ports."""
    ports = f"{PORTS[0]}-{PORTS[-1]}"
    with (
        Mesh(world, list(PORTS)) as mesh,
        mesh.serve(sys.executable, capture_service.__file__, ports, "2"),
    ):
        yield mesh


class Crowd:
    """tests/helpers/capture_crowd.py as a program of a workload."""

    def __init__(self, argv: list[str]) -> None:
        pipe = subprocess.PIPE
        self._popen: subprocess.Popen[str] = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, text=True
        )

    def say(self) -> None:
        self._in.write("on\n")
        self._in.flush()

    def account(self) -> dict[str, int]:
        return as_json(self._out.readline())

    def end(self) -> None:
        self._popen.communicate()

    @property
    def _in(self) -> IO[str]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def _out(self) -> IO[str]:
        assert self._popen.stdout is not None
        return self._popen.stdout


def crowd(mesh: Mesh, what: str, count: int, *more: str) -> Crowd:
    ports = f"{PORTS[0]}-{PORTS[-1]}"
    words = [sys.executable, capture_crowd.__file__, what, str(count), ADDRESSES, ports, *more]
    return Crowd(mesh.calling(*words))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["ebpf", "nft"])
def test_forty_thousand_connections_at_a_time(tmp_path: Path, bpffs: Path, mode: str) -> None:
    with contextlib.ExitStack() as stack:
        meshes = []
        for number in range(MESHES):
            folder = tmp_path / str(number)
            folder.mkdir()
            world = stack.enter_context(existing(World(folder, bpffs, mode)))
            meshes.append(stack.enter_context(serving(world)))
        crowds = [crowd(mesh, "hold", EACH) for mesh in meshes]
        try:
            assert [each.account() for each in crowds] == [{"right": EACH}] * MESHES
            for each in crowds:  # all of them are open
                each.say()
            assert [each.account() for each in crowds] == [{"echo": EACH}] * MESHES
        finally:
            for each in crowds:
                each.end()
        for mesh in meshes:
            stats = mesh.world.status()["stats"]
            assert stats["captured"] == EACH


@pytest.mark.timeout(300)
def test_a_minute_of_short_connections(either: World) -> None:
    with serving(either) as mesh:
        churn = crowd(mesh, "dial", 16, str(CHURN_S))
        account = churn.account()
        churn.end()
        assert set(account) == {"right"}
        assert account["right"] > CHURN_S * 10
        assert either.status()["stats"]["captured"] == account["right"]
        wait_until(lambda: not marked(either), "nothing marked to be left")


def marked(world: World) -> str:
    """The sockets of the workload that have our mark, and still can send."""
    return run("ip", "netns", "exec", world.pod, "ss", "-Htne", "state", "connected", "exclude",
               "time-wait", f"fwmark = {DEFAULT_MARK:#x}")  # fmt: skip
