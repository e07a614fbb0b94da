"""A refusal says where the path ends, not only that there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from uproxy.errors import UntrustedError
from uproxy.identity.diagnosis import Roots, broken_path, outdated_signer, why_no_root
from uproxy.identity.vouching import find_way_up
from uproxy.lab.pki import Authority, Issued
from uproxy.model import Alert
from uproxy.spiffe.outline import Outline

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CA = Authority("example.org", now=NOW)
PARTNER = Authority("partner.test", now=NOW)
BUNDLES = {"example.org": CA.bundle, "partner.test": PARTNER.bundle}


def diagnose(peer: Issued) -> UntrustedError:
    leaf, *others = map(Outline, peer.der)
    path = find_way_up(leaf, others, [Outline(CA.der)], {})
    return why_no_root(path, Roots(BUNDLES), "example.org")


def test_a_stranger_s_chain_names_the_issuer_it_ends_at() -> None:
    error = diagnose(Authority("stranger.test", now=NOW).intermediate().issue())
    assert (error.rule, error.alert) == ("X5-14", Alert.UNKNOWN_CA)
    assert error.reason == (
        "no root of example.org signed the chain, which ends at issuer 'CN=CA of stranger.test'"
    )


def test_another_domain_s_authority_is_named() -> None:
    error = diagnose(PARTNER.intermediate().issue())
    assert (error.rule, error.alert) == ("X5-16", Alert.UNKNOWN_CA)
    assert error.reason == "a certificate of example.org is signed by the trust domain partner.test"


def test_an_outdated_ca_is_named() -> None:
    early = NOW + timedelta(hours=1)
    error = outdated_signer(CA.intermediate(not_before=early, not_after=early).certificate)
    assert (error.rule, error.alert) == ("X5-14", Alert.CERTIFICATE_EXPIRED)
    assert "'CN=intermediate 1 of example.org' is valid only from 2026-08-01T13:00" in error.reason


def test_otherwise_openssl_has_the_word_but_not_for_long() -> None:
    error = broken_path(ValueError("reason " * 100))
    assert (error.rule, error.alert) == ("X5-14", Alert.BAD_CERTIFICATE)
    assert error.reason.startswith("the path is broken: reason reason")
    assert len(error.reason) < 200


def test_a_certificate_that_signed_itself_ends_the_climb() -> None:
    stranger = Authority("stranger.test", now=NOW)
    looped = replace(stranger.issue(), chain=(stranger.root, stranger.root, stranger.root))
    assert diagnose(looped).alert is Alert.UNKNOWN_CA


def test_one_wrong_signature_ends_the_look_at_other_domains() -> None:
    """However many of them have roots of one name."""
    names = [f"{number}.test" for number in range(9)]
    roots = {name: Authority(name, now=NOW, subject="SPIFFE") for name in names}
    others = Roots({name: root.bundle for name, root in roots.items()})
    last = roots[names[-1]].issue(aki=False)
    assert why_no_root([Outline(last.der[0])], others, "example.org").rule == "X5-14"
    first = roots[names[0]].issue(aki=False)
    assert why_no_root([Outline(first.der[0])], others, "example.org").rule == "X5-16"
    assert why_no_root([Outline(first.der[0])], others, names[0]).rule == "X5-14"


def test_a_name_that_can_not_be_read_is_told() -> None:
    issued = Authority("stranger.test", now=NOW, subject="unreadable").issue(aki=False)
    leaf = Outline(issued.der[0].replace(b"unreadable", b"\xff" * 10))
    refusal = why_no_root([leaf], Roots(BUNDLES), "example.org")
    assert refusal.reason.endswith("ends at issuer with a name that can't be read")
