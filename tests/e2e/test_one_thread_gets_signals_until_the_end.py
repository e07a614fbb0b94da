"""Whoever stops a uProxy may ask more than once, until it is gone: its exit code stays 0."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from tests.helpers.pair import MTLS, Pair
from uproxy.lab.waiting import wait_until
from uproxy.signals import HANDLED


@pytest.fixture(params=["native", "python"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Pair(tmp_path, {"app": 9}, replace(MTLS, engine=request.param)) as pair:
        yield pair


def takers(pid: int) -> list[int]:
    """The threads of a process to which the kernel may give what the event loop handles."""
    handled = sum(1 << (number - 1) for number in HANDLED)
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        (blocked,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:"))
        if blocked & handled != handled:
            found.append(int(task.name))
    return found


def test_only_the_main_thread_gets_signals(pair: Pair) -> None:
    pid = pair.orders.pid
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    assert takers(pid) == [pid]


def test_signals_until_the_end_change_nothing_about_it(pair: Pair) -> None:
    orders = pair.orders
    numbers = cycle(sorted(HANDLED, reverse=True))
    orders.send(signal.SIGTERM)

    def ended() -> bool:
        if orders.running:
            orders.send(next(numbers))
        return not orders.running

    wait_until(ended, "it to end")
    assert orders.wait() == 0
    assert "Traceback" not in orders.output
