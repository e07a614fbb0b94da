"""The caller's uProxy goes via shared Envoys (deploy/envoy), as real processes, in both engines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, metric, only, told
from tests.helpers.http_app import Client, fetch
from tests.helpers.shared import L7, Shared
from uproxy.lab.mesh import ORDERS, TUNNEL_ENGINES, UNWANTED, WEB, TunnelsIn, TunnelsOut
from uproxy.lab.ports import free_port
from uproxy.lab.software.envoy import EnvoyServer
from uproxy.lab.software.shared_envoy import SharedEnvoy
from uproxy.lab.waiting import wait_until
from uproxy.transport.failures import NO_TUNNELS

SLOW = pytest.mark.slow
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Caller(TunnelsOut):
    """A uProxy whose door leads to an application via the shared Envoys on loopback ports."""

    def __init__(
        self,
        shared: Shared,
        *envoys: int,
        engine: str,
        app: int | None = None,
        expect: str = ORDERS,
        l7_identity: str = L7,
        half_close: str = "60s",
        patience: str = "1s",
        **proxy: Any,
    ) -> None:
        """`proxy`: further keys of the entry in `l7_proxies`."""
        self._proxy = {"identities": [l7_identity], **proxy}
        super().__init__(
            shared.folder, shared.world.ours(WEB), app or shared.first.port,
            end=shared.envoy.destinations, engine=engine, expect=[expect],
            l7_proxies={"l7": self._entry(*envoys)},
            timeouts={"connect": patience, "handshake": patience, "half_close": half_close},
        )  # fmt: skip
        self.config["destinations"]["peer"]["via"] = "l7"
        self.write_config(self.config)

    def _entry(self, *envoys: int, draining: int = 0) -> dict[str, Any]:
        addresses = [{"address": f"127.0.0.1:{port}", "draining": port == draining}
                     for port in envoys]  # fmt: skip
        return {"addresses": addresses, **self._proxy}

    def change(self, *envoys: int, draining: int = 0, via: str | None = "l7") -> None:
        """Reload with other Envoys, of which one may be draining, or straight there."""
        entry = self._entry(*envoys, draining=draining)
        peer = {**self.config["destinations"]["peer"], "via": via}
        if via is None:
            del peer["via"]
        before = metric(self, "uproxy_config_reloads_total", result="applied")
        self.config = {**self.config, "l7_proxies": {"l7": entry}, "destinations": {"peer": peer}}
        self.write_config(self.config)
        wait_until(
            lambda: metric(self, "uproxy_config_reloads_total", result="applied") > before,
            "the reload",
        )


@pytest.fixture(params=TUNNEL_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def started(caller: Caller) -> Iterator[Caller]:
    with caller:
        caller.wait_until_ready()
        yield caller


@pytest.fixture
def other(shared: Shared) -> Iterator[SharedEnvoy]:
    """A second shared Envoy."""
    with shared.another_envoy() as envoy:
        yield envoy


def streams(envoy: SharedEnvoy) -> int:
    """How many CONNECTs it has taken."""
    return envoy.statistics("http.tunnels.downstream_rq_total")["http.tunnels.downstream_rq_total"]


def tunnels(envoy: SharedEnvoy) -> int:
    """How many tunnels are open to it."""
    return envoy.statistics("http.tunnels.downstream_cx_active")[
        "http.tunnels.downstream_cx_active"
    ]


def test_a_request_goes_through_and_the_envoy_is_told_whom_to_find(
    shared: Shared, engine: str
) -> None:
    with started(Caller(shared, shared.envoy.port, engine=engine)) as caller:
        seen = len(shared.envoy.accesses)
        with ended(caller, "closed") as lines:
            assert fetch(caller.port).app == "first"
        line = only(lines)
        assert (line["via"], line["src.identity"], line["dst.identity"]) == ("l7", WEB, L7)
        assert line["dst.addr"] == f"127.0.0.1:{shared.envoy.port}"
        assert line["dst.hbone_addr"] == shared.addresses[0]

        def told() -> list[tuple[str, str]]:
            lines = [each for each in shared.envoy.accesses[seen:] if each["hop"] == "tunnels"]
            return [(each["caller"], each["expects"]) for each in lines]

        # other tests' connections may end meanwhile
        wait_until(lambda: (WEB, ORDERS) in told(), "Envoy's line")


def test_an_envoy_that_finds_somebody_else_at_the_destination_sends_nothing_there(
    shared: Shared, engine: str
) -> None:
    with started(Caller(shared, shared.envoy.port, engine=engine, expect=UNWANTED)) as caller:
        before = len(shared.first.requests)
        assert fetch(caller.port).status == 503
        assert len(shared.first.requests) == before


def test_where_the_bytes_are_no_http_who_is_refused_behind_the_envoy_is_told_where_to_look(
    shared: Shared, engine: str
) -> None:
    shared.envoy.use("tcp-only", {":5432": f":{shared.first.port}"})
    with started(Caller(shared, shared.envoy.port, engine=engine, expect=UNWANTED)) as caller:
        with ended(caller, "l7_refused", opened=True) as lines:
            assert ask(caller.port, GET) == b""
        error = only(lines)["error"]
        assert error.startswith(f"L7 proxy l7 at 127.0.0.1:{shared.envoy.port}: reset before")


def test_an_envoy_with_another_identity_is_refused(shared: Shared, engine: str) -> None:
    caller = Caller(shared, shared.envoy.port, engine=engine, l7_identity=UNWANTED)
    with started(caller):
        with ended(caller, "peer_unexpected") as lines:
            assert ask(caller.port) == b""
        error = only(lines)["error"]
        assert error.startswith(f"L7 proxy l7 at 127.0.0.1:{shared.envoy.port}: wanted {UNWANTED}")


def test_an_envoy_that_refuses_is_not_gone_past(shared: Shared, engine: str) -> None:
    """Its own identity is denied, and so is a port that belongs to tunnels."""
    caller = Caller(shared, shared.envoy.port, engine=engine, app=15008, when_unavailable="bypass")
    with started(caller):
        with ended(caller, "l7_refused", opened=False) as lines:
            assert ask(caller.port) == b""
        assert "answered the CONNECT with 403" in only(lines)["error"]


def test_half_a_close_behind_a_request_costs_no_answer(shared: Shared, engine: str) -> None:
    """Envoy would drop it if it got the end while the application thinks."""
    with (
        started(Caller(shared, shared.envoy.port, engine=engine, half_close="2s")) as caller,
        socket.create_connection(("127.0.0.1", caller.port), timeout=20) as sock,
        ended(caller, "closed"),
    ):
        sock.sendall(b"GET /200000 HTTP/1.1\r\nhost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(body) == 200_000


def test_an_envoy_that_is_killed_costs_only_what_was_open_there(
    shared: Shared, other: SharedEnvoy, engine: str
) -> None:
    with started(Caller(shared, shared.envoy.port, other.port, engine=engine)) as caller:
        for _ in range(6):
            assert fetch(caller.port).app == "first"
        assert streams(other) >= 2
        other.stop(signal.SIGKILL)
        for _ in range(20):
            assert fetch(caller.port).app == "first"
        labels = {"l7_proxy": "l7", "outcome": "l7_unavailable"}
        assert 1 <= metric(caller, "uproxy_l7_failures_total", **labels) <= 4
        other.start()
        before = streams(other)

        def is_used_again() -> bool:
            assert fetch(caller.port).app == "first"
            return streams(other) > before

        wait_until(is_used_again, "the Envoy to be used again")


def test_an_envoy_that_is_frozen_is_left_in_time(
    shared: Shared, other: SharedEnvoy, engine: str
) -> None:
    with started(Caller(shared, shared.envoy.port, other.port, engine=engine)) as caller:
        for _ in range(4):
            assert fetch(caller.port).app == "first"
        os.kill(other.pid, signal.SIGSTOP)
        try:
            for _ in range(6):
                assert fetch(caller.port).app == "first"
        finally:
            os.kill(other.pid, signal.SIGCONT)
        assert metric(caller, "uproxy_l7_failures_total", outcome="l7_unavailable") >= 1


def test_a_draining_envoy_keeps_what_is_open_gets_nothing_new_and_is_closed_with_its_last(
    shared: Shared, other: SharedEnvoy, engine: str
) -> None:
    with started(Caller(shared, other.port, engine=engine)) as caller:
        with Client(caller.port) as old:
            assert old.fetch().app == "first"
            caller.change(other.port, shared.envoy.port, draining=other.port)
            before = streams(other)
            for _ in range(5):
                assert fetch(caller.port).app == "first"
            assert old.fetch().app == "first"
            assert (streams(other), tunnels(other)) == (before, 1)
        wait_until(lambda: tunnels(other) == 0, "the tunnel to be closed, long before it is idle")


def test_an_envoy_that_is_removed_keeps_what_is_open_too(
    shared: Shared, other: SharedEnvoy, engine: str
) -> None:
    with started(Caller(shared, other.port, engine=engine)) as caller:
        with Client(caller.port) as old:
            assert old.fetch().app == "first"
            caller.change(shared.envoy.port)
            assert fetch(caller.port).app == "first"
            assert old.fetch().app == "first"
        wait_until(lambda: tunnels(other) == 0, "the tunnel to be closed")


def test_without_an_envoy_connections_are_refused_with_its_name(
    shared: Shared, engine: str
) -> None:
    nobody = free_port()
    with started(Caller(shared, nobody, engine=engine)) as caller:
        with ended(caller, "l7_unavailable") as lines:
            assert ask(caller.port) == b""
        error = only(lines)["error"]
        assert error.startswith(f"L7 proxy l7 at 127.0.0.1:{nobody}: connection refused by")


@contextlib.contextmanager
def nobody(_shared: Shared) -> Iterator[int]:
    yield free_port()


@contextlib.contextmanager
def frozen(shared: Shared) -> Iterator[int]:
    with shared.another_envoy() as envoy:
        os.kill(envoy.pid, signal.SIGSTOP)
        yield envoy.port
        os.kill(envoy.pid, signal.SIGCONT)


@contextlib.contextmanager
def in_clear(shared: Shared) -> Iterator[int]:
    """An HTTP server."""
    yield shared.first.port


@contextlib.contextmanager
def over_http_1(shared: Shared) -> Iterator[int]:
    """An Envoy that takes mutual TLS, and no tunnels."""
    identity = shared.world.theirs(L7)
    with EnvoyServer(shared.folder, identity, target=shared.first.port, allow=[WEB]) as envoy:
        yield envoy.port


@contextlib.contextmanager
def somebody_else(shared: Shared) -> Iterator[int]:
    """The destination's uProxy, which speaks HBONE and isn't the L7 proxy."""
    yield shared.orders.port


@pytest.mark.parametrize(
    ("what", "outcome", "words", "way_out"),
    [
        (nobody, "l7_unavailable", "connection refused by", "is the L7 proxy l7 running?"),
        pytest.param(frozen, "l7_unavailable", "the handshake in 3 s", "is it frozen", marks=SLOW),
        (in_clear, "l7_unavailable", "doesn't speak TLS", "(l7_proxies.l7.addresses: "),
        (somebody_else, "peer_unexpected", "wanted", "(l7_proxies.l7.identities)"),
    ],
)
def test_whatever_is_wrong_with_an_envoy_is_told_with_a_way_out(
    shared: Shared,
    engine: str,
    what: Callable[[Shared], contextlib.AbstractContextManager[int]],
    outcome: str,
    words: str,
    way_out: str,
) -> None:
    with (
        what(shared) as port,
        started(Caller(shared, port, engine=engine, patience="3s")) as caller,
    ):
        with ended(caller, outcome) as lines:
            assert ask(caller.port) == b""
        error, status = only(lines)["error"], told(caller)
        for said in (error, status):
            assert f"L7 proxy l7 at 127.0.0.1:{port}: " in said
            assert words in said
            assert way_out in said
        warned = [each for each in caller.lines if each.get("scope") != "access"]
        assert any(way_out in str(each) for each in warned)


@pytest.mark.slow
def test_an_envoy_that_takes_no_tunnels_is_asked_whether_it_does(
    shared: Shared, engine: str
) -> None:
    """What it answers is no HTTP/2; how often it is asked before that is given up depends on how
    busy the machine is."""
    with (
        over_http_1(shared) as port,
        started(Caller(shared, port, engine=engine, patience="5s")) as caller,
    ):
        with ended(caller, "l7_unavailable") as lines:
            assert ask(caller.port) == b""
        error, status = only(lines)["error"], told(caller)
        for said in (error, status):
            assert f"L7 proxy l7 at 127.0.0.1:{port}: " in said
            assert NO_TUNNELS in said


def test_bypass_goes_straight_there_loudly_and_back(
    shared: Shared, other: SharedEnvoy, folder: Path, engine: str
) -> None:
    tunnels_in = TunnelsIn(
        folder, shared.world.ours(ORDERS), shared.first.port, engine=engine, allow=[WEB, L7]
    )
    other.stop()
    with tunnels_in:
        tunnels_in.wait_until_ready()
        caller = Caller(shared, other.port, engine=engine, when_unavailable="bypass")
        caller.config["destinations"]["peer"]["hbone_port"] = tunnels_in.port
        caller.write_config(caller.config)
        with started(caller):
            with ended(caller, "closed") as lines:
                assert fetch(caller.port).app == "first"
            line = only(lines)
            assert (line["via"], line["dst.identity"]) == ("direct", ORDERS)
            assert metric(caller, "uproxy_l7_bypassed_total", l7_proxy="l7") == 1
            assert any("goes past L7 proxy l7" in str(each) for each in caller.lines)
            other.start()

            def goes_through() -> bool:
                assert fetch(caller.port).app == "first"
                return streams(other) > 0

            wait_until(goes_through, "the Envoy to be used again")


def test_via_can_be_switched_on_and_off_while_it_runs(shared: Shared, engine: str) -> None:
    with started(Caller(shared, shared.envoy.port, engine=engine)) as caller:
        with Client(caller.port) as through:
            assert through.fetch().app == "first"
            caller.change(shared.envoy.port, via=None)
            assert through.fetch().app == "first", "what goes through it may finish"
        with ended(caller, "peer_refused", opened=False):
            assert ask(caller.port) == b""  # the destination lets nobody in but the Envoy
        caller.change(shared.envoy.port)
        assert fetch(caller.port).app == "first"


@pytest.fixture
def apart(shared: Shared) -> Iterator[SharedEnvoy]:
    """A shared Envoy whose admin listener, as deploy/envoy has it, is at another address than its
    other listeners."""
    with shared.another_envoy(admin_host="127.0.0.2") as envoy:
        yield envoy


def endpoint(caller: Caller) -> dict[str, Any]:
    """The only address of its L7 proxy."""
    [proxy] = json.loads(caller.request("/l7")[1])["l7_proxies"]
    [row] = proxy["endpoints"]
    return dict(row)


def checked(envoy: SharedEnvoy) -> int:
    """How often it was asked for its health."""
    name = "http.health.downstream_rq_total"
    return envoy.statistics(name)[name]


def test_an_envoy_that_fails_its_health_check_is_left_and_told_and_what_is_open_stays(
    shared: Shared, apart: SharedEnvoy, engine: str
) -> None:
    health = {"port": apart.health_port, "interval": "200ms"}
    with started(Caller(shared, apart.port, engine=engine, health=health)) as caller:
        usable = partial(metric, caller, "uproxy_l7_endpoint_usable", l7_proxy="l7")
        wait_until(lambda: checked(apart) > 1, "it to be asked")
        with Client(caller.port) as old:
            assert old.fetch().app == "first"
            assert (endpoint(caller)["connections"], usable()) == (1, 1)
            apart.admin("/healthcheck/fail", "POST")
            wait_until(lambda: endpoint(caller)["passed_over"], "the health check to fail")
            assert endpoint(caller)["reason"] == "its health check fails: it answers 503"
            assert usable() == 0
            assert old.fetch().app == "first"
            apart.admin("/healthcheck/ok", "POST")
            wait_until(lambda: not endpoint(caller)["passed_over"], "the health check to pass")


def test_a_health_check_that_cannot_pass_is_told_and_lets_nobody_past_the_envoy(
    shared: Shared, apart: SharedEnvoy, engine: str
) -> None:
    """Envoy's admin listener isn't where its tunnels are, so it refuses every check."""
    health = {"port": apart.admin_port, "interval": "200ms"}
    caller = Caller(shared, apart.port, engine=engine, health=health, when_unavailable="bypass")
    with started(caller):
        wait_until(lambda: endpoint(caller)["passed_over"], "the health check to fail")
        before = streams(apart)
        for _ in range(5):
            assert fetch(caller.port).app == "first"
        assert streams(apart) == before + 5
        assert metric(caller, "uproxy_l7_bypassed_total") == 0
        status = told(caller)
        assert "no address of L7 proxy l7 passes its health check, so all are tried" in status
        assert f"is health.port {apart.admin_port} right, and open to this host?" in status
        assert any("has never passed: connection refused" in str(each) for each in caller.lines)
