"""Which answer a request gets."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.helpers.admin import FakeFacts, connection_row, l7_row
from tests.helpers.refusals import refused
from uproxy.model import Address, TcpAddress, UnixAddress
from uproxy.proxy.admin.messages import ClientAddresses, Request, Response, Surface
from uproxy.proxy.admin.router import CHANGE, READ, respond
from uproxy.proxy.admin.sources import Sources
from uproxy.proxy.admin.vitals import Readiness

LOCAL = TcpAddress("127.0.0.1", 15000)
NOW = datetime(2026, 9, 1, 12, 0, 0, tzinfo=UTC)


def ask(
    target: str,
    facts: FakeFacts | None = None,
    *,
    method: str = "GET",
    surface: Surface = Surface.ADMIN,
    peer: Address = LOCAL,
    host: str = "localhost:15000",
) -> Response:
    request = Request(method, target, ClientAddresses(peer, LOCAL), host)
    told = facts or FakeFacts()
    return respond(surface, request, Sources(told, lambda: told), NOW)


def test_ready_is_200() -> None:
    response = ask("/readyz")
    assert (response.status, response.body) == (200, b"ready\n")


def test_not_ready_is_503_with_the_reasons_in_words() -> None:
    facts = FakeFacts(ready=Readiness(("no identity yet: agent socket refused", "draining")))
    assert refused(ask("/readyz", facts), 503).splitlines() == [
        "no identity yet: agent socket refused",
        "draining",
    ]


def test_a_stale_configuration_is_told_and_stays_ready() -> None:
    facts = FakeFacts(ready=Readiness((), ("config_stale: line 3 is no YAML",)))
    response = ask("/readyz", facts)
    assert response.status == 200
    assert response.body == b"ready\nconfig_stale: line 3 is no YAML\n"


def test_strangers_are_told_no_value_in_a_reason_or_a_note() -> None:
    """`ready` is open to the network; whoever writes a new reason must say that it is public."""
    told = Readiness(
        ("no identity yet: unix:///run/secret.sock refused", "out of hunter2: really"),
        ("config_stale: timeouts.idle = 'hunter2' is no duration", "hunter2", "limits_clamped: 7"),
    )
    response = ask("/readyz", FakeFacts(ready=told), surface=Surface.READY)
    words = ["no identity yet", "not ready", "config_stale", "limits_clamped"]
    assert refused(response, 503).splitlines() == words
    assert "hunter2" in refused(ask("/readyz", FakeFacts(ready=told)), 503)


def test_liveness_says_what_does_not_answer() -> None:
    assert ask("/livez").status == 200
    silent = FakeFacts(silent=("engine thread 1 hasn't answered for 5 s",))
    assert "engine thread 1" in refused(ask("/livez", silent), 503)


@pytest.mark.parametrize("path", [path for path in READ if path not in ("/metrics", "/")])
def test_what_machines_read_is_a_json_object(path: str) -> None:
    response = ask(path)
    assert response.status == 200
    if not path.endswith("z"):
        assert isinstance(json.loads(response.body), dict)
        assert response.content_type == "application/json"


def test_l7_tells_how_each_address_of_each_l7_proxy_fares() -> None:
    assert json.loads(ask("/l7").body) == {"l7_proxies": []}
    facts = FakeFacts(l7_rows=(l7_row(),))
    [told] = json.loads(ask("/l7", facts=facts).body)["l7_proxies"]
    assert (told["name"], told["when_unavailable"]) == ("l7", "refuse")
    assert told["destinations"] == [{"name": "reviews", "proof": True}]
    assert told["endpoints"][2] == {
        "address": "10.0.0.11:15008", "name": "10.0.0.11:15008", "draining": False,
        "passed_over": True, "connections": 0,
        "reason": "L7 proxy l7 at 10.0.0.11:15008: no answer", "since": None,
        "only_unhealthy": False,
    }  # fmt: skip


def test_certs_tell_the_identity() -> None:
    told = json.loads(ask("/certs").body)
    assert told["svid"]["spiffe_id"] == "spiffe://example.org/ns/shop/sa/orders"
    assert [domain["name"] for domain in told["trust_domains"]] == ["example.org", "partner.test"]


def test_config_dump_is_what_the_facts_say() -> None:
    settings = {"name": "orders", "authorization": []}
    assert json.loads(ask("/config_dump").body) == {"settings": settings}


def test_connections_can_be_limited_and_the_total_is_always_told() -> None:
    facts = FakeFacts(rows=tuple(connection_row(number) for number in range(5)))
    told = json.loads(ask("/connections?limit=2", facts).body)
    assert told["total"] == 5
    assert [row["id"] for row in told["connections"]] == [0, 1]
    assert len(json.loads(ask("/connections", facts).body)["connections"]) == 5


@pytest.mark.parametrize("limit", ["-1", "many", "1e3", "99999999999", "\uff12"])
def test_a_limit_that_is_no_number_is_refused(limit: str) -> None:
    assert "/connections?limit=100" in refused(ask(f"/connections?limit={limit}"), 400)


@pytest.mark.parametrize("query", ["a=1&" * 10 + "limit=2", "&" * 10, "limit=2&" * 5000])
@pytest.mark.parametrize("path", ["/connections", "/logging", "/metrics"])
def test_a_query_with_too_many_parameters_is_the_callers_fault(path: str, query: str) -> None:
    method = "POST" if path in CHANGE else "GET"
    assert "more than 10 parameters" in refused(ask(f"{path}?{query}", method=method), 400)


def test_ten_parameters_are_not_too_many_and_the_last_of_a_name_counts() -> None:
    facts = FakeFacts(rows=tuple(connection_row(number) for number in range(5)))
    told = json.loads(ask("/connections?limit=1&" + "a=1&" * 8 + "limit=2", facts).body)
    assert len(told["connections"]) == 2


@pytest.mark.parametrize(
    "value", ["%ff", "%zz", "%", "%00", "+", "1e9", "%d9%a3", "=", "0x10", "\x7f"]
)
def test_what_cannot_be_a_value_is_refused_and_no_defect(value: str) -> None:
    refused(ask(f"/connections?limit={value}"), 400)
    refused(ask(f"/logging?level={value}", method="POST"), 400)


def test_status_json_is_everything_at_one_moment() -> None:
    facts = FakeFacts(rows=(connection_row(9),), ended={"closed": 3})
    told = json.loads(ask("/status.json", facts).body)
    assert told["now"] == "2026-09-01T12:00:00Z"
    assert told["connections_total"] == 1
    assert told["connections"][0]["identity"] == "spiffe://example.org/ns/web/sa/frontend"
    assert told["outcomes"] == {"closed": 3}
    assert told["process"]["name"] == "orders"


def test_many_connections_do_not_make_the_polled_answer_long() -> None:
    facts = FakeFacts(rows=tuple(connection_row(number) for number in range(20_000)))
    response = ask("/status.json", facts)
    assert json.loads(response.body)["connections_total"] == 20_000
    assert len(response.body) < 200_000


def test_a_log_level_is_set() -> None:
    facts = FakeFacts()
    assert ask("/logging?level=debug", facts, method="POST").status == 200
    assert facts.commands == ["level debug"]


@pytest.mark.parametrize("query", ["", "?level=", "?level=loud", "?l=debug"])
def test_an_unknown_log_level_changes_nothing_and_names_the_known_ones(query: str) -> None:
    facts = FakeFacts()
    words = refused(ask(f"/logging{query}", facts, method="POST"), 400)
    assert "debug, info, warning, error" in words
    assert facts.commands == []


@pytest.mark.parametrize(("path", "said"), [("/drain", "drain"), ("/quitquitquit", "quit")])
def test_draining_and_quitting_are_commands(path: str, said: str) -> None:
    facts = FakeFacts()
    assert ask(path, facts, method="POST").status == 200
    assert facts.commands == [said]


@pytest.mark.parametrize("path", CHANGE)
def test_only_post_changes_state(path: str) -> None:
    facts = FakeFacts()
    for method in ("GET", "HEAD", "PUT", "OPTIONS"):
        response = ask(path, facts, method=method)
        assert "use POST" in refused(response, 405)
        assert ("Allow", "POST") in response.headers
    assert facts.commands == []


@pytest.mark.parametrize("path", CHANGE)
@pytest.mark.parametrize("host", ["evil.example", "localhost:15000"])
def test_another_machine_changes_nothing(path: str, host: str) -> None:
    facts = FakeFacts()
    peer = TcpAddress("10.0.0.9", 40000)
    refused(ask(path, facts, method="POST", peer=peer, host=host), 403)
    assert facts.commands == []


def test_another_machine_may_read_where_the_listener_is_open_to_it() -> None:
    assert ask("/certs", peer=TcpAddress("10.0.0.9", 40000)).status == 200


def test_a_unix_socket_may_change_state() -> None:
    facts = FakeFacts()
    socket = UnixAddress("/run/admin.sock")
    request = Request("POST", "/drain", ClientAddresses(socket, socket), "x")
    assert respond(Surface.ADMIN, request, Sources(facts, lambda: facts), NOW).status == 200
    assert facts.commands == ["drain"]


@pytest.mark.parametrize("path", READ)
def test_reading_paths_take_no_post(path: str) -> None:
    response = ask(path, method="POST")
    assert "use GET or HEAD" in refused(response, 405)
    assert ("Allow", "GET, HEAD") in response.headers


@pytest.mark.parametrize("path", [*READ, *CHANGE, "/nothing"])
def test_strangers_learn_nothing_from_admin(path: str) -> None:
    refused(ask(path, host="evil.example"), 403)


@pytest.mark.parametrize("path", ["/nothing", "/certs/", "//", "/%2e", "http://localhost/certs"])
def test_an_unknown_path_lists_the_known_ones(path: str) -> None:
    words = refused(ask(path), 404)
    assert "GET /certs" in words
    assert "POST /drain" in words


@pytest.mark.parametrize(
    ("surface", "answered"),
    [(Surface.METRICS, {"/metrics"}), (Surface.READY, {"/readyz", "/livez"})],
)
def test_the_other_listeners_answer_only_what_they_are_for(
    surface: Surface, answered: set[str]
) -> None:
    facts = FakeFacts()
    for path in (*READ, *CHANGE):
        method = "POST" if path in CHANGE else "GET"
        # probes and scrapers come by whatever name and address the pod has
        response = ask(path, facts, method=method, surface=surface, host="10.0.0.7:15021")
        assert response.status == (200 if path in answered else 404), path
    assert facts.commands == []


def test_metrics_come_in_the_form_the_scraper_accepts() -> None:
    assert ask("/metrics").content_type.startswith("text/plain")
    accept = "application/openmetrics-text; version=1.0.0"
    request = Request("GET", "/metrics", ClientAddresses(LOCAL, LOCAL), "localhost", None, accept)
    response = respond(Surface.ADMIN, request, Sources(FakeFacts(), FakeFacts), NOW)
    assert response.content_type.startswith("application/openmetrics-text")
    assert response.body.endswith(b"# EOF\n")


def test_the_page_runs_nothing_but_its_own_script() -> None:
    response = ask("/")
    policy = dict(response.headers)["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("target", "method"),
    [("/readyz", "GET"), ("/livez", "GET"), ("/metrics", "HEAD"), ("/drain", "POST"),
     ("/logging?level=info", "POST"), ("/quitquitquit", "POST"), ("/nowhere", "GET"), ("/", "GET"),
     ("/connections?limit=x", "GET")],
)  # fmt: skip
def test_what_the_vitals_tell_needs_no_facts(target: str, method: str) -> None:
    def no_facts() -> FakeFacts:
        raise AssertionError("asked for")

    request = Request(method, target, ClientAddresses(LOCAL, LOCAL), "localhost:15000")
    assert respond(Surface.ADMIN, request, Sources(FakeFacts(), no_facts), NOW).status < 500
