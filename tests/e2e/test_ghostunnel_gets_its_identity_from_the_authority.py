"""ghostunnel, whose Workload API client nobody here wrote, lives on `uproxy authority`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import traffic
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.software.peers import GhostunnelClient, GhostunnelServer
from uproxy.lab.waiting import eventually

ORDERS = "spiffe://example.org/ns/shop/sa/orders"
BILLING = "spiffe://partner.test/ns/billing/sa/invoices"
MIB = 1 << 20


def domains(*, federated: bool) -> dict[str, object]:
    """Two, each with one identity, because ghostunnel takes the first that it is offered."""
    others = {"federates_with": ["partner.test"]} if federated else {}
    back = {"federates_with": ["example.org"]} if federated else {}
    return {
        "example.org": {"entries": [entry(ORDERS)], **others},
        "partner.test": {"entries": [entry(BILLING)], "intermediate": True, **back},
    }


async def test_two_of_federated_trust_domains_talk(tmp_path: Path) -> None:
    async with traffic.serving(traffic.echo) as app:
        with DevAuthority(tmp_path, domains(federated=True)) as authority:
            ours, theirs = authority.endpoints["example.org"], authority.endpoints["partner.test"]
            with (
                GhostunnelServer(tmp_path, ours, target=app, allow=[BILLING]) as server,
                GhostunnelClient(tmp_path, theirs, target=server.port, verify=[ORDERS]) as client,
            ):
                await traffic.exchange(client.port, MIB, half_close=False)


async def test_two_of_strange_trust_domains_do_not(tmp_path: Path) -> None:
    async with traffic.serving(traffic.echo) as app:
        with DevAuthority(tmp_path, domains(federated=False)) as authority:
            ours, theirs = authority.endpoints["example.org"], authority.endpoints["partner.test"]
            with (
                GhostunnelServer(tmp_path, ours, target=app, allow=[BILLING]) as server,
                GhostunnelClient(tmp_path, theirs, target=server.port, verify=[ORDERS]) as client,
            ):
                with pytest.raises((AssertionError, OSError)):
                    await traffic.exchange(client.port, 1000, half_close=False)
                await eventually(lambda: "no X.509 bundle" in client.output, "a refusal")
