"""Trust goes downward: from the anchors to whom they signed, and no further."""

from __future__ import annotations

from cryptography import x509

from uproxy.identity.vouching import issuer_among, vouched_for
from uproxy.lab.pki import Authority

CA = Authority("example.org")
UPPER = CA.intermediate()
LOWER = UPPER.intermediate()
STRANGER = Authority("example.org", subject="CA of example.org")


def certificates(*authorities: Authority) -> list[x509.Certificate]:
    return [each.certificate for each in authorities]


def test_whom_an_anchor_signed_is_vouched_for_in_any_order() -> None:
    assert vouched_for(certificates(LOWER, UPPER), [CA.root]) == certificates(UPPER, LOWER)


def test_nobody_is_vouched_for_without_those_in_between() -> None:
    assert vouched_for(certificates(LOWER), [CA.root]) == []


def test_a_strangers_certificates_are_left_out_whatever_they_are_called() -> None:
    mixed = certificates(STRANGER.intermediate(), STRANGER, UPPER)
    assert vouched_for(mixed, [CA.root]) == certificates(UPPER)
    assert vouched_for(mixed, []) == []


def test_a_certificate_sent_twice_counts_once() -> None:
    assert vouched_for(certificates(UPPER, UPPER, CA), [CA.root]) == certificates(UPPER, CA)


def test_an_issuer_is_found_by_name_and_signature() -> None:
    leaf = UPPER.issue().certificate
    assert issuer_among(certificates(STRANGER, CA, UPPER), leaf) == UPPER.certificate
    assert issuer_among(certificates(STRANGER, LOWER), leaf) is None
