"""Trust goes downward: from the anchors to whom they signed, and no further."""

from __future__ import annotations

from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from uproxy.identity.vouching import MISSES, Search, climb
from uproxy.lab.pki import Authority

CA = Authority("example.org")
UPPER = CA.intermediate()
LOWER = UPPER.intermediate()
STRANGER = Authority("example.org", subject="CA of example.org")


def certificates(*authorities: Authority) -> list[x509.Certificate]:
    return [each.certificate for each in authorities]


def test_whom_an_anchor_signed_is_vouched_for_in_any_order() -> None:
    assert Search().vouched_for(certificates(LOWER, UPPER), [CA.root]) == certificates(UPPER, LOWER)


def test_nobody_is_vouched_for_without_those_in_between() -> None:
    assert Search().vouched_for(certificates(LOWER), [CA.root]) == []


def test_a_strangers_certificates_are_left_out_whatever_they_are_called() -> None:
    mixed = certificates(STRANGER.intermediate(), STRANGER, UPPER)
    assert Search().vouched_for(mixed, [CA.root]) == certificates(UPPER)
    assert Search().vouched_for(mixed, []) == []


def test_a_certificate_sent_twice_counts_once() -> None:
    assert Search().vouched_for(certificates(UPPER, UPPER, CA), [CA.root]) == certificates(
        UPPER, CA
    )


def test_an_issuer_is_found_by_name_and_signature() -> None:
    leaf = UPPER.issue().certificate
    assert Search().issuer_among(certificates(STRANGER, CA, UPPER), leaf) == UPPER.certificate
    assert Search().issuer_among(certificates(STRANGER, LOWER), leaf) is None


class Forged:
    """A certificate whose signature is wrong, whoever is said to have made it."""

    def __init__(self) -> None:
        self.checked = 0

    def verify_directly_issued_by(self, _issuer: x509.Certificate) -> None:
        self.checked += 1
        raise InvalidSignature


def test_a_stranger_has_few_signatures_checked() -> None:
    forged, search = [Forged() for _ in range(9)], Search()
    roots = certificates(CA, STRANGER, UPPER)
    assert search.vouched_for(cast("list[x509.Certificate]", forged), roots) == []
    assert sum(each.checked for each in forged) == MISSES
    assert search.issuer_among(roots, UPPER.certificate) is None  # the search is over


def test_a_way_behind_many_forged_issuers_is_given_up() -> None:
    forged = [Authority("example.org", subject="CA of example.org").intermediate().certificate
              for _ in range(9)]  # fmt: skip
    leaf = LOWER.issue().certificate
    assert climb([leaf, *forged, *certificates(LOWER, UPPER)], [CA.root])[-1] != CA.root
    assert climb([leaf, *certificates(LOWER, UPPER)], [CA.root])[-1] == CA.root
