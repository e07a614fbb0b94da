"""Callers prove themselves across the shared Envoy (`require_proof`): everybody's certificates,
tokens and keys come from `uproxy authority`, and are replaced while requests go on."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.endings import ended, metric, only
from tests.helpers.http_app import HttpApp, fetch
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.mesh import (
    ORDERS,
    TUNNEL_ENGINES,
    WEB,
    ThroughL7,
    TunnelsIn,
    by_agent,
    by_files,
    fetch_identity,
)
from uproxy.lab.ports import free_port
from uproxy.lab.software.shared_envoy import SharedEnvoy
from uproxy.lab.waiting import wait_until

L7 = "spiffe://example.org/ns/mesh/sa/l7"
EXPIRY = "uproxy_token_expiry_timestamp_seconds"
TRUST = {
    "identities": [L7],
    "speaks_for": ["spiffe://example.org/ns/web/**"],
    "require_proof": True,
}
BROKEN = (ConnectionError, http.client.HTTPException)
RULE = {"name": "web", "action": "allow", "from": {"identities": [WEB], "via": ["l7"]}}


@dataclass(frozen=True, slots=True)
class World:
    """The authority, the Envoy, and an application behind the uProxy of orders."""

    folder: Path
    authority: DevAuthority
    envoy: SharedEnvoy
    orders: TunnelsIn
    app: HttpApp

    def carry_any_tcp(self) -> None:
        """Let Envoy open a stream to the destination for each connection."""
        self.envoy.use("tcp-only", {"*:5432": f"*:{self.app.port}"})

    def caller(self, engine: str = "native", **changes: Any) -> ThroughL7:
        """The uProxy of a workload, by default WEB's with an identity from the authority."""
        identity = by_agent(self.authority.endpoints["example.org"], WEB)
        return ThroughL7(
            self.folder, changes.get("identity", identity), f"127.0.0.1:{self.app.port}",
            proxies=[self.envoy.port], l7=L7, engine=engine,
        )  # fmt: skip


@pytest.fixture(scope="module", params=TUNNEL_ENGINES)
def world(request: pytest.FixtureRequest, folder: Path) -> Iterator[World]:
    home = folder / request.param
    home.mkdir()
    domains = {
        "example.org": {"entries": [entry(each) for each in (L7, WEB, ORDERS)], "jwt_ttl": "4s"}
    }
    with DevAuthority(home, domains) as authority, HttpApp("orders").running() as app:
        endpoint, tunnels = authority.endpoints["example.org"], free_port()
        orders = TunnelsIn(
            home, by_agent(endpoint, ORDERS), app.port, engine=request.param, port=tunnels,
            inbound_trust={"l7": TRUST}, authorization=[RULE],
        )  # fmt: skip
        agent = endpoint.removeprefix("unix://")
        with orders, SharedEnvoy(home, agent, destinations=tunnels) as envoy:
            orders.wait_until_ready()
            found = World(home, authority, envoy, orders, app)
            found.carry_any_tcp()
            yield found


def expiry(caller: ThroughL7) -> float:
    (destination,) = caller.config["destinations"]
    return metric(caller, EXPIRY, destination=destination)


def test_a_caller_with_a_proof_is_let_in_by_its_own_name(world: World) -> None:
    with world.caller() as caller:
        caller.wait_until_ready()
        with ended(world.orders, "closed") as lines:
            assert fetch(caller.port).app == "orders"
        line = only(lines)
        assert (line["src.identity"], line["via"]) == (WEB, "l7")
        (token,) = json.loads(caller.request("/certs")[1])["tokens"]
        assert (token["audience"], token["error"]) == ([ORDERS], None)
        assert token["expires"]


def test_a_caller_without_one_is_refused_in_words(world: World) -> None:
    """Its certificate is good, and Envoy says who it is: that isn't enough."""
    endpoint = world.authority.endpoints["example.org"]
    files = fetch_identity(world.folder / "web", endpoint, WEB)
    with world.caller(identity=by_files(files)) as caller:
        caller.wait_until_ready()
        with (
            ended(world.orders, "denied", rule="inbound_trust.l7") as lines,
            contextlib.suppress(*BROKEN),
        ):
            fetch(caller.port)
            raise AssertionError("it was let in")
        line = only(lines)
        assert f"sent no proof of {WEB}" in line["error"]
        (token,) = json.loads(caller.request("/certs")[1])["tokens"]
        assert "files have no JWT-SVIDs" in token["error"]
        notes = caller.request("/readyz")[1]
        assert "token_missing" in str(notes)


@pytest.mark.parametrize("over_http", [False, True], ids=["any TCP", "HTTP"])
def test_proofs_and_their_keys_are_replaced_while_requests_go_on(
    world: World, over_http: bool
) -> None:
    if over_http:
        world.envoy.use(None)
    else:
        world.carry_any_tcp()
    with world.caller() as caller:
        caller.wait_until_ready()
        first = expiry(caller)
        assert first > 0

        def renewed(since: float) -> bool:
            assert fetch(caller.port).app == "orders"
            return expiry(caller) > since

        wait_until(lambda: renewed(first), "another token")
        world.authority.send(signal.SIGUSR1)
        rotated = "new CAs are published and sign in a moment"
        wait_until(lambda: rotated in world.authority.output, "the rotation")
        second = expiry(caller)
        # signed by the old key, then by the new one
        wait_until(lambda: renewed(second), "another token")
        wait_until(lambda: renewed(second + 4), "a token after the rotation")
        metrics = {"reporter": "destination", "response_flags": "DENY"}
        assert metric(world.orders, "istio_tcp_connections_failed_total", **metrics) <= 1
