"""The check of the attacks that "it costs no memory" finds a leak of a few hundred bytes, and
nothing but leaks."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.helpers.in_use import counted, in_use
from tests.helpers.memory import steps
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

CONNECTIONS, WINDOWS = 300, 4
SERVING = """
kept, served = [], 0

def serve(*_):
    global served
    served += 1
    for _ in range(300):
        connection = bytes(7000)
        {does}
    os.write(1, b"served\\n")

signal.signal(signal.SIGUSR1, serve)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


class Server(Process):
    """Serves 300 connections at SIGUSR1, and `does` something more with each."""

    def __init__(self, folder: Path, does: str) -> None:
        super().__init__(["python"], folder / "log")
        counted(self, SERVING.format(does=does))

    def is_ready(self) -> bool:
        return "ready" in self.output

    def leaves(self) -> float:
        """Serve in windows; return the bytes that each connection leaves behind in every one."""
        return min(steps([self._after_serving() for _ in range(WINDOWS + 1)])) / CONNECTIONS

    def _after_serving(self) -> int:
        before = self.output.count("served")
        self.send(signal.SIGUSR1)
        wait_until(lambda: self.output.count("served") > before, "the connections to end")
        return in_use(self)


@pytest.mark.parametrize("size", [256, 512, 4096])
def test_a_leak_is_as_large_as_it_is(tmp_path: Path, size: int) -> None:
    with Server(tmp_path, f"kept.append(bytes({size}))") as server:
        assert size <= server.leaves() < size + 100


HARMLESS = {
    "garbage": "cycle = [connection]; cycle.append(cycle)",
    "a cache that is full soon": "kept[:] = kept[-199:] + [connection]",
    "what is taken once, late": "served == 3 and kept.append(bytes(10_000))",
    "what is given back in the end": "kept.append(connection); served == 5 and kept.clear()",
}


@pytest.mark.parametrize("does", HARMLESS.values(), ids=HARMLESS)
def test_what_stays_bounded_is_no_leak(tmp_path: Path, does: str) -> None:
    with Server(tmp_path, does) as server:
        assert server.leaves() < 100
