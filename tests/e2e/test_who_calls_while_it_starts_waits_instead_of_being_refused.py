"""While the first identity is still being fetched: sockets listen, callers wait, signals count."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.dialogue import ask
from uproxy.app.starting import WAIT_S
from uproxy.lab.mesh import ORDERS, WEB, AgentWorld, Inbound, Outbound, by_agent
from uproxy.lab.processes import Uproxy
from uproxy.lab.software.peers import SServer
from uproxy.lab.waiting import wait_until


@pytest.fixture(scope="module")
def orders(folder: Path, agent_world: AgentWorld) -> Iterator[SServer]:
    with SServer(folder, agent_world.theirs(ORDERS)) as running:
        yield running


@pytest.fixture(params=["native", "python"])
def early(
    request: pytest.FixtureRequest, tmp_path: Path, orders: SServer
) -> Iterator[tuple[Outbound, Path]]:
    """A uProxy that runs before its agent does, and where the agent will be."""
    agent = tmp_path / "agent.sock"
    identity = by_agent(f"unix://{agent}", WEB)
    with Outbound(tmp_path, identity, orders.port, engine=request.param) as uproxy:
        wait_until(lambda: uproxy.status("/livez") == 200, "the admin listener")
        yield uproxy, agent


def test_a_caller_is_served_when_the_identity_has_come(
    early: tuple[Outbound, Path], agent_world: AgentWorld
) -> None:
    uproxy, agent = early
    heard: list[bytes] = []
    calling = threading.Thread(target=lambda: heard.append(ask(uproxy.port)))
    calling.start()
    assert "starting: waiting for the first identity" in not_ready(uproxy)
    assert "started: " in uproxy.output  # its sockets listen
    agent.symlink_to(agent_world.endpoint.removeprefix("unix://"))
    calling.join(20)
    assert heard == [b"olleh\n"]
    uproxy.wait_until_ready()
    (line,) = wait_until(lambda: uproxy.accesses, "the access line")
    assert line["outcome"] == "closed"


@pytest.mark.parametrize("engine", ["native", "python"])
def test_sigterm_does_not_wait_for_the_identity(tmp_path: Path, engine: str) -> None:
    identity = by_agent(f"unix://{tmp_path / 'no-agent.sock'}", ORDERS)
    with Inbound(tmp_path, identity, 9, engine=engine) as uproxy:
        wait_until(lambda: uproxy.status("/livez") == 200, "the admin listener")
        assert "starting: waiting for the first identity" in not_ready(uproxy)
        uproxy.send(signal.SIGTERM)
        assert uproxy.wait(WAIT_S - 0.5) == 0
        assert "drained: 0 connections" in uproxy.output


def not_ready(uproxy: Uproxy) -> str:
    status, text = uproxy.request("/readyz")
    assert status == 503
    return text
