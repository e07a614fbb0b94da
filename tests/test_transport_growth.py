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
QUIET: dict[str, Any] = {"engine": "native", "log": {"access": "none"}}


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Churn:
    return Churn(tmp_path_factory.mktemp("churn"))


@pytest.fixture(scope="module")
def app(churn: Churn) -> Iterator[int]:
    with churn.application() as port:
        yield port


def leave_nothing(uproxies: Sequence[Uproxy], calls: Callable[[int], None], count: int) -> None:
    """Check that memory doesn't grow in every window of `count` calls in all, and descriptors
    don't at all; they are warm."""
    seen = [[look(uproxy) for uproxy in uproxies]]
    for _ in range(WINDOWS):
        calls(count // WINDOWS)
        seen.append([look(uproxy) for uproxy in uproxies])
    for looks in zip(*seen, strict=True):
        memory, descriptors = zip(*looks, strict=True)
        assert min(steps(memory)) <= MOST_GROWTH, memory
        assert descriptors[-1] <= descriptors[0]


def look(uproxy: Uproxy) -> tuple[int, int]:
    wait_until(lambda: metric(uproxy, "uproxy_connections") == 0, "no connection")
    return private_dirty(uproxy.pid), int(metric(uproxy, "process_open_fds"))


def test_connections_in_the_clear_leave_nothing_behind(
    tmp_path: Path, churn: Churn, app: int
) -> None:
    there = {"addresses": [f"127.0.0.1:{app}"], "transport": "plaintext"}
    identity = FileWorld(tmp_path / "world").ours(WEB)
    with Outbound(tmp_path, identity, destinations={"peer": there}, **QUIET) as uproxy:
        uproxy.wait_until_ready()
        churn.call(uproxy.port, WARM, CROWD)
        leave_nothing([uproxy], partial(churn.call, uproxy.port), ALL - WARM)


def test_handshakes_leave_nothing_behind_on_either_side(
    tmp_path: Path, churn: Churn, app: int
) -> None:
    world = FileWorld(tmp_path / "world")
    with Inbound(tmp_path, world.ours(ORDERS), app, **QUIET) as inbound:
        inbound.wait_until_ready()
        with Outbound(tmp_path, world.ours(WEB), inbound.port, **QUIET) as outbound:
            outbound.wait_until_ready()
            churn.call(outbound.port, WARM, CROWD)
            churn_on = partial(churn.call, outbound.port)
            leave_nothing([inbound, outbound], churn_on, ALL // 2 - WARM)
