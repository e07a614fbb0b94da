"""What clients see while a shared Envoy is upgraded, killed or hangs.

Each test is a row of the table in docs/howto/shared-envoy.md.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.helpers.endings import metric
from tests.helpers.http_app import Client
from tests.helpers.shared import L7, Shared
from tests.helpers.visits import PASSING, STAYING, Visits
from uproxy.lab.mesh import ThroughL7
from uproxy.lab.ports import listens
from uproxy.lab.software.shared_envoy import SharedEnvoy
from uproxy.lab.waiting import wait_until

SOON = ("--drain-time-s", "1", "--parent-shutdown-time-s", "2")
"""Envoy's defaults are 10 and 15 minutes."""
QUICK = {"connect": "1s", "handshake": "1s"}


@dataclass(frozen=True, slots=True)
class Two:
    """Two Envoys, a uProxy that uses both, and its clients."""

    first: SharedEnvoy
    second: SharedEnvoy
    uproxy: ThroughL7
    visits: Visits

    def mark_first(self) -> None:
        """Mark the first Envoy as draining in the uProxy's configuration."""
        name = "uproxy_config_reloads_total"
        before = metric(self.uproxy, name)
        ports = self.first.port, self.second.port
        marked = ThroughL7.addresses(*ports, draining=[self.first.port])
        self.uproxy.change(l7_proxies={"l7": {"identities": [L7], "addresses": marked}})
        wait_until(lambda: metric(self.uproxy, name) > before, "the uProxy to reload")

    def nobody_noticed(self) -> bool:
        return self.visits.failures == self.visits.lost == []


@pytest.fixture
def two(shared: Shared, request: pytest.FixtureRequest) -> Iterator[Two]:
    """`request.param`, where there is one, are further keys of the uProxy's configuration."""
    more = getattr(request, "param", {})
    with (
        shared.another_envoy("--disable-hot-restart", *SOON) as first,
        shared.another_envoy() as second,
        shared.caller(envoys=[first, second], timeouts=QUICK, **more) as uproxy,
        Visits(uproxy.port) as visits,
    ):
        assert open_streams(first)
        assert open_streams(second)
        yield Two(first, second, uproxy, visits)


def counter(envoy: SharedEnvoy, name: str) -> int:
    return envoy.statistics(name)[name]


def open_streams(envoy: SharedEnvoy) -> int:
    return counter(envoy, "http.tunnels.downstream_rq_active")


def test_marked_draining_it_gets_no_new_connection_and_keeps_the_old_ones(two: Two) -> None:
    two.mark_first()
    two.visits.more(20)
    streams = counter(two.first, "http.tunnels.downstream_rq_total")
    two.visits.more(200)
    assert counter(two.first, "http.tunnels.downstream_rq_total") == streams
    assert open_streams(two.first)
    assert two.nobody_noticed()


@pytest.mark.slow
def test_marked_and_then_ended_it_costs_only_connections_that_stayed(two: Two) -> None:
    two.mark_first()
    two.visits.more(20)
    left = open_streams(two.first)
    two.first.stop(signal.SIGTERM)
    two.visits.more(100)
    assert two.visits.failures == []
    assert len(two.visits.lost) == left


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_killed_or_ended_it_costs_what_was_open_and_others_serve_what_is_new(
    two: Two, number: signal.Signals
) -> None:
    two.first.stop(number)
    two.visits.more(50)
    assert len(two.visits.failures) <= PASSING
    assert 0 < len(two.visits.lost) <= STAYING
    seen = [*two.visits.failures], [*two.visits.lost]
    two.visits.more(200)
    assert (two.visits.failures, two.visits.lost) == seen


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_killed_or_ended_it_costs_no_open_connection_on_which_nothing_was_sent(
    shared: Shared, number: signal.Signals
) -> None:
    """Envoy has answered its CONNECT with 200, as if it had reached the destination."""
    with (
        shared.another_envoy() as first,
        shared.caller(envoys=[first], timeouts=QUICK) as uproxy,
        shared.another_envoy() as second,
        socket.create_connection(("127.0.0.1", uproxy.port), timeout=20) as silent,
    ):
        wait_until(lambda: open_streams(first) == 1, "Envoy's 200")
        wait_until(lambda: json.loads(uproxy.request("/connections")[1])["total"] == 1, "ours")
        name = "uproxy_config_reloads_total"
        before = metric(uproxy, name)
        both = ThroughL7.addresses(first.port, second.port)
        uproxy.change(l7_proxies={"l7": {"identities": [L7], "addresses": both}})
        wait_until(lambda: metric(uproxy, name) > before, "the uProxy to reload")
        first.stop(number)
        wait_until(lambda: open_streams(second) == 1, "the connection to go elsewhere")
        silent.sendall(b"GET / HTTP/1.1\r\nhost: there\r\nconnection: close\r\n\r\n")
        assert silent.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_drained_nobody_notices(two: Two) -> None:
    two.first.admin("/healthcheck/fail", "POST")
    two.first.admin("/drain_listeners?graceful", "POST")
    wait_until(lambda: not listens(two.first.port), "it to stop listening")
    wait_until(lambda: open_streams(two.first) == 0, "clients to be asked to go")
    two.visits.more(100)
    assert two.nobody_noticed()


@pytest.mark.slow
def test_restarted_hot_it_cuts_only_connections_that_were_idle(shared: Shared) -> None:
    base = "--base-id", str(shared.envoy.port)
    with (
        shared.another_envoy(*SOON, *base, "--restart-epoch", "0") as envoy,
        shared.caller(envoys=[envoy]) as uproxy,
        Client(uproxy.port) as idle,
        Visits(uproxy.port) as visits,
    ):
        assert idle.fetch().status == 200
        with envoy.successor():
            wait_until(lambda: not envoy.running, "it to end", 20)
            visits.more(100)
            assert visits.failures == visits.lost == []
            with pytest.raises((OSError, http.client.HTTPException)):
                idle.fetch()


@pytest.mark.slow
def test_restarted_hot_it_cuts_plain_tcp_though_it_is_busy(shared: Shared) -> None:
    """Without a look at the requests it can't tell clients to reconnect."""
    base = "--base-id", str(shared.envoy.port)
    with (
        shared.another_envoy(*SOON, *base, "--restart-epoch", "0") as envoy,
        shared.caller(envoys=[envoy]) as uproxy,
    ):
        envoy.use("tcp-only", {":5432": f":{shared.first.port}"})
        with Client(uproxy.port) as busy:
            assert busy.fetch().status == 200
            assert counter(envoy, "tcp.tcp.downstream_cx_total") == 1
            with envoy.successor():
                assert answers_until_it_is_cut(busy) > 0
                wait_until(lambda: not envoy.running, "it to end", 20)
                with Client(uproxy.port) as new:
                    assert new.fetch().status == 200


def answers_until_it_is_cut(client: Client) -> int:
    for answers in range(20_000):
        try:
            assert client.fetch().status == 200
        except (OSError, http.client.HTTPException):
            return answers
    raise AssertionError("it is never cut")


@pytest.mark.slow
@pytest.mark.parametrize("two", [{"hbone": {"keepalive": "2s"}}], indirect=True, ids=["2 s"])
def test_hanging_for_too_long_it_costs_what_was_open(two: Two) -> None:
    """For twice `hbone.keepalive`: a minute by default."""
    two.first.send(signal.SIGSTOP)
    try:
        wait_until(lambda: two.visits.lost, "open connections to be reset", 30)
        two.visits.more(100)
    finally:
        two.first.send(signal.SIGCONT)
    assert len(two.visits.failures) <= PASSING  # whose request was under way
    assert 0 < len(two.visits.lost) < STAYING


@pytest.mark.slow
def test_hanging_it_keeps_what_is_open_and_others_serve_what_is_new(two: Two) -> None:
    two.first.send(signal.SIGSTOP)
    two.visits.more(200)
    two.first.send(signal.SIGCONT)
    two.visits.more(200)
    assert two.nobody_noticed()


@pytest.mark.slow
def test_without_any_connections_are_refused_at_once_until_it_is_back(shared: Shared) -> None:
    with (
        shared.another_envoy() as envoy,
        shared.caller(envoys=[envoy]) as uproxy,
        Visits(uproxy.port) as visits,
    ):
        envoy.stop(signal.SIGKILL)
        wait_until(lambda: len(visits.failures) > 10 * PASSING, "new connections to fail")
        refused = [line for line in uproxy.accesses if line["outcome"] == "l7_unavailable"]
        assert "is the L7 proxy l7 running?" in refused[-1]["error"]
        assert {line["bytes_sent"] for line in refused} == {0}
        envoy.start()
        visits.more(20)
        seen = len(visits.failures)
        visits.more(100)
        assert len(visits.failures) == seen


def test_with_other_routes_nobody_notices(shared: Shared) -> None:
    with shared.caller() as uproxy, Visits(uproxy.port) as visits:
        for capability in ("retries", "lua", "rbac-on-the-caller", "canary", None):
            shared.envoy.use(capability)
            visits.more(30)
        assert visits.failures == visits.lost == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"stat_prefix": "tunnels"', '"stat_prefix": "new"'),
        ('"stat_prefix": "l7"', '"stat_prefix": "new"'),
    ],
    ids=["tunnels", "l7"],
)
def test_with_other_listeners_what_is_open_is_cut(shared: Shared, old: str, new: str) -> None:
    """Which is why policy belongs into routes."""
    envoy = shared.another_envoy("--disable-hot-restart", *SOON)
    listeners = with_listeners_by_discovery(envoy)
    with envoy, shared.caller(envoys=[envoy]) as uproxy, Visits(uproxy.port) as visits:
        before = counter(envoy, "listener_manager.lds.update_success")
        fresh = envoy.home / "new"
        fresh.write_text(listeners.read_text().replace(old, new))
        fresh.replace(listeners)
        wait_until(
            lambda: counter(envoy, "listener_manager.lds.update_success") > before, "the change"
        )
        wait_until(lambda: draining(envoy) == 0, "what was open to be cut")
        visits.more(100)
        assert len(visits.failures) <= PASSING
        assert len(visits.lost) == STAYING


def with_listeners_by_discovery(envoy: SharedEnvoy) -> Path:
    """Move an Envoy's listeners into a file of their own (LDS); return it."""
    base, file = envoy.home / "base.yaml", envoy.home / "listeners.yaml"
    whole = yaml.safe_load(base.read_text())
    kind = "type.googleapis.com/envoy.config.listener.v3.Listener"
    listeners = whole["static_resources"].pop("listeners")
    file.write_text(json.dumps({"resources": [{"@type": kind, **each} for each in listeners]}))
    source = {"resource_api_version": "V3", "path_config_source": {"path": "./listeners.yaml"}}
    whole["dynamic_resources"]["lds_config"] = source
    base.write_text(json.dumps(whole))
    return file


def draining(envoy: SharedEnvoy) -> int:
    """How many of its listeners, or their filter chains, are on their way out."""
    kinds = "listeners", "filter_chains"
    return sum(counter(envoy, f"listener_manager.total_{each}_draining") for each in kinds)
