"""Two hundred thousand connections, or handshakes, leave no memory and no descriptor behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.churn import Churn
from tests.helpers.endings import metric
from tests.helpers.in_use import counted, in_use
from tests.helpers.memory import steps
from uproxy.lab.memory import private_dirty
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, Inbound, Outbound
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may see what memory a uProxy has"),
    pytest.mark.timeout(900),
]

WARM = 20_000
"""After these, whatever is kept for later has been made."""
CROWD = 64
"""At a time while it warms up: more than later, so that peaks of memory are there already."""
ALL, WINDOWS = 200_000, 4
"""Connections in the clear, or handshakes: two for each connection through a pair; after those to
warm up they come in windows."""
MOST_GROWTH = 1 << 18
"""Bytes in each of the windows; less than six for each connection."""
MOST_IN_ALL = WINDOWS * MOST_GROWTH
"""Bytes that are in use: those don't depend on what an allocator keeps for later."""
QUIET: dict[str, Any] = {"engine": "native", "log": {"access": "none"}}


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Churn:
    return Churn(tmp_path_factory.mktemp("churn"))


@pytest.fixture(scope="module")
def app(churn: Churn) -> Iterator[int]:
    with churn.application() as port:
        yield port


def leave_nothing(uproxies: Sequence[Uproxy], calls: Callable[[int], None], count: int) -> None:
    """Make `count` calls, in windows.  Check that memory doesn't grow in each of them, that the
    bytes in use grow by little in all of them, and descriptors not at all; `uproxies` are warm."""
    seen = [[look(uproxy, WARM) for uproxy in uproxies]]
    for window in range(1, WINDOWS + 1):
        calls(count // WINDOWS)
        made = WARM + window * (count // WINDOWS)
        seen.append([look(uproxy, made) for uproxy in uproxies])
    for looks in zip(*seen, strict=True):
        memory, used, descriptors = zip(*looks, strict=True)
        assert min(steps(memory)) <= MOST_GROWTH, memory
        assert used[-1] - min(used) <= MOST_IN_ALL, used
        assert descriptors[-1] <= descriptors[0]


def look(uproxy: Uproxy, made: int) -> tuple[int, int, int]:
    """Return memory, what is in use of it, and descriptors, once all that were made have ended."""
    closed = "istio_tcp_connections_closed_total"
    wait_until(lambda: metric(uproxy, closed) == made, "all to have ended", timeout=60.0)
    descriptors = int(metric(uproxy, "process_open_fds"))
    return private_dirty(uproxy.pid), in_use(uproxy), descriptors


def test_connections_in_the_clear_leave_nothing_behind(
    tmp_path: Path, churn: Churn, app: int
) -> None:
    there = {"addresses": [f"127.0.0.1:{app}"], "transport": "plaintext"}
    identity = FileWorld(tmp_path / "world").ours(WEB)
    with counted(Outbound(tmp_path, identity, destinations={"peer": there}, **QUIET)) as uproxy:
        uproxy.wait_until_ready()
        churn.call(uproxy.port, WARM, CROWD)
        leave_nothing([uproxy], partial(churn.call, uproxy.port), ALL - WARM)


def test_handshakes_leave_nothing_behind_on_either_side(
    tmp_path: Path, churn: Churn, app: int
) -> None:
    world = FileWorld(tmp_path / "world")
    with counted(Inbound(tmp_path, world.ours(ORDERS), app, **QUIET)) as inbound:
        inbound.wait_until_ready()
        with counted(Outbound(tmp_path, world.ours(WEB), inbound.port, **QUIET)) as outbound:
            outbound.wait_until_ready()
            churn.call(outbound.port, WARM, CROWD)
            churn_on = partial(churn.call, outbound.port)
            leave_nothing([inbound, outbound], churn_on, ALL // 2 - WARM)
