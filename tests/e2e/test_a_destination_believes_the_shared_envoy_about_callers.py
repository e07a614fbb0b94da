"""Callers reach a uProxy through deploy/envoy, each under its own identity and with its proof; who
isn't trusted to speak for them isn't believed.  Identities and tokens are a running authority's.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from spiffe import SpiffeId, WorkloadApiClient

from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, metric, only
from tests.helpers.streams import close_all
from tests.helpers.tunnels import H2Peer
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.mesh import (
    ORDERS,
    TUNNEL_ENGINES,
    UNWANTED,
    WEB,
    AgentWorld,
    TunnelsIn,
    TunnelsOut,
)
from uproxy.lab.pki import Issued
from uproxy.lab.ports import free_port
from uproxy.lab.software.shared_envoy import SharedEnvoy
from uproxy.lab.waiting import wait_until
from uproxy.model import TcpAddress

L7 = "spiffe://example.org/ns/mesh/sa/l7"
SECOND = "spiffe://example.org/ns/mesh/sa/second"
"""Another L7 proxy's."""
TRUST = {
    "identities": [L7, SECOND],
    "speaks_for": ["spiffe://example.org/ns/web/**"],
    "require_proof": True,
}


@dataclass(frozen=True, slots=True)
class Mesh:
    """A destination behind the shared Envoy, and the authority."""

    folder: Path
    world: AgentWorld
    orders: TunnelsIn
    envoy: SharedEnvoy
    app: int

    @contextlib.contextmanager
    def caller(self, spiffe_id: str, *, via: str | None = "l7") -> Iterator[TunnelsOut]:
        """A uProxy that reaches the destination by way of Envoy, or straight (None)."""
        caller = TunnelsOut(
            self.folder, self.world.ours(spiffe_id), self.app, end=self.orders.port,
            engine="native",
            l7_proxies={
                "l7": {"addresses": [f"127.0.0.1:{self.envoy.port}"], "identities": [L7]},
            },
        )  # fmt: skip
        if via is not None:
            caller.config["destinations"]["peer"]["via"] = via
            caller.write_config(caller.config)
        with caller:
            caller.wait_until_ready()
            yield caller

    async def status(self, shows: str, *headers: tuple[str, str]) -> int:
        """Dial the destination as somebody, and return the answer to a CONNECT with headers."""
        with self._client() as client:
            svids = client.fetch_x509_context().x509_svids
        svid = next(each for each in svids if str(each.spiffe_id) == shows)
        assert isinstance(svid.private_key, EllipticCurvePrivateKey)
        issued = Issued(tuple(svid.cert_chain), svid.private_key)
        peer = await H2Peer.connect(TcpAddress("127.0.0.1", self.orders.port), issued)
        return await peer.status(await peer.open(f"127.0.0.1:{self.app}", *headers))

    def token(self, spiffe_id: str, audience: str = ORDERS) -> str:
        """A JWT-SVID, as the agent gives it to the workload."""
        with self._client() as client:
            return client.fetch_jwt_svid({audience}, SpiffeId(spiffe_id)).token

    def refused(self, reason: str) -> float:
        return metric(self.orders, "uproxy_l7_refused_total", reason=reason)

    def _client(self) -> contextlib.closing[WorkloadApiClient]:
        return contextlib.closing(WorkloadApiClient(self.world.endpoint, default_timeout=20))


@pytest.fixture(scope="module")
def world(folder: Path) -> Iterator[AgentWorld]:
    entries = [entry(each) for each in (WEB, ORDERS, UNWANTED, L7, SECOND)]
    with DevAuthority(folder, {"example.org": {"entries": entries}}) as authority:
        yield AgentWorld(folder, authority)


@pytest.fixture(scope="module", params=TUNNEL_ENGINES)
def mesh(
    request: pytest.FixtureRequest, folder: Path, world: AgentWorld, echo_app: int
) -> Iterator[Mesh]:
    rule: dict[str, Any] = {
        "name": "web-via-l7",
        "action": "allow",
        "from": {"namespaces": ["web"], "via": ["l7"]},
    }
    orders = TunnelsIn(
        folder, world.ours(ORDERS), echo_app, engine=str(request.param), port=free_port(),
        inbound_trust={"l7": TRUST}, authorization=[rule],
    )  # fmt: skip
    with orders:
        orders.wait_until_ready()
        with SharedEnvoy(folder, world.theirs(L7), destinations=orders.port) as envoy:
            everybody = {
                '{exact: "spiffe://example.org/ns/web/sa/frontend"}': "{prefix: spiffe://}"
            }
            envoy.use("tcp-only", {"*:5432": f"*:{echo_app}", **everybody})
            yield Mesh(folder, world, orders, envoy, echo_app)


def talking(port: int, stack: contextlib.ExitStack) -> socket.socket | None:
    """A connection on which the echo has answered; None: it was refused."""
    made = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
    with contextlib.suppress(ConnectionError):
        made.sendall(b"hello")
        if made.recv(5, socket.MSG_WAITALL) == b"hello":
            return made
    return None


def answers(port: int) -> bool:
    """Whether the echo has answered on a new connection."""
    return ask(port) == b"hello\n"


def until_idle(mesh: Mesh) -> None:
    """Wait until the destination has no stream, and has written a line for each."""

    def idle() -> bool:
        opened = json.loads(mesh.orders.request("/connections")[1])["total"]
        states = ("closed", "failed")
        over = sum(metric(mesh.orders, f"istio_tcp_connections_{each}_total") for each in states)
        return opened == 0 and len(mesh.orders.accesses) == over

    wait_until(idle, "streams to end")


@pytest.fixture(autouse=True)
def closed(mesh: Mesh) -> Iterator[None]:
    """Whoever was dialled by a test is gone before the next one."""
    yield
    close_all()
    until_idle(mesh)


def test_each_caller_has_its_own_identity_at_the_destination(mesh: Mesh) -> None:
    with mesh.caller(WEB) as one, mesh.caller(UNWANTED) as other:
        for caller in (one, other):
            # until its token has come
            wait_until(partial(answers, caller.port), "an answer")
        until_idle(mesh)
        for caller, spiffe_id in ((one, WEB), (other, UNWANTED)) * 3:
            with ended(mesh.orders, "closed") as lines:
                assert answers(caller.port)
            line = only(lines)
            assert (line["src.identity"], line["rule"]) == (spiffe_id, "web-via-l7")
            assert (line["via"], line["via.identity"]) == ("l7", L7)
    opened = "istio_tcp_connections_opened_total"
    assert metric(mesh.orders, opened, source_principal=WEB) >= 3
    assert metric(mesh.orders, opened, source_principal=L7) == 0


def test_a_direct_connection_is_refused_where_the_rule_wants_envoy(mesh: Mesh) -> None:
    with mesh.caller(WEB, via=None) as caller, ended(mesh.orders, "denied") as lines:
        assert ask(caller.port) == b""
    line = only(lines)
    assert (line["src.identity"], line["via"]) == (WEB, "direct")
    assert line["error"].endswith("rule web-via-l7 allows it via l7 only")


async def test_an_attackers_headers_make_it_nobody_else(mesh: Mesh) -> None:
    ignored = "uproxy_l7_headers_ignored_total"
    before, token = metric(mesh.orders, ignored), mesh.token(WEB)
    said = (("x-uproxy-caller", WEB), ("x-uproxy-proof", token))
    with ended(mesh.orders, "denied") as lines:
        assert await mesh.status(UNWANTED, *said) == 403
    line = only(lines)
    assert (line["src.identity"], line["via"]) == (UNWANTED, "direct")
    assert line["error"].endswith("which are ignored: it isn't in inbound_trust")
    assert metric(mesh.orders, ignored) - before == 1


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((), "missing"),
        ((("x-uproxy-caller", WEB), ("x-uproxy-caller", UNWANTED)), "several"),
        ((("x-uproxy-caller", "-"),), "malformed"),
        ((("x-uproxy-caller", L7),), "l7_proxy"),
        ((("x-uproxy-caller", ORDERS),), "not_for"),
        ((("x-uproxy-caller", WEB),), "no_proof"),
        ((("x-uproxy-caller", WEB), ("x-uproxy-proof", "a.b.c")), "bad_proof"),
    ],
)
async def test_an_envoy_that_was_taken_over_is_refused_what_it_cannot_prove(
    mesh: Mesh, headers: tuple[tuple[str, str], ...], reason: str
) -> None:
    before = mesh.refused(reason)
    with ended(mesh.orders, "denied", rule="inbound_trust.l7") as lines:
        assert await mesh.status(L7, *headers) == 403
    assert only(lines)["src.identity"] == L7
    assert mesh.refused(reason) - before == 1


async def test_a_stolen_token_is_good_for_its_caller_its_destination_and_its_envoy_alone(
    mesh: Mesh,
) -> None:
    proof = ("x-uproxy-proof", mesh.token(WEB))
    for caller, audience, reason in ((UNWANTED, ORDERS, "bad_proof"), (WEB, WEB, "bad_proof")):
        token = ("x-uproxy-proof", mesh.token(WEB, audience))
        before = mesh.refused(reason)
        assert await mesh.status(L7, ("x-uproxy-caller", caller), token) == 403
        assert mesh.refused(reason) - before == 1
    named, before = ("x-uproxy-caller", WEB), mesh.refused("replayed")
    assert await mesh.status(L7, named, proof) == 200
    assert await mesh.status(L7, named, proof) == 200
    assert await mesh.status(SECOND, named, proof) == 403
    assert mesh.refused("replayed") - before == 1


def test_open_streams_end_when_their_envoy_may_not_speak_for_the_caller_any_more(
    mesh: Mesh,
) -> None:
    with mesh.caller(WEB) as caller, contextlib.ExitStack() as stack:
        stream = wait_until(lambda: talking(caller.port, stack), "an answer")
        assert stream is not None
        with ended(mesh.orders, "policy_changed", rule="inbound_trust.l7", opened=True) as lines:
            narrowed = {**TRUST, "speaks_for": ["spiffe://example.org/ns/shop/**"]}
            mesh.orders.change(inbound_trust={"l7": narrowed})
            with contextlib.suppress(ConnectionError):
                assert stream.recv(1) == b""
        assert f"may not speak for {WEB}" in only(lines)["error"]
    mesh.orders.change(inbound_trust={"l7": TRUST})
