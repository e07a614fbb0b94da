"""go-spiffe dials a running uProxy, and is dialed by one: both live on one Workload API."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.background import background
from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, handshakes, metric, only
from tests.helpers.gospiffe import GoClient, GoServer
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.mesh import (
    ORDERS,
    STRANGER,
    UNWANTED,
    WEB,
    AgentWorld,
    Inbound,
    Outbound,
    by_agent,
)
from uproxy.lab.waiting import wait_until

HEARD = {"server": ORDERS, "heard": "hello\n"}


@pytest.fixture(scope="module")
def door(folder: Path, agent_world: AgentWorld, echo_app: int) -> Iterator[Inbound]:
    with Inbound(folder, agent_world.ours(ORDERS), echo_app) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


@pytest.fixture
def restless(tmp_path: Path) -> Iterator[str]:
    """A Workload API whose SVIDs are renewed every two seconds."""
    domain = {"ttl": "4s", "entries": [entry(WEB), entry(ORDERS)]}
    with DevAuthority(tmp_path, {"example.org": domain}) as authority:
        yield authority.endpoints["example.org"]


def dial(folder: Path, world: AgentWorld, ours: str, port: int, *, server: str) -> dict[str, str]:
    domain = ours.split("/")[2]
    with GoClient(folder, world.authority.endpoints[domain], ours, port, server=server) as client:
        return client.result()


def test_it_dials_in(folder: Path, agent_world: AgentWorld, door: Inbound) -> None:
    before = handshakes(door, direction="inbound", version="TLSv1.3")

    with ended(door, "closed") as lines:
        assert dial(folder, agent_world, WEB, door.port, server=ORDERS) == HEARD

    line = only(lines)
    assert (line["src.identity"], line["dst.identity"]) == (WEB, ORDERS)
    assert (line["bytes_recv"], line["bytes_sent"], line["rule"]) == (6, 6, "callers")
    assert handshakes(door, direction="inbound", version="TLSv1.3") == before + 1


def test_one_whom_no_rule_allows_hears_nothing(
    folder: Path, agent_world: AgentWorld, door: Inbound
) -> None:
    with ended(door, "denied") as lines:
        said = dial(folder, agent_world, UNWANTED, door.port, server=ORDERS)
    # a reset is an EOF for who was told of it while writing
    assert "reset" in said["error"] or said["error"] == "EOF"
    assert only(lines)["src.identity"] == UNWANTED


def test_one_of_another_trust_domain_breaks_off(
    folder: Path, agent_world: AgentWorld, door: Inbound
) -> None:
    """It has no bundle for us, either."""
    with ended(door, "handshake_failed") as lines:
        said = dial(folder, agent_world, STRANGER, door.port, server=ORDERS)
    assert "no X.509 bundle" in said["error"]
    assert str(only(lines)["error"]).startswith("the peer refused our certificate (")


def test_one_that_expects_somebody_else_breaks_off(
    folder: Path, agent_world: AgentWorld, door: Inbound
) -> None:
    with ended(door, "handshake_failed"):
        said = dial(folder, agent_world, WEB, door.port, server=UNWANTED)
    assert "unexpected ID" in said["error"]


def test_it_is_dialed(folder: Path, agent_world: AgentWorld) -> None:
    with (
        GoServer(folder, agent_world.endpoint, ORDERS, caller=WEB) as server,
        Outbound(folder, agent_world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=3) as lines:
            for _ in range(3):
                assert ask(uproxy.port) == b"hello\n"
        assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(WEB, ORDERS)}
        assert server.printed.count({"caller": WEB}) == 3


def test_one_with_a_wrong_identity_is_not_what_was_expected(
    folder: Path, agent_world: AgentWorld
) -> None:
    with (
        GoServer(folder, agent_world.endpoint, UNWANTED, caller=WEB) as server,
        Outbound(folder, agent_world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_unexpected") as lines:
            assert ask(uproxy.port) == b""
        assert UNWANTED in only(lines)["error"]
        # and it hears why, where an alert in the clear would be a corrupt record
        wait_until(lambda: "remote error: tls: unknown certificate" in server.output, "the alert")


def test_one_that_refuses_us_is_a_failed_handshake(folder: Path, agent_world: AgentWorld) -> None:
    with (
        GoServer(folder, agent_world.endpoint, ORDERS, caller=WEB) as server,
        Outbound(folder, agent_world.ours(UNWANTED), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "handshake_failed", opened=True):
            assert ask(uproxy.port) == b""
        wait_until(lambda: "unexpected ID" in server.output, "its refusal")


def test_a_connection_that_it_has_dialed_lives_through_rotations(
    folder: Path, restless: str
) -> None:
    """Both sides' SVIDs expire while the application takes its time to answer."""
    patience = threading.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        await asyncio.to_thread(patience.wait, 60)
        writer.write(line)
        writer.close()

    with (
        background(slow) as app,
        Inbound(folder, by_agent(restless, ORDERS), app) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "closed") as lines,
            GoClient(folder, restless, WEB, uproxy.port, server=ORDERS) as client,
        ):
            wait_until(lambda: metric(uproxy, "uproxy_connections"), "the connection")
            wait_until(lambda: rotations(uproxy) >= 3, "three rotations", timeout=20)
            assert client.running
            patience.set()
            assert client.result() == HEARD
        assert only(lines)["src.identity"] == WEB


def test_a_connection_that_it_has_accepted_lives_through_rotations(
    folder: Path, restless: str
) -> None:
    with (
        GoServer(folder, restless, ORDERS, caller=WEB) as server,
        Outbound(folder, by_agent(restless, WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "closed", count=2) as lines,
            socket.create_connection(("127.0.0.1", uproxy.port), 10) as client,
        ):
            wait_until(lambda: metric(uproxy, "uproxy_connections"), "the connection")
            wait_until(lambda: rotations(uproxy) >= 3, "three rotations", timeout=20)
            assert ask(uproxy.port) == b"hello\n"
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        assert {line["dst.identity"] for line in lines} == {ORDERS}


def rotations(uproxy: Inbound | Outbound) -> float:
    return metric(uproxy, "uproxy_identity_rotations_total")
