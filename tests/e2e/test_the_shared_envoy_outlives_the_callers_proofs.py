"""A connection that stays longer than the proof that it began with: Envoy opens streams for its
requests, and has the client reconnect before they would be refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers.http_app import Client, HttpApp
from tests.helpers.shared import FIRST, L7, THROUGH_L7, TRUST
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.mesh import ORDERS, WEB, AgentWorld, ThroughL7, TunnelsIn
from uproxy.lab.software.shared_envoy import SharedEnvoy
from uproxy.lab.waiting import wait_until

LIFE_S = 12
"""Of a proof.  uProxy gets a new one after half of it."""


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.2, 4.0])
def test_no_request_fails_because_its_connection_is_old(tmp_path: Path, pause: float) -> None:
    """The application closes each connection, so that each request needs a stream of its own, and
    the destination a proof that is valid."""
    domain = {"entries": [entry(each) for each in (WEB, ORDERS, L7)], "jwt_ttl": f"{LIFE_S}s"}
    with (
        DevAuthority(tmp_path, {"example.org": domain}) as authority,
        HttpApp("app").running() as app,
    ):
        app.closing = True
        world = AgentWorld(tmp_path, authority)
        trust = {"l7": {**TRUST["l7"], "require_proof": True}}
        orders = TunnelsIn(
            tmp_path, world.ours(ORDERS), app.port, engine="native", inbound_trust=trust,
            authorization=[THROUGH_L7],
        )  # fmt: skip
        envoy = SharedEnvoy(tmp_path, world.theirs(L7), destinations=orders.port)
        envoy.replace(
            "base.yaml",
            {
                "duration: 90s, idle_timeout: 30s": "duration: 3s, idle_timeout: 1s",
                "drain_timeout: 5s": "drain_timeout: 1s",
            },
        )
        caller = ThroughL7(
            tmp_path, world.ours(WEB), f"{FIRST}:{app.port}", proxies=[envoy.port], l7=L7
        )
        with orders, envoy, caller:
            orders.wait_until_ready()
            wait_until(lambda: answers(caller.port), "a proof")
            until = time.monotonic() + 2 * LIFE_S
            connections = 0
            while time.monotonic() < until:
                connections += 1
                statuses = stay(caller.port, pause, until)
                assert set(statuses) <= {200}
            assert connections < 2 * LIFE_S


def answers(port: int) -> bool:
    with Client(port) as client:
        return client.fetch().status == 200


def stay(port: int, pause: float, until: float) -> list[int]:
    """Make requests on one connection until Envoy closes it; return how they were answered."""
    statuses: list[int] = []
    with Client(port) as client:
        while time.monotonic() < until:
            try:
                answer = client.fetch()
            except OSError:
                assert statuses, "the first request was lost"
                break
            statuses.append(answer.status)
            if answer.headers.get("connection") == "close":
                break
            time.sleep(pause)
    return statuses
