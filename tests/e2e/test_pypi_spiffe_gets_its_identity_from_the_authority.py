"""The `spiffe` package (grpcio, Google's protobuf) against `uproxy authority`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spiffe import (
    JwtBundleSet,
    JwtSvid,
    SpiffeId,
    TrustDomain,
    WorkloadApiClient,
    X509Source,
)
from spiffe.workloadapi.errors import (
    FetchJwtSvidError,
    FetchX509SvidError,
    ValidateJwtSvidError,
)

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


def test_it_gets_tokens_that_it_believes_and_has_validated(client: WorkloadApiClient) -> None:
    bundle = client.fetch_jwt_bundles(timeout=10).get_bundle_for_trust_domain(HOME)
    assert bundle is not None
    svids = client.fetch_jwt_svids({"me"}, timeout=10)
    assert [str(svid.spiffe_id) for svid in svids] == [WEB, ORDERS]
    one = client.fetch_jwt_svid({"me", "you"}, SpiffeId(ORDERS), timeout=10)
    assert (str(one.spiffe_id), one.audience) == (ORDERS, {"me", "you"})
    believed = JwtSvid.parse_and_validate(one.token, bundle, {"me"})
    assert str(believed.spiffe_id) == ORDERS
    assert str(client.validate_jwt_svid(one.token, "you", timeout=10).spiffe_id) == ORDERS
    with pytest.raises(ValidateJwtSvidError, match="JW-6"):
        client.validate_jwt_svid(one.token, "somebody else", timeout=10)


def test_it_gets_no_token_of_another_identity(client: WorkloadApiClient) -> None:
    with pytest.raises(FetchJwtSvidError, match="no identity issued"):
        client.fetch_jwt_svid({"me"}, SpiffeId("spiffe://example.org/other"), timeout=10)


def test_its_bundles_follow_a_rotation_of_the_keys_for_tokens(tmp_path: Path) -> None:
    with (
        DevAuthority(tmp_path, domains(jwt_ttl="4s")) as authority,
        contextlib.closing(WorkloadApiClient(authority.endpoints["example.org"])) as client,
    ):
        sets: list[JwtBundleSet] = []
        watching = client.stream_jwt_bundles(sets.append, print, retry_connect=True)
        try:
            wait_until(lambda: sets, "bundles")
            token = client.fetch_jwt_svid({"me"}, SpiffeId(WEB), timeout=10).token
            authority.send(signal.SIGUSR1)
            wait_until(lambda: len(_keys(sets[-1])) == 2, "the new key")
            wait_until(lambda: len(_keys(sets[-1])) == 1, "the old key's end", timeout=20)
        finally:
            watching.cancel()
        assert _keys(sets[-1]).isdisjoint(_keys(sets[0]))
        with pytest.raises(ValidateJwtSvidError):
            client.validate_jwt_svid(token, "me", timeout=10)


def _keys(bundles: JwtBundleSet) -> set[str]:
    bundle = bundles.get_bundle_for_trust_domain(HOME)
    return set(bundle.jwt_authorities) if bundle else set()


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
