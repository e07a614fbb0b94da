"""Policies of deploy/envoy that ask who calls: who the certificate names, whatever headers say."""

from __future__ import annotations

from tests.helpers.authorizers import authorizing_over_grpc, authorizing_over_http
from tests.helpers.http_app import Client, fetch
from tests.helpers.shared import Shared
from uproxy.lab.mesh import UNWANTED, WEB

ANYTHING = "spiffe://example.org/ns/any/sa/thing"


def test_only_the_frontend_may_change_orders(shared: Shared, frontend: int, somebody: int) -> None:
    shared.envoy.use("rbac-on-the-caller")
    assert fetch(frontend, method="POST").status == 200
    assert fetch(somebody, method="GET").status == 200
    shared.first.calm()
    assert fetch(somebody, method="POST").status == 403
    assert shared.first.requests == []


def test_no_header_makes_a_caller_another(shared: Shared, somebody: int) -> None:
    shared.envoy.use("rbac-on-the-caller")
    claims = {"x_caller": WEB, "x_uproxy_caller": WEB, "x_forwarded_client_cert": f"URI={WEB}"}
    assert fetch(somebody, method="POST", **claims).status == 403
    seen = fetch(somebody, x_uproxy_proof="x", x_uproxy_expect_id=ANYTHING, **claims).seen
    assert seen["x-caller"] == UNWANTED
    assert seen["x-forwarded-client-cert"].endswith(f";URI={UNWANTED}")
    assert seen.keys().isdisjoint({"x-uproxy-caller", "x-uproxy-proof", "x-uproxy-expect-id"})


def test_a_host_header_chooses_no_other_policy(shared: Shared, somebody: int) -> None:
    """The policy is the one of the address that the CONNECT names."""
    shared.envoy.use("rbac-on-the-caller")
    elsewhere = {"host": "10.9.9.9:8080", "x_uproxy_destination": "10.9.9.9:8080"}
    assert fetch(somebody, method="POST", **elsewhere).status == 403


def test_each_caller_has_a_rate_of_its_own(shared: Shared, frontend: int, somebody: int) -> None:
    shared.envoy.use(
        "rate-limit-per-caller",
        {"max_tokens: 100, tokens_per_fill: 100": "max_tokens: 3, tokens_per_fill: 3"},
    )
    with Client(frontend) as first, Client(somebody) as second:
        assert [first.fetch().status for _ in range(5)] == [200, 200, 200, 429, 429]
        assert [second.fetch(x_caller=ANYTHING).status for _ in range(4)] == [200, 200, 200, 429]


def test_a_script_knows_the_caller_and_works_in_open_tunnels(shared: Shared, frontend: int) -> None:
    with Client(frontend) as client:
        assert "x-lua" not in client.fetch().headers
        shared.envoy.use("lua")
        answer = client.fetch(x_service_account="admin")
        assert (answer.headers["x-lua"], answer.seen["x-service-account"]) == ("seen", "frontend")
        refused = client.fetch("/teapot")
        assert (refused.status, refused.body) == (418, f"short and stout, {WEB}\n")
        shared.envoy.use(None)
        assert "x-lua" not in client.fetch().headers


def test_a_service_over_http_decides(shared: Shared, frontend: int, somebody: int) -> None:
    with authorizing_over_http() as port:
        shared.envoy.use("ext-authz-http", {"port_value: 9191": f"port_value: {port}"})
        answer = fetch(frontend, "/list", x_authorized_as="root")
        assert answer.seen["x-authorized-as"] == f"GET /check/list {WEB}"
        assert fetch(somebody).status == 403
    assert fetch(frontend).status == 403


def test_a_service_over_grpc_decides(shared: Shared, frontend: int, somebody: int) -> None:
    with authorizing_over_grpc() as port:
        shared.envoy.use("ext-authz-grpc", {"port_value: 9191": f"port_value: {port}"})
        assert fetch(frontend).status == 200
        assert fetch(somebody, x_caller=WEB).status == 403
    assert fetch(frontend).status == 403
