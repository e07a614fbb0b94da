"""The `spiffe` package (grpcio, Google's protobuf) against `uproxy authority`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spiffe import SpiffeId, TrustDomain, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import FetchJwtBundleError, FetchX509SvidError

from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.waiting import wait_until

WEB = "spiffe://example.org/ns/web/sa/frontend"
ORDERS = "spiffe://example.org/ns/shop/sa/orders"
HOME, AWAY = TrustDomain("example.org"), TrustDomain("partner.test")


def domains(**example: Any) -> dict[str, Any]:
    return {
        "example.org": {
            "entries": [entry(WEB), entry(ORDERS)],
            "federates_with": ["partner.test"],
            **example,
        },
        "partner.test": {"entries": [entry("spiffe://partner.test/a")], "intermediate": True},
    }


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[DevAuthority]:
    with DevAuthority(tmp_path, domains()) as running:
        yield running


@pytest.fixture
def client(authority: DevAuthority) -> Iterator[WorkloadApiClient]:
    with contextlib.closing(WorkloadApiClient(authority.endpoints["example.org"])) as connected:
        yield connected


def test_it_gets_every_svid_in_order_and_the_bundles(client: WorkloadApiClient) -> None:
    context = client.fetch_x509_context(timeout=10)

    assert [str(svid.spiffe_id) for svid in context.x509_svids] == [WEB, ORDERS]
    for trust_domain in (HOME, AWAY):
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(trust_domain)
        assert bundle is not None
        assert len(bundle.x509_authorities) == 1


def test_it_gets_the_bundles_alone(client: WorkloadApiClient) -> None:
    bundles = client.fetch_x509_bundles(timeout=10)

    assert bundles.get_bundle_for_trust_domain(HOME) is not None
    assert bundles.get_bundle_for_trust_domain(AWAY) is not None


def test_an_intermediate_comes_with_its_svid(authority: DevAuthority) -> None:
    with contextlib.closing(WorkloadApiClient(authority.endpoints["partner.test"])) as client:
        svid = client.fetch_x509_svid(timeout=10)

    leaf, intermediate = svid.cert_chain
    assert leaf.issuer == intermediate.subject


def test_jwt_methods_are_unimplemented(client: WorkloadApiClient) -> None:
    with pytest.raises(FetchJwtBundleError, match="UNIMPLEMENTED"):
        client.fetch_jwt_bundles(timeout=10)


def test_its_source_follows_rotations_of_svid_and_ca(tmp_path: Path) -> None:
    with (
        DevAuthority(tmp_path, domains(ttl="4s")) as authority,
        X509Source(socket_path=authority.endpoints["example.org"], timeout_in_seconds=10) as source,
    ):
        first = source.get_x509_context().default_svid
        assert first.spiffe_id == SpiffeId(WEB)
        wait_until(lambda: _serial(source) != first.leaf.serial_number, "a new SVID")

        authority.send(signal.SIGUSR1)
        wait_until(lambda: _roots(source) == 2, "the new root")
        wait_until(lambda: _roots(source) == 1, "the old root's end", timeout=20)


def _serial(source: X509Source) -> int:
    return source.get_x509_context().default_svid.leaf.serial_number


def _roots(source: X509Source) -> int:
    bundle = source.get_bundle_for_trust_domain(HOME)
    assert bundle is not None
    return len(bundle.x509_authorities)


def test_without_an_entry_it_is_denied(authority: DevAuthority, client: WorkloadApiClient) -> None:
    client.fetch_x509_svid(timeout=10)

    authority.define(domains(entries=[]))
    wait_until(lambda: "taken over" in authority.output, "the change")

    with pytest.raises(FetchX509SvidError, match="no identity issued"):
        client.fetch_x509_svid(timeout=10)
