"""Rotation, revocation, expiry and an agent that dies, seen by strangers (openssl) who talk to
a running uProxy meanwhile: what new handshakes get, and what becomes of open connections.
"""

from __future__ import annotations

import json
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.agents import BILLING, Agent
from tests.helpers.dialogue import (
    ask,
    is_reset,
    open_connection,
    refused,
    s_client,
    shown_serial,
    still_talks,
)
from tests.helpers.endings import ended, metric, only
from uproxy.lab.authorities import entry
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import (
    ORDERS,
    UNWANTED,
    WEB,
    Inbound,
    Outbound,
    allowing,
    by_agent,
    own_serial,
)
from uproxy.lab.processes import Uproxy
from uproxy.lab.software.peers import SServer
from uproxy.lab.waiting import wait_until


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Not started."""
    # pytest's own folders are too long for a socket's path
    with tempfile.TemporaryDirectory(prefix="agent-") as sockets:
        yield Agent(tmp_path, Path(sockets))


@pytest.fixture
def running(agent: Agent) -> Iterator[Agent]:
    with agent.authority:
        yield agent


def not_ready(uproxy: Uproxy) -> str:
    """Why, once it isn't."""
    wait_until(lambda: uproxy.status("/readyz") == 503, "it not to be ready", timeout=20)
    return uproxy.request("/readyz")[1]


def test_new_handshakes_show_the_new_svid_and_open_connections_live_on(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    running.define(ttl="4s")
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "closed", count=2) as lines,
            open_connection(uproxy.port, running.files(WEB)) as old,
        ):
            before = metric(uproxy, "uproxy_identity_rotations_total")
            wait_until(
                lambda: metric(uproxy, "uproxy_identity_rotations_total") > before, "a renewal"
            )
            now = own_serial(uproxy)
            with open_connection(uproxy.port, running.files(WEB)) as new:
                assert shown_serial(new) == now != shown_serial(old)
                still_talks(old)
                new.end()
            old.end()
        assert {line["src.identity"] for line in lines} == {WEB}
        assert uproxy.status("/readyz") == 200


def test_no_handshake_fails_while_the_ca_is_replaced(
    agent: Agent, tmp_path: Path, echo_app: int
) -> None:
    """Two uProxies learn of a new root, of new SVIDs and of the old root's end by themselves,
    each in its own moment."""
    agent.plan(ttl="4s")
    with (
        agent.authority,
        Inbound(tmp_path, by_agent(agent.endpoint, ORDERS), echo_app) as inbound,
        Outbound(tmp_path, by_agent(agent.endpoint, WEB), inbound.port) as outbound,
    ):
        inbound.wait_until_ready()
        outbound.wait_until_ready()

        def roots_after_a_connection() -> int:
            assert ask(outbound.port) == b"hello\n"
            return own_roots(inbound)

        assert roots_after_a_connection() == 1
        agent.authority.send(signal.SIGUSR1)
        wait_until(lambda: roots_after_a_connection() == 2, "the new root")
        wait_until(lambda: roots_after_a_connection() == 1, "the old root's end", timeout=20)
        for _ in range(20):
            roots_after_a_connection()
        for uproxy in (inbound, outbound):
            failed = metric(uproxy, "istio_tcp_connections_failed_total")
            assert (failed, {line["outcome"] for line in uproxy.accesses}) == (0, {"closed"})


def own_roots(uproxy: Uproxy) -> int:
    """How many roots of its own trust domain it believes."""
    domains = json.loads(uproxy.request("/certs")[1])["trust_domains"]
    return next(len(domain["roots"]) for domain in domains if domain["own"])


def test_a_revoked_caller_is_cut_off_and_kept_out(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    """Though a reload had its connection judged before, and found good."""
    web, unwanted = running.files(WEB), running.files(UNWANTED)
    ours = by_agent(running.endpoint, ORDERS)
    with Inbound(tmp_path, ours, echo_app, allow=[WEB, UNWANTED, ORDERS]) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as revoked,
            open_connection(uproxy.port, unwanted) as other,
            open_connection(uproxy.port, running.files(ORDERS)) as denied,
        ):
            uproxy.change(authorization=[allowing(WEB, UNWANTED)])
            is_reset(denied)
            with ended(uproxy, "identity_distrusted", rule="UP-2", opened=True) as lines:
                running.define(revoke=[WEB])
                is_reset(revoked)
            assert only(lines)["src.identity"] == WEB
            assert "revoked" in only(lines)["error"]

            with ended(uproxy, "peer_untrusted", rule="UP-2") as lines:
                assert "SSL alert number 44" in refused(uproxy.port, web)
            assert "revoked" in only(lines)["error"]
            still_talks(other)


def test_a_revoked_caller_may_finish_where_distrust_keeps(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    web = running.files(WEB)
    ours = by_agent(running.endpoint, ORDERS, on_distrust="keep")
    with Inbound(tmp_path, ours, echo_app) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, web) as client:
            running.define(revoke=[WEB])
            wait_until(lambda: "revoked" in refused_reason(uproxy, web), "the revocation")
            still_talks(client)
            with ended(uproxy, "closed"):
                client.end()


def refused_reason(uproxy: Inbound, identity: IdentityFiles) -> str:
    """Why the last of all callers wasn't let in; empty when he was."""
    seen = len(uproxy.accesses)
    with s_client(uproxy.port, identity) as client:
        client.end()
    wait_until(lambda: len(uproxy.accesses) > seen, "an access line")
    return uproxy.accesses[-1]["error"] or ""


def test_a_caller_whose_trust_domain_is_no_longer_federated_is_cut_off(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    billing = running.files(BILLING)
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app, allow=[BILLING]) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, billing) as client:
            with ended(uproxy, "identity_distrusted", rule="X5-17", opened=True):
                running.unfederate()
                is_reset(client)
            with ended(uproxy, "peer_untrusted", rule="X5-17"):
                assert "SSL alert number 48" in refused(uproxy.port, billing)


def test_a_revoked_server_is_cut_off(running: Agent, tmp_path: Path) -> None:
    with (
        SServer(tmp_path, running.files(ORDERS)) as server,
        Outbound(tmp_path, by_agent(running.endpoint, WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            socket.create_connection(("127.0.0.1", uproxy.port), 20) as app,
            ended(uproxy, "identity_distrusted", rule="UP-2", opened=True) as lines,
        ):
            app.sendall(b"hello\n")
            assert app.recv(100) == b"olleh\n"
            running.define(revoke=[ORDERS])
            with pytest.raises(ConnectionResetError):
                app.recv(100)
        assert only(lines)["dst.identity"] == ORDERS
        with ended(uproxy, "peer_untrusted", rule="UP-2"):
            assert ask(uproxy.port) == b""


@pytest.mark.parametrize("left", [[], [WEB]], ids=["nothing is left", "another is left"])
def test_without_its_entry_uproxy_has_no_identity(
    running: Agent, tmp_path: Path, echo_app: int, left: list[str]
) -> None:
    web = running.files(WEB)
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        with (
            open_connection(uproxy.port, web) as client,
            ended(uproxy, "identity_distrusted", rule="callers", opened=True) as lines,
        ):
            running.define(entries=[entry(each) for each in left])
            is_reset(client)
        assert "withdrawn" in only(lines)["error"]

        reason = not_ready(uproxy)
        assert ("only" if left else "no identity") in reason
        with ended(uproxy, "no_identity"):
            refused(uproxy.port, web)
        assert metric(uproxy, "uproxy_identity_revocations_total") == 1

        running.define()
        uproxy.wait_until_ready(5)
        with ended(uproxy, "closed"), open_connection(uproxy.port, running.files(WEB)) as client:
            client.end()


def test_an_agent_that_is_killed_is_missed_only_at_expiry(
    running: Agent, tmp_path: Path, echo_app: int
) -> None:
    web = running.files(WEB)
    running.define(ttl="6s")
    with Inbound(tmp_path, by_agent(running.endpoint, ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        running.authority.send(signal.SIGKILL)
        running.authority.wait()
        with ended(uproxy, "closed"), open_connection(uproxy.port, web) as client:
            assert uproxy.status("/readyz") == 200
            client.end()

        assert "expired" in not_ready(uproxy)
        with ended(uproxy, "no_identity"):
            refused(uproxy.port, web)

        running.authority.start()
        uproxy.wait_until_ready(5)
        with ended(uproxy, "closed"), open_connection(uproxy.port, running.files(WEB)) as client:
            client.end()
        assert metric(uproxy, "uproxy_workload_api_reconnects_total") >= 1


def test_uproxy_starts_without_an_agent_and_waits_for_it(
    agent: Agent, tmp_path: Path, echo_app: int
) -> None:
    with Inbound(tmp_path, by_agent(agent.endpoint, ORDERS), echo_app) as uproxy:
        wait_until(lambda: uproxy.status("/livez") == 200, "it to live")
        reason = not_ready(uproxy)
        assert "no identity yet" in reason
        assert "agent.sock" in reason
        with (
            ended(uproxy, "no_identity"),
            pytest.raises(ConnectionResetError),
        ):
            say_one_byte(uproxy.port)

        with agent.authority:
            uproxy.wait_until_ready(5)
            with ended(uproxy, "closed"), open_connection(uproxy.port, agent.files(WEB)) as client:
                client.end()


def say_one_byte(port: int) -> None:
    """Connect, send a byte (whoever sends none is a probe), and receive; a reset may come as early
    as in the connect."""
    with socket.create_connection(("127.0.0.1", port), 20) as caller:
        caller.sendall(b"\x16")
        caller.recv(1)
