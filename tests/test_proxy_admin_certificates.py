"""Credentials as rows."""

from __future__ import annotations

import json

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from uproxy.identity.credentials import Credentials
from uproxy.lab.pki import Authority
from uproxy.proxy.admin.certificates import describe
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.encoding import serial_text


def test_an_identity_is_told_with_its_chain_and_its_earliest_end() -> None:
    authority = Authority("example.org")
    issued = authority.issue("/ns/shop/sa/orders")
    bundles = {"example.org": authority.bundle}
    told = describe(Credentials(issued.svid, "", bundles, 1), {"state": "ready"}, "example.org")
    assert told.svid is not None
    assert told.svid.spiffe_id == "spiffe://example.org/ns/shop/sa/orders"
    assert told.svid.expires == issued.certificate.not_valid_after_utc
    assert told.svid.chain[0].serial == serial_text(issued.certificate)
    assert told.source == {"state": "ready"}


def test_without_an_identity_the_reason_is_told() -> None:
    told = describe(Credentials(None, "no identity yet: agent refused", {}, 0), {}, None)
    assert (told.svid, told.reason) == (None, "no identity yet: agent refused")
    assert told.trust_domains == ()


def test_our_own_trust_domain_comes_first_and_crls_are_counted() -> None:
    own, other = Authority("our.test"), Authority("another.test")
    revoked = other.issue()
    crl = other.crl([revoked])
    bundles = {
        "another.test": Bundle("another.test", other.bundle.roots, (crl,)),
        "our.test": own.bundle,
    }
    told = describe(Credentials(own.issue().svid, "", bundles, 1), {}, "our.test")
    assert [(domain.name, domain.own) for domain in told.trust_domains] == [
        ("our.test", True),
        ("another.test", False),
    ]
    assert told.trust_domains[0].roots[0].serial == serial_text(own.certificate)
    assert [crl.revoked for crl in told.trust_domains[1].crls] == [1]
    assert told.trust_domains[1].crls[0].next_update == crl.next_update_utc


def test_our_trust_domain_stays_our_own_when_the_identity_is_gone() -> None:
    own, other = Authority("our.test"), Authority("another.test")
    bundles = {"another.test": other.bundle, "our.test": own.bundle}
    lost = Credentials(None, "our SVID expired", bundles, 1)
    told = describe(lost, {}, "our.test").trust_domains
    assert [(domain.name, domain.own) for domain in told] == [
        ("our.test", True),
        ("another.test", False),
    ]
    never = describe(lost, {}, None).trust_domains
    assert {domain.own for domain in never} == {None}


def test_no_key_gets_into_the_answer() -> None:
    authority = Authority("example.org")
    issued = authority.issue()
    told = describe(Credentials(issued.svid, "", {"example.org": authority.bundle}, 1), {}, None)
    text = json.dumps(told.to_json())
    assert "PRIVATE" not in text
    assert isinstance(issued.svid.key, EllipticCurvePrivateKey)
    secret = issued.svid.key.private_numbers().private_value
    assert f"{secret:x}" not in text
    assert str(secret) not in text
