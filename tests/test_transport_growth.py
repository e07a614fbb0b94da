"""Two hundred thousand connections, or handshakes, leave no memory and no descriptor behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.churn import Churn
from tests.helpers.endings import metric
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
ALL = 200_000
"""Connections in the clear, or handshakes: two for each connection through a pair."""
MOST_GROWTH = 1 << 20
"""Bytes; less than six for each further connection."""
QUIET: dict[str, Any] = {"engine": "native", "log": {"access": "none"}}


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Churn:
    return Churn(tmp_path_factory.mktemp("churn"))


@pytest.fixture(scope="module")
def app(churn: Churn) -> Iterator[int]:
    with churn.application() as port:
        yield port


class Watched:
    """uProxies, and what they had when they were warm."""

    def __init__(self, *uproxies: Uproxy) -> None:
        self._uproxies = uproxies
        self._before = [self._look(uproxy) for uproxy in uproxies]

    def check(self) -> None:
        for uproxy, (memory, descriptors) in zip(self._uproxies, self._before, strict=True):
            memory_now, descriptors_now = self._look(uproxy)
            assert memory_now - memory <= MOST_GROWTH, uproxy.config_file
            assert descriptors_now <= descriptors

    @staticmethod
    def _look(uproxy: Uproxy) -> tuple[int, float]:
        wait_until(lambda: metric(uproxy, "uproxy_connections") == 0, "no connection")
        return private_dirty(uproxy.pid), metric(uproxy, "process_open_fds")


def test_connections_in_the_clear_leave_nothing_behind(
    tmp_path: Path, churn: Churn, app: int
) -> None:
    there = {"addresses": [f"127.0.0.1:{app}"], "transport": "plaintext"}
    identity = FileWorld(tmp_path / "world").ours(WEB)
    with Outbound(tmp_path, identity, destinations={"peer": there}, **QUIET) as uproxy:
        uproxy.wait_until_ready()
        churn.call(uproxy.port, WARM, CROWD)
        watched = Watched(uproxy)
        churn.call(uproxy.port, ALL - WARM)
        watched.check()


def test_handshakes_leave_nothing_behind_on_either_side(
    tmp_path: Path, churn: Churn, app: int
) -> None:
    world = FileWorld(tmp_path / "world")
    with Inbound(tmp_path, world.ours(ORDERS), app, **QUIET) as inbound:
        inbound.wait_until_ready()
        with Outbound(tmp_path, world.ours(WEB), inbound.port, **QUIET) as outbound:
            outbound.wait_until_ready()
            churn.call(outbound.port, WARM, CROWD)
            watched = Watched(inbound, outbound)
            churn.call(outbound.port, ALL // 2 - WARM)
            watched.check()
