"""Trust goes downward: from the anchors to whom they signed, and no further."""

from __future__ import annotations

from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from uproxy.identity.vouching import MAX_MISSES, MISSES, Search, find_way_up
from uproxy.lab.pki import Authority

CA = Authority("example.org")
UPPER = CA.intermediate()
LOWER = UPPER.intermediate()
STRANGER = Authority("example.org", subject="CA of example.org")

NAMESAKES = [Authority("example.org") for _ in range(MAX_MISSES + 2)]


def reachable(
    search: Search, strangers: list[x509.Certificate], *roots: Authority
) -> list[x509.Certificate]:
    found = search.reachable_from_roots(strangers, certificates(*roots))
    assert all(each.certificate.issuer == each.signer.subject for each in found)
    return [each.certificate for each in found]


def certificates(*authorities: Authority) -> list[x509.Certificate]:
    return [each.certificate for each in authorities]


def test_whom_an_anchor_signed_is_reachable_in_any_order() -> None:
    assert reachable(Search(), certificates(LOWER, UPPER), CA) == certificates(UPPER, LOWER)


def test_nobody_is_reachable_without_those_in_between() -> None:
    assert reachable(Search(), certificates(LOWER), CA) == []


def test_a_strangers_certificates_are_left_out_whatever_they_are_called() -> None:
    mixed = certificates(UPPER, STRANGER.intermediate(), STRANGER.intermediate())
    assert reachable(Search(), mixed, CA) == certificates(UPPER)
    assert reachable(Search(), mixed) == []


def test_a_certificate_sent_twice_counts_once() -> None:
    assert reachable(Search(), certificates(UPPER, UPPER, CA), CA) == certificates(UPPER, CA)


def test_an_issuer_is_found_by_name_and_signature() -> None:
    leaf = UPPER.issue().certificate
    assert Search().issuer_among(certificates(STRANGER, CA, UPPER), leaf) == UPPER.certificate
    assert Search().issuer_among(certificates(STRANGER, LOWER), leaf) is None


class Forged:
    """A certificate whose signature is wrong, whoever is said to have made it."""

    def __init__(self) -> None:
        self.checked = 0

    issuer = CA.root.subject
    subject = STRANGER.root.subject
    extensions = x509.Extensions([])

    def verify_directly_issued_by(self, _issuer: x509.Certificate) -> None:
        self.checked += 1
        raise InvalidSignature


def test_a_stranger_has_few_signatures_checked() -> None:
    for roots, most in (([CA], MISSES), ([CA, STRANGER], MISSES + 1), (NAMESAKES, MAX_MISSES)):
        search = Search(certificates(*roots))
        forged = [Forged() for _ in range(9)]
        assert reachable(search, cast("list[x509.Certificate]", forged), *roots) == []
        assert sum(each.checked for each in forged) == most
        assert search.issuer_among(certificates(CA), UPPER.certificate) is None  # it is over


def test_a_way_behind_many_forged_issuers_is_given_up() -> None:
    forged = [Authority("example.org", subject="CA of example.org").intermediate().certificate
              for _ in range(9)]  # fmt: skip
    leaf = LOWER.issue().certificate
    assert find_way_up([leaf, *forged, *certificates(LOWER, UPPER)], [CA.root])[-1] != CA.root
    assert find_way_up([leaf, *certificates(LOWER, UPPER)], [CA.root])[-1] == CA.root


def test_where_there_is_one_way_no_signature_is_checked() -> None:
    """Path validation does it."""
    forged = CA.issue(forged=True).certificate
    assert find_way_up([forged], [CA.root]) == [forged, CA.root]
    known = Search().reachable_from_roots(certificates(UPPER), [CA.root])
    below = UPPER.issue(forged=True).certificate
    assert find_way_up([below, UPPER.certificate], [CA.root], known) == [
        below,
        UPPER.certificate,
        CA.root,
    ]


def test_a_key_identifier_of_a_root_is_decisive() -> None:
    leaf, forged = CA.issue().certificate, certificates(*[STRANGER] * 9)
    assert find_way_up([leaf, *forged], [CA.root]) == [leaf, CA.root]
