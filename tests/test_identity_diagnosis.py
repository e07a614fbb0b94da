"""A refusal says where the path ends, not only that there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from uproxy.errors import UntrustedError
from uproxy.identity.diagnosis import why_untrusted
from uproxy.lab.pki import Authority, Issued
from uproxy.model import Alert
from uproxy.spiffe.bundles import Bundle

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CA = Authority("example.org", now=NOW)
PARTNER = Authority("partner.test", now=NOW)
BUNDLES = {"example.org": CA.bundle, "partner.test": PARTNER.bundle}


def diagnose(peer: Issued, said: str = "what cryptography said") -> UntrustedError:
    return why_untrusted([*peer.chain], BUNDLES, "example.org", NOW, ValueError(said))


def test_a_stranger_s_chain_names_the_issuer_it_ends_at() -> None:
    error = diagnose(Authority("stranger.test", now=NOW).intermediate().issue())
    assert (error.rule, error.alert) == ("X5-14", Alert.UNKNOWN_CA)
    assert error.reason == (
        "no root of example.org signed the chain, which ends at issuer 'CN=CA of stranger.test'"
    )


def test_another_domain_s_authority_is_named() -> None:
    error = diagnose(PARTNER.intermediate().issue())
    assert error.rule == "X5-16"
    assert error.reason == "a certificate of example.org is signed by the trust domain partner.test"


def test_an_outdated_ca_is_named() -> None:
    early = NOW + timedelta(hours=1)
    error = diagnose(CA.intermediate(not_before=early, not_after=early).issue())
    assert error.alert is Alert.CERTIFICATE_EXPIRED
    assert "'CN=intermediate 1 of example.org' is valid only from 2026-08-01T13:00" in error.reason


def test_a_key_that_path_validation_does_not_know_is_named() -> None:
    error = diagnose(CA.intermediate(key="ed448").issue())
    assert error.alert is Alert.UNSUPPORTED_CERTIFICATE
    assert "Ed25519 or Ed448" in error.reason


def test_otherwise_the_library_has_the_word_but_not_for_long() -> None:
    error = diagnose(CA.issue(), "reason " * 100)
    assert error.alert is Alert.BAD_CERTIFICATE
    assert error.reason.startswith("the path is broken: reason reason")
    assert len(error.reason) < 200


def test_a_certificate_that_signed_itself_ends_the_climb() -> None:
    stranger = Authority("stranger.test", now=NOW)
    looped = replace(stranger.issue(), chain=(stranger.root, stranger.root, stranger.root))
    assert diagnose(looped).alert is Alert.UNKNOWN_CA


@pytest.mark.parametrize("bundle", [Bundle("example.org", ()), PARTNER.bundle])
def test_a_diagnosis_is_always_a_no(bundle: Bundle) -> None:
    bundles = {"example.org": replace(bundle, trust_domain="example.org")}
    error = why_untrusted([*CA.issue().chain], bundles, "example.org", NOW, ValueError())
    assert isinstance(error, UntrustedError)
