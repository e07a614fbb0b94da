"""A running uProxy dials the distribution's `openssl s_server`: whom it believes, whom not.

s_server answers each line with the line reversed.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.helpers.dialogue import ask
from tests.helpers.endings import ended, handshakes, metric, only
from uproxy.lab.identities import IdentityFiles
from uproxy.lab.mesh import (
    ORDERS,
    STRANGER,
    UNWANTED,
    WEB,
    FileWorld,
    Identities,
    Outbound,
)
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process
from uproxy.lab.software.peers import SServer
from uproxy.lab.waiting import wait_until

HOUR = timedelta(hours=1)
PATH = "/ns/shop/sa/orders"


@pytest.fixture(scope="module")
def orders(folder: Path, world: Identities) -> Iterator[SServer]:
    with SServer(folder, world.theirs(ORDERS)) as running:
        yield running


@pytest.fixture(scope="module")
def to_orders(folder: Path, world: Identities, orders: SServer) -> Iterator[Outbound]:
    with Outbound(folder, world.ours(WEB), orders.port) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


class Careless(Process):
    """An s_server that asks nobody for a certificate."""

    def __init__(self, folder: Path, identity: IdentityFiles) -> None:
        self.port = free_port()
        super().__init__(
            ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-rev",
             "-cert", identity.svid, "-cert_chain", identity.svid, "-key", identity.key],
            folder / f"careless-{self.port}.log",
        )  # fmt: skip

    def is_ready(self) -> bool:
        return "ACCEPT" in self.output


def test_the_right_identity_is_talked_to(to_orders: Outbound) -> None:
    before = handshakes(to_orders, direction="outbound", version="TLSv1.3")

    with ended(to_orders, "closed") as lines:
        assert ask(to_orders.port) == b"olleh\n"

    line = only(lines)
    assert (line["src.identity"], line["dst.identity"]) == (WEB, ORDERS)
    assert (line["bytes_sent"], line["bytes_recv"]) == (6, 6)
    assert handshakes(to_orders, direction="outbound", version="TLSv1.3") == before + 1


def test_connections_one_after_the_other_are_full_handshakes_each(
    to_orders: Outbound, orders: SServer
) -> None:
    """s_server hands out tickets that would resume."""
    before = handshakes(to_orders, direction="outbound")

    with ended(to_orders, "closed", count=5) as lines:
        for _ in range(5):
            assert ask(to_orders.port) == b"olleh\n"

    assert handshakes(to_orders, direction="outbound") == before + 5
    assert {line["dst.identity"] for line in lines} == {ORDERS}
    assert "Reused" not in orders.output


def test_a_wrong_identity_is_not_what_was_expected(folder: Path, world: Identities) -> None:
    with (
        SServer(folder, world.theirs(UNWANTED)) as server,
        Outbound(folder, world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_unexpected") as lines:
            assert ask(uproxy.port) == b""

        reason = only(lines)["error"]
        assert ORDERS in reason
        assert UNWANTED in reason
        wait_until(lambda: "SSL alert number" in server.output, "the alert")
        labels = {"direction": "outbound", "reason": "peer_unexpected"}
        assert metric(uproxy, "uproxy_handshake_failures_total", **labels) == 1


def test_another_trust_domain_is_not_believed(folder: Path, world: Identities) -> None:
    with (
        SServer(folder, world.theirs(STRANGER)) as server,
        Outbound(folder, world.ours(WEB), server.port, expect=[ORDERS, STRANGER]) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_untrusted", rule="X5-17"):
            assert ask(uproxy.port) == b""
        wait_until(lambda: "SSL alert number 48" in server.output, "unknown_ca")


@pytest.mark.parametrize(
    ("name", "number", "rule"),
    [("expired", 45, "X5-14"), ("of an impostor", 48, "X5-14"), ("two identities", 42, "X5-2")],
)
def test_a_defective_certificate_is_not_believed(
    folder: Path, file_world: FileWorld, name: str, number: int, rule: str
) -> None:
    ca = file_world.ca
    issued = {
        "expired": ca.issue(PATH, not_before=ca.now - 2 * HOUR, not_after=ca.now - HOUR),
        "of an impostor": Authority("example.org").issue(PATH),
        "two identities": ca.issue(uris=(ORDERS, WEB)),
    }[name]
    with (
        SServer(folder, file_world.write(name.replace(" ", "-"), issued)) as server,
        Outbound(folder, file_world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_untrusted", rule=rule):
            assert ask(uproxy.port) == b""
        wait_until(lambda: f"SSL alert number {number}" in server.output, "the alert")


def test_a_server_that_asks_for_no_certificate_is_refused(
    folder: Path, file_world: FileWorld
) -> None:
    """Mutual TLS or none: who lets everybody in isn't the peer that was configured."""
    with (
        Careless(folder, file_world.theirs(ORDERS)) as server,
        Outbound(folder, file_world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "handshake_failed") as lines:
            assert ask(uproxy.port) == b""
        assert only(lines)["error"] == "the peer asked for no certificate: mutual TLS or none"
        wait_until(lambda: "SSL alert number 40" in server.output, "handshake_failure")


def test_a_server_that_refuses_us_is_a_failed_handshake(
    folder: Path, file_world: FileWorld
) -> None:
    """Its refusal comes when our half of a TLS 1.3 handshake is over."""
    orders = file_world.theirs(ORDERS)
    believes_others = IdentityFiles(orders.svid, orders.key, folder / "others.pem")
    believes_others.bundle.write_bytes(Authority("other.test").pem)
    with (
        SServer(folder, believes_others) as server,
        Outbound(folder, file_world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "handshake_failed", opened=True) as lines:
            assert ask(uproxy.port) == b""
        assert only(lines)["error"] == (
            "the peer refused our certificate (unknown ca): it may lack a bundle for example.org"
        )


def test_an_address_with_a_wrong_identity_is_passed_over(
    folder: Path, world: Identities, orders: SServer
) -> None:
    with (
        SServer(folder, world.theirs(UNWANTED)) as wrong,
        Outbound(folder, world.ours(WEB), wrong.port, orders.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=3) as lines:
            for _ in range(3):
                assert ask(uproxy.port) == b"olleh\n"

        assert {line["dst.addr"] for line in lines} == {f"127.0.0.1:{orders.port}"}
        labels = {"direction": "outbound", "reason": "peer_unexpected"}
        # passed over since the first connection
        assert metric(uproxy, "uproxy_handshake_failures_total", **labels) == 1


def test_killed_it_leaves_a_reset(folder: Path, file_world: FileWorld) -> None:
    with (
        SServer(folder, file_world.theirs(ORDERS)) as server,
        Outbound(folder, file_world.ours(WEB), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            ended(uproxy, "reset") as lines,
            socket.create_connection(("127.0.0.1", uproxy.port), 10) as client,
        ):
            client.sendall(b"hello\n")
            assert client.recv(100) == b"olleh\n"
            server.send(signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        assert "without a close_notify" in only(lines)["error"]
