"""A ghostunnel dials a running uProxy, and is dialed by one: both with identities from files,
and both on the Workload API of federated trust domains.

ghostunnel ends both directions with the first that ends, so nothing here half-closes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, handshakes, only
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import (
    ORDERS,
    UNWANTED,
    WEB,
    Config,
    FileWorld,
    Inbound,
    Outbound,
    by_agent,
)
from uproxy.lab.ports import free_port
from uproxy.lab.software.peers import GhostunnelClient, GhostunnelServer

MIB = 1 << 20
BILLING = "spiffe://partner.test/ns/billing/sa/invoices"


@dataclass(frozen=True)
class Meeting:
    """Who meets whom."""

    ghost: IdentityFiles | str
    """ghostunnel's files, or its Workload API."""
    ghost_id: str
    ours: Config
    our_id: str


@pytest.fixture(scope="module")
def federation(folder: Path) -> Iterator[DevAuthority]:
    """ghostunnel takes the first identity it is offered, so its trust domain has only one."""
    domains = {
        "example.org": {"entries": [entry(ORDERS)], "federates_with": ["partner.test"]},
        "partner.test": {
            "entries": [entry(BILLING)],
            "federates_with": ["example.org"],
            "intermediate": True,
        },
    }
    with DevAuthority(folder, domains) as authority:
        yield authority


@pytest.fixture(scope="module", params=["files", "workload api"])
def meeting(request: pytest.FixtureRequest, file_world: FileWorld) -> Meeting:
    if request.param == "files":
        return Meeting(file_world.theirs(WEB), WEB, file_world.ours(ORDERS), ORDERS)
    endpoints = request.getfixturevalue("federation").endpoints
    ours = by_agent(endpoints["example.org"], ORDERS)
    return Meeting(endpoints["partner.test"], BILLING, ours, ORDERS)


@pytest.fixture(scope="module")
def door(folder: Path, meeting: Meeting, echo_app: int) -> Iterator[Inbound]:
    with Inbound(folder, meeting.ours, echo_app, allow=[meeting.ghost_id]) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


def test_it_dials_in(folder: Path, meeting: Meeting, door: Inbound) -> None:
    before = handshakes(door, direction="inbound", version="TLSv1.3")
    with (
        GhostunnelClient(
            folder, meeting.ghost, target=door.port, verify=[meeting.our_id]
        ) as client,
        ended(door, "closed", count=3) as lines,
    ):
        for size in (1000, MIB, 4 * MIB):
            asyncio.run(traffic.exchange(client.port, size, half_close=False))

    # it may take its time to end the first
    assert sorted(line["bytes_recv"] for line in lines) == [1000, MIB, 4 * MIB]
    assert {line["src.identity"] for line in lines} == {meeting.ghost_id}
    assert handshakes(door, direction="inbound", version="TLSv1.3") == before + 3


def test_one_that_expects_somebody_else_breaks_off(
    folder: Path, meeting: Meeting, door: Inbound
) -> None:
    with GhostunnelClient(folder, meeting.ghost, target=door.port, verify=[UNWANTED]) as client:
        with ended(door, "handshake_failed") as lines:
            assert ask(client.port) == b""
        assert str(only(lines)["error"]).startswith("the peer refused our certificate (")


def test_one_whom_no_rule_allows_is_refused(folder: Path, meeting: Meeting, echo_app: int) -> None:
    with (
        Inbound(folder, meeting.ours, echo_app, allow=[UNWANTED]) as uproxy,
        GhostunnelClient(
            folder, meeting.ghost, target=uproxy.port, verify=[meeting.our_id]
        ) as client,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "denied") as lines:
            assert ask(client.port) == b""
        assert only(lines)["src.identity"] == meeting.ghost_id


def test_it_is_dialed(folder: Path, meeting: Meeting, echo_app: int) -> None:
    with (
        GhostunnelServer(folder, meeting.ghost, target=echo_app, allow=[meeting.our_id]) as server,
        Outbound(folder, meeting.ours, server.port, expect=[meeting.ghost_id]) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=2) as lines:
            for size in (1000, 4 * MIB):
                asyncio.run(traffic.exchange(uproxy.port, size, half_close=False))
        assert [line["bytes_sent"] for line in lines] == [1000, 4 * MIB]
        assert {line["dst.identity"] for line in lines} == {meeting.ghost_id}
        assert handshakes(uproxy, direction="outbound", version="TLSv1.3") == 2


def test_one_with_a_wrong_identity_is_not_what_was_expected(
    folder: Path, meeting: Meeting, echo_app: int
) -> None:
    with (
        GhostunnelServer(folder, meeting.ghost, target=echo_app, allow=[meeting.our_id]) as server,
        Outbound(folder, meeting.ours, server.port, expect=[UNWANTED]) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_unexpected") as lines:
            assert ask(uproxy.port) == b""
        assert meeting.ghost_id in only(lines)["error"]


def test_one_whose_application_is_down_ends_in_order(folder: Path, meeting: Meeting) -> None:
    """Where nothing was said to it, so it can't be told from one that has nothing to say."""
    with (
        GhostunnelServer(
            folder, meeting.ghost, target=free_port(), allow=[meeting.our_id]
        ) as server,
        Outbound(folder, meeting.ours, server.port, expect=[meeting.ghost_id]) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "closed") as lines,
            socket.create_connection(("127.0.0.1", uproxy.port), timeout=10) as client,
        ):
            assert client.recv(1) == b""
        assert only(lines)["bytes_recv"] == 0


def test_one_that_refuses_us_is_a_failed_handshake(
    folder: Path, meeting: Meeting, echo_app: int
) -> None:
    with (
        GhostunnelServer(folder, meeting.ghost, target=echo_app, allow=[UNWANTED]) as server,
        Outbound(folder, meeting.ours, server.port, expect=[meeting.ghost_id]) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "handshake_failed", opened=True) as lines:
            assert ask(uproxy.port) == b""
        assert str(only(lines)["error"]).startswith("the peer refused our certificate (")
