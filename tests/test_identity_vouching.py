"""Trust goes downward: from the anchors to whom they signed, and no further."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa, x25519

from tests.helpers.odd_certificates import (
    with_a_broken_extension,
    with_a_broken_name,
    with_a_key_of_an_unknown_kind,
    with_another_key,
)
from uproxy.identity.vouching import Search, Signers, find_way_up
from uproxy.lab.pki import Authority
from uproxy.spiffe import encoding
from uproxy.spiffe.outline import Outline

CA = Authority("example.org")
UPPER = CA.intermediate()
LOWER = UPPER.intermediate()
STRANGER = Authority("example.org", subject="CA of example.org")

BARE: dict[str, Any] = {"aki": False, "ski": False}
"""Without key identifiers, as many openssl.cnf files leave them out."""

NAMESAKES = [Authority("example.org", **BARE) for _ in range(5)]
OTHER = Authority("partner.test")


def outline(certificate: x509.Certificate) -> Outline:
    return Outline(encoding.der(certificate), certificate)


def outlines(*authorities: Authority) -> list[Outline]:
    return [outline(each.certificate) for each in authorities]


def reachable(
    search: Search, strangers: list[Outline], *roots: Authority
) -> list[x509.Certificate]:
    found = search.reachable_from_roots(strangers, outlines(*roots))
    assert all(each.issuer == signer.subject for each, signer in found.items())
    return [each.certificate for each in found]


def certificates(*authorities: Authority) -> list[x509.Certificate]:
    return [each.certificate for each in authorities]


def way_up(
    presented: Sequence[x509.Certificate | Outline],
    roots: list[x509.Certificate],
    known: Collection[x509.Certificate] = (),
) -> list[x509.Certificate]:
    """`known` are those of the presented that the first root is known to have signed."""
    leaf, *others = [each if isinstance(each, Outline) else outline(each) for each in presented]
    above = [*map(outline, roots)]
    signers = {each: above[0] for each in others if each.certificate in known}
    return [each.certificate for each in find_way_up(leaf, others, above, signers)]


class Counted:
    """A certificate that counts how often its signature is checked."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._certificate = certificate
        self.outline = Outline(encoding.der(certificate), cast("x509.Certificate", self))
        self.checked = 0

    def verify_directly_issued_by(self, issuer: x509.Certificate) -> None:
        self.checked += 1
        self._certificate.verify_directly_issued_by(issuer)


def test_whom_an_anchor_signed_is_reachable_in_any_order() -> None:
    assert reachable(Search(), outlines(LOWER, UPPER), CA) == certificates(UPPER, LOWER)


def test_authorities_that_sign_each_other_are_found_once() -> None:
    first = CA.intermediate(subject="first")
    second = first.intermediate(subject="second")
    again = first._build(first._how, first.key, second)
    every = [first.certificate, second.certificate, again]
    assert reachable(Search(), [*map(outline, every)], CA) == every


def test_nobody_is_reachable_through_what_is_no_ca() -> None:
    below = CA.intermediate(ca=False)
    assert reachable(Search(), outlines(below.intermediate(), below), CA) == [below.certificate]


def test_nobody_is_reachable_without_those_in_between() -> None:
    assert reachable(Search(), outlines(LOWER), CA) == []


def test_a_strangers_certificates_are_left_out_whatever_they_are_called() -> None:
    mixed = outlines(UPPER, STRANGER.intermediate(), STRANGER.intermediate())
    assert reachable(Search(), mixed, CA) == certificates(UPPER)
    assert reachable(Search(), mixed) == []


def test_an_issuer_is_found_by_name_and_signature() -> None:
    leaf = outline(UPPER.issue().certificate)
    strange, above, right = outlines(STRANGER, CA, UPPER)
    assert Search().issuer_among([strange, above, right], leaf) is right
    assert Search().issuer_among(outlines(STRANGER, LOWER), leaf) is None


def forged_by_name(of: Authority) -> Counted:
    """A CA with this authority's name, said to be signed by the root, without key identifiers."""
    return Counted(CA.intermediate(subject=of._how.subject, forged=True, **BARE).certificate)


@pytest.mark.parametrize(
    ("roots", "most"),
    [
        ([], 1), ([CA], 1), ([CA, OTHER], 1), ([CA, STRANGER, OTHER], 2), (NAMESAKES, 3),
    ],
)  # fmt: skip
def test_a_stranger_has_few_signatures_checked(roots: list[Authority], most: int) -> None:
    search = Search(outlines(*roots))
    forged = [forged_by_name(UPPER) for _ in range(9)]
    assert reachable(search, [each.outline for each in forged], *(roots or [CA])) == []
    assert sum(each.checked for each in forged) == most
    # it is over, for whoever comes
    assert search.issuer_among(outlines(CA), outline(UPPER.certificate)) is None


def test_a_way_behind_forged_issuers_without_key_identifiers_is_given_up() -> None:
    ca = Authority("example.org", **BARE)
    lower = ca.intermediate().intermediate()
    namesakes = [Authority("example.org", **BARE).intermediate(**BARE) for _ in range(9)]
    leaf, *above = lower.issue().chain
    assert way_up([leaf, *certificates(*namesakes), *above], [ca.root])[-1] != ca.root
    assert way_up([leaf, *above], [ca.root])[-1] == ca.root


def test_forged_issuers_with_another_key_identifier_are_no_obstacle() -> None:
    forged = [
        Authority("example.org", subject="CA of example.org").intermediate() for _ in range(9)
    ]
    presented = [LOWER.issue().certificate, *certificates(*forged, LOWER, UPPER)]
    assert way_up(presented, [CA.root])[-1] == CA.root


def test_where_there_is_one_way_no_signature_is_checked() -> None:
    """Path validation does it."""
    forged = CA.issue(forged=True).certificate
    assert way_up([forged], [CA.root]) == [forged, CA.root]
    below = UPPER.issue(forged=True).certificate
    way = [below, UPPER.certificate, CA.root]
    assert way_up(way[:2], [CA.root], [UPPER.certificate]) == way


def test_roots_with_one_key_are_one_way_too() -> None:
    renewed = CA._build(CA._how, CA.key, None)
    forged = CA.issue(forged=True).certificate
    assert way_up([forged], [renewed, CA.root]) == [forged, renewed]


@pytest.mark.parametrize("signer", NAMESAKES[:2])
def test_of_roots_with_one_name_the_one_whose_key_fits_is_found(signer: Authority) -> None:
    first, second = NAMESAKES[:2]
    renewed = first._build(first._how, first.key, None)
    leaf = signer.issue(**BARE).certificate
    roots = [first.root, renewed, second.root]
    assert way_up([leaf], roots) == [leaf, signer.root]


def test_a_key_identifier_of_a_root_is_decisive() -> None:
    """Those that are presented beside it are left alone."""
    [root] = outlines(CA)
    for quirks, checked in ({}, 0), (BARE, 1):
        leaf, forged = Counted(CA.issue(**quirks).certificate), forged_by_name(CA)
        assert find_way_up(leaf.outline, [forged.outline], [root], {}) == [leaf.outline, root]
        assert (leaf.checked, forged.checked) == (checked, 0)


def test_signers_with_another_key_identifier_do_not_count() -> None:
    assert way_up([leaf := CA.issue().certificate], [STRANGER.root]) == [leaf]
    assert reachable(Search(), outlines(UPPER), STRANGER) == []


def test_a_signer_without_a_key_identifier_may_be_the_one() -> None:
    bare = Authority("example.org", **BARE)
    leaf = bare.issue().certificate
    assert way_up([leaf], [bare.root]) == [leaf, bare.root]
    # it isn't preferred to the one that has it
    renewed = bare._build(replace(bare._how, ski=True), bare.key, None)
    assert way_up([leaf], [bare.root, renewed]) == [leaf, renewed]


def test_a_root_without_a_key_identifier_is_no_obstacle_to_who_has_the_one_that_is_named() -> None:
    """As where an old root became an intermediate of another, with a new key."""
    old, upper = Authority("example.org", subject="One", ski=False), Authority("example.org")
    lower = upper.intermediate(subject="One")
    leaf = lower.issue().certificate
    way = [leaf, lower.certificate, upper.root]
    assert way_up([leaf, lower.certificate], [old.root, upper.root]) == way


def test_an_authority_may_be_named_without_a_key_identifier() -> None:
    """By its issuer and serial number only, as RFC 5280 section 4.2.1.1 allows."""
    name = [x509.DirectoryName(CA.root.issuer)]
    authority = x509.AuthorityKeyIdentifier(None, name, CA.root.serial_number)
    leaf = CA.issue(aki=False, extensions=((authority, False),)).certificate
    assert way_up([leaf], [STRANGER.root, CA.root]) == [leaf, CA.root]


def test_a_namesake_that_nobody_signed_is_no_way() -> None:
    """Else the leaf's signature would be checked with the stranger's key."""
    forged = CA.issue(forged=True).certificate
    assert way_up([forged, STRANGER.certificate], [CA.root]) == [forged, CA.root]


def test_signers_that_are_known_are_not_sought_again() -> None:
    leaf = UPPER.issue().certificate
    for known, checked in ((), 1), ([UPPER.certificate], 0):
        forged = forged_by_name(CA)
        presented: list[x509.Certificate | Outline] = [leaf, UPPER.certificate, forged.outline]
        assert way_up(presented, [CA.root], known) == [leaf, UPPER.certificate, CA.root]
        assert forged.checked == checked


def test_who_is_found_to_be_reachable_is_known_from_then_on() -> None:
    known: Signers = {}
    leaf, *others = outlines(LOWER.intermediate(), LOWER, UPPER, OTHER.intermediate())
    [root] = outlines(CA)
    assert find_way_up(leaf, others, [root], known)[-1] is root
    assert known == {others[1]: root, others[0]: others[1]}


def test_beside_a_known_signer_its_namesake_is_sought() -> None:
    first, second = (CA.intermediate(subject="intermediate") for _ in range(2))
    leaf = second.issue().certificate
    for signers in ((first, second), (second, first)):
        way = way_up([leaf, *certificates(*signers)], [CA.root], [first.certificate])
        assert way == [leaf, second.certificate, CA.root]


def _among_namesakes(place: int) -> tuple[Authority, list[Counted], list[Outline]]:
    """A CA without key identifiers, at this place among eight with its name that nobody signed."""
    ours, forged = CA.intermediate(**BARE), [forged_by_name(UPPER) for _ in range(8)]
    others = [each.outline for each in forged]
    others.insert(place, outline(ours.certificate))
    return ours, forged, others


def test_a_signer_that_is_known_and_comes_first_is_asked_before_strangers_are() -> None:
    ours, forged, others = _among_namesakes(0)
    leaf = Counted(ours.issue(**BARE).certificate)
    [root] = outlines(CA)
    path = find_way_up(leaf.outline, others, [root], {others[0]: root})
    assert path == [leaf.outline, others[0], root]
    assert (leaf.checked, sum(each.checked for each in forged)) == (1, 0)


@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_stranger_beside_a_known_signer_has_one_signature_checked(place: int) -> None:
    ours, forged, others = _among_namesakes(place)
    leaf = Counted(ours.issue(forged=True, **BARE).certificate)
    [root] = outlines(CA)
    assert find_way_up(leaf.outline, others, [root], {others[place]: root}) == [leaf.outline]
    assert leaf.checked + sum(each.checked for each in forged) == 1


def test_a_stranger_with_the_roots_name_has_one_signature_checked() -> None:
    forged = [forged_by_name(CA) for _ in range(9)]
    leaf = Counted(CA.issue(forged=True, **BARE).certificate)
    path = find_way_up(leaf.outline, [each.outline for each in forged], outlines(CA), {})
    assert path == [leaf.outline]
    assert leaf.checked + sum(each.checked for each in forged) == 1


def test_a_signer_that_comes_first_counts_though_strangers_with_its_name_follow() -> None:
    ours, _, others = _among_namesakes(0)
    leaf = ours.issue(**BARE).certificate
    assert way_up([leaf, *others], [CA.root]) == [leaf, ours.certificate, CA.root]


def test_a_strangers_chain_is_followed_by_its_names() -> None:
    stranger = Authority("stranger.test")
    issued = stranger.intermediate().intermediate().intermediate().issue()
    for chain in (issued.chain, (*issued.chain, stranger.root)):
        assert way_up(chain, [CA.root]) == [*chain]


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
    assert way_up(presented, [CA.root]) == [leaf, *certificates(LOWER, UPPER), CA.root]


def test_a_stranger_whose_extensions_can_not_be_read_is_told_by_its_key() -> None:
    broken = with_a_broken_extension(UPPER.certificate, CA.key)
    assert reachable(Search(), [outline(broken)], CA) == [broken]
    assert reachable(Search(), [outline(broken)], STRANGER) == []


@pytest.mark.parametrize("kind", ["of another kind", "that can't sign", "that nobody knows"])
def test_a_signer_with_a_key_that_can_not_have_signed_costs_nothing(kind: str) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    exchange_key = x25519.X25519PrivateKey.generate().public_key()
    odd = {
        "of another kind": with_another_key(CA.root, rsa_key, CA.key),
        "that can't sign": with_another_key(CA.root, exchange_key, CA.key),
        "that nobody knows": with_a_key_of_an_unknown_kind(CA.root, CA.key),
    }[kind]
    [root, upper] = outlines(CA, UPPER)
    search = Search([root])
    assert search.issuer_among([outline(odd)] * 9, upper) is None
    assert search.issuer_among([outline(odd), root], upper) is root
    signed = Counted(UPPER.certificate)
    assert search.issuer_among([outline(odd)] * 9, signed.outline) is None
    # one that nobody knows was made to look like another elliptic curve's
    assert signed.checked == (9 if kind == "that nobody knows" else 0)
    # it is presented, and reachable
    leaf = CA.issue(**BARE).certificate
    assert way_up([leaf, odd], [CA.root]) == [leaf, CA.root]
