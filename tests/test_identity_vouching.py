"""Trust goes downward: from the anchors to whom they signed, and no further."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa, x25519

from tests.helpers.odd_certificates import (
    with_a_broken_extension,
    with_a_broken_name,
    with_a_key_of_an_unknown_kind,
    with_another_key,
)
from uproxy.identity.vouching import Reachable, Search, find_way_up
from uproxy.lab.pki import Authority

CA = Authority("example.org")
UPPER = CA.intermediate()
LOWER = UPPER.intermediate()
STRANGER = Authority("example.org", subject="CA of example.org")

BARE: dict[str, Any] = {"aki": False, "ski": False}
"""Without key identifiers, as many openssl.cnf files leave them out."""

NAMESAKES = [Authority("example.org", **BARE) for _ in range(5)]
OTHER = Authority("partner.test")


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

    def as_certificate(self) -> x509.Certificate:
        return cast("x509.Certificate", self)


class Unread:
    """A certificate whose names cost too much to be read."""

    @property
    def issuer(self) -> x509.Name:
        raise AssertionError


@pytest.mark.parametrize(
    ("roots", "most"),
    [
        ([], 1), ([CA], 1), ([CA, OTHER], 1), ([CA, STRANGER, OTHER], 2), (NAMESAKES, 3),
    ],
)  # fmt: skip
def test_a_stranger_has_few_signatures_checked(roots: list[Authority], most: int) -> None:
    search = Search(certificates(*roots))
    forged = [Forged() for _ in range(9)]
    strangers = [each.as_certificate() for each in forged]
    assert reachable(search, strangers, *(roots or [CA])) == []
    assert sum(each.checked for each in forged) == most
    # it is over, for whoever comes
    assert search.issuer_among(certificates(CA), UPPER.certificate) is None
    assert reachable(search, [cast("x509.Certificate", Unread())], CA) == []


def test_a_way_behind_forged_issuers_without_key_identifiers_is_given_up() -> None:
    ca = Authority("example.org", **BARE)
    lower = ca.intermediate().intermediate()
    namesakes = [Authority("example.org", **BARE).intermediate(**BARE) for _ in range(9)]
    leaf, *above = lower.issue().chain
    assert find_way_up([leaf, *certificates(*namesakes), *above], [ca.root])[-1] != ca.root
    assert find_way_up([leaf, *above], [ca.root])[-1] == ca.root


def test_forged_issuers_with_another_key_identifier_are_no_obstacle() -> None:
    forged = [
        Authority("example.org", subject="CA of example.org").intermediate() for _ in range(9)
    ]
    presented = [LOWER.issue().certificate, *certificates(*forged, LOWER, UPPER)]
    assert find_way_up(presented, [CA.root])[-1] == CA.root


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


def test_roots_with_one_key_are_one_way_too() -> None:
    renewed = CA._build(CA._how, CA.key, None)
    forged = CA.issue(forged=True).certificate
    assert find_way_up([forged], [renewed, CA.root]) == [forged, renewed]


@pytest.mark.parametrize("signer", NAMESAKES[:2])
def test_of_roots_with_one_name_the_one_whose_key_fits_is_found(signer: Authority) -> None:
    first, second = NAMESAKES[:2]
    renewed = first._build(first._how, first.key, None)
    leaf = signer.issue(**BARE).certificate
    roots = [first.root, renewed, second.root]
    assert find_way_up([leaf], roots) == [leaf, signer.root]


def test_a_key_identifier_of_a_root_is_decisive() -> None:
    """Those that are presented beside it are left alone."""
    leaf, forged = CA.issue().certificate, Forged()
    assert find_way_up([leaf, forged.as_certificate()], [CA.root]) == [leaf, CA.root]
    assert forged.checked == 0
    bare = CA.issue(aki=False).certificate
    assert find_way_up([bare, forged.as_certificate()], [CA.root]) == [bare, CA.root]
    assert forged.checked == 1


def test_signers_with_another_key_identifier_do_not_count() -> None:
    assert find_way_up([leaf := CA.issue().certificate], [STRANGER.root]) == [leaf]
    assert reachable(Search(), certificates(UPPER), STRANGER) == []


def test_a_signer_without_a_key_identifier_may_be_the_one() -> None:
    bare = Authority("example.org", **BARE)
    leaf = bare.issue().certificate
    assert find_way_up([leaf], [bare.root]) == [leaf, bare.root]
    # it isn't preferred to the one that has it
    renewed = bare._build(replace(bare._how, ski=True), bare.key, None)
    assert find_way_up([leaf], [bare.root, renewed]) == [leaf, renewed]


def test_an_authority_may_be_named_without_a_key_identifier() -> None:
    """By its issuer and serial number only, as RFC 5280 section 4.2.1.1 allows."""
    name = [x509.DirectoryName(CA.root.issuer)]
    authority = x509.AuthorityKeyIdentifier(None, name, CA.root.serial_number)
    leaf = CA.issue(aki=False, extensions=((authority, False),)).certificate
    assert find_way_up([leaf], [STRANGER.root, CA.root]) == [leaf, CA.root]


def test_a_namesake_that_nobody_signed_is_no_way() -> None:
    """Else the leaf's signature would be checked with the stranger's key."""
    forged = CA.issue(forged=True).certificate
    assert find_way_up([forged, STRANGER.certificate], [CA.root]) == [forged, CA.root]


def test_signers_that_are_known_are_not_sought_again() -> None:
    known = [Reachable(UPPER.certificate, CA.root)]
    leaf, forged = UPPER.issue().certificate, Forged()
    way = [leaf, UPPER.certificate, CA.root]
    for unneeded in (1, 0):
        forged = Forged()
        presented = [leaf, UPPER.certificate, forged.as_certificate()]
        assert find_way_up(presented, [CA.root], known[unneeded:]) == way
        assert forged.checked == unneeded


def test_beside_a_known_signer_its_namesake_is_sought() -> None:
    first, second = (CA.intermediate(subject="intermediate") for _ in range(2))
    known = [Reachable(first.certificate, CA.root)]
    leaf = second.issue().certificate
    for signers in ((first, second), (second, first)):
        way = find_way_up([leaf, *certificates(*signers)], [CA.root], known)
        assert way == [leaf, second.certificate, CA.root]


def test_a_strangers_chain_is_followed_by_its_names() -> None:
    stranger = Authority("stranger.test")
    issued = stranger.intermediate().intermediate().intermediate().issue()
    for chain in (issued.chain, (*issued.chain, stranger.root)):
        assert find_way_up(chain, [CA.root]) == [*chain]


def test_a_stranger_whose_names_can_not_be_read_is_nobody() -> None:
    stranger = OTHER.intermediate().certificate
    nameless, orphan = (
        x509.load_der_x509_certificate(with_a_broken_name(stranger, name))
        for name in (b"intermediate 1 of partner.test", b"CA of partner.test")
    )
    with pytest.raises(ValueError, match="subject"):
        _ = nameless.subject
    with pytest.raises(ValueError, match="issuer"):
        _ = orphan.issuer
    leaf = LOWER.issue().certificate
    presented = [leaf, nameless, orphan, *certificates(LOWER, UPPER)]
    assert find_way_up(presented, [CA.root]) == [leaf, *certificates(LOWER, UPPER), CA.root]


def test_a_stranger_whose_extensions_can_not_be_read_is_told_by_its_key() -> None:
    broken = with_a_broken_extension(UPPER.certificate, CA.key)
    assert reachable(Search(), [broken], CA) == [broken]
    assert reachable(Search(), [broken], STRANGER) == []


@pytest.mark.parametrize("kind", ["of another kind", "that can't sign", "that nobody knows"])
def test_a_signer_with_a_key_that_can_not_have_signed_costs_nothing(kind: str) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    exchange_key = x25519.X25519PrivateKey.generate().public_key()
    odd = {
        "of another kind": with_another_key(CA.root, rsa_key, CA.key),
        "that can't sign": with_another_key(CA.root, exchange_key, CA.key),
        "that nobody knows": with_a_key_of_an_unknown_kind(CA.root, CA.key),
    }[kind]
    search = Search([CA.root])
    assert search.issuer_among([odd] * 9, UPPER.certificate) is None
    assert search.issuer_among([odd, CA.root], UPPER.certificate) == CA.root
    # it is presented, and reachable
    leaf = CA.issue(**BARE).certificate
    assert find_way_up([leaf, odd], [CA.root]) == [leaf, CA.root]
