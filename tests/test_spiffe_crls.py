"""Which CRLs can be applied, and what they say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.errors import BundleError
from uproxy.lab.pki import UNKNOWN_OID, Authority
from uproxy.spiffe.bundles import parse_crls
from uproxy.spiffe.crls import Revocations, check_usable, issued_by, revocations_by, why_unusable

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CA = Authority("example.org", now=NOW)
UNKNOWN = x509.UnrecognizedExtension(UNKNOWN_OID, b"\x05\x00")


def distribution_point(**flags: bool) -> x509.IssuingDistributionPoint:
    only = {"user_certs": False, "ca_certs": False, "attribute_certs": False} | {
        name: value for name, value in flags.items() if name != "indirect"
    }
    return x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("http://crl.test/1")],
        relative_name=None,
        only_contains_user_certs=only["user_certs"],
        only_contains_ca_certs=only["ca_certs"],
        only_some_reasons=None,
        indirect_crl=flags.get("indirect", False),
        only_contains_attribute_certs=only["attribute_certs"],
    )


SOME_REASONS = x509.IssuingDistributionPoint(
    None, None, False, False, frozenset([x509.ReasonFlags.key_compromise]), False, False
)


@pytest.mark.parametrize(
    ("word", "extension"),
    [
        ("delta", x509.DeltaCRLIndicator(1)),
        ("indirect", distribution_point(indirect=True)),
        ("attribute certificates", distribution_point(attribute_certs=True)),
        ("some reasons", SOME_REASONS),
        (f"unknown critical extension {UNKNOWN_OID.dotted_string}", UNKNOWN),
    ],
)
def test_a_crl_that_says_more_or_less_than_we_apply_is_refused(
    word: str, extension: x509.ExtensionType
) -> None:
    crl = CA.crl(extensions=[(extension, True)])
    assert parse_crls(crl.public_bytes(Encoding.DER)) == (crl,)
    assert word in why_unusable(crl)
    assert word in revocations_by(CA.root, [CA.crl(), crl]).problem
    assert revocations_by(Authority("other.test").root, [crl]).problem == ""


@pytest.mark.parametrize(
    "point",
    [
        distribution_point(),
        distribution_point(user_certs=True),
        distribution_point(ca_certs=True),
    ],
)
def test_a_crl_of_a_distribution_point_can_be_applied(point: x509.ExtensionType) -> None:
    assert why_unusable(CA.crl(extensions=[(point, True)])) == ""


@pytest.mark.parametrize(
    ("word", "extension"),
    [
        ("indirect", x509.CertificateIssuer([x509.DirectoryName(CA.root.subject)])),
        ("delta", x509.CRLReason(x509.ReasonFlags.remove_from_crl)),
        ("unknown critical extension", UNKNOWN),
    ],
)
def test_an_entry_that_says_more_than_revoked_is_refused(
    word: str, extension: x509.ExtensionType
) -> None:
    crl = CA.crl([CA.issue()], entry_extensions=[(extension, True)])
    with pytest.raises(BundleError, match=word):
        check_usable(crl)


def test_ordinary_extensions_are_understood() -> None:
    key = CA.key.public_key()
    crl = CA.crl(
        [CA.issue()],
        extensions=[
            (x509.CRLNumber(7), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(key), True),
            (UNKNOWN, False),
        ],
        entry_extensions=[
            (x509.CRLReason(x509.ReasonFlags.key_compromise), True),
            (x509.InvalidityDate(NOW), False),
            (UNKNOWN, False),
        ],
    )
    assert parse_crls(crl.public_bytes(Encoding.DER)) == (crl,)
    assert why_unusable(crl) == ""


def test_a_crl_is_its_issuers_by_name_and_key() -> None:
    crl = CA.crl()
    assert issued_by(crl, CA.root)
    assert not issued_by(crl, Authority("example.org", now=NOW).root)
    assert not issued_by(crl, Authority("other.test", now=NOW).root)
    assert not issued_by(CA.crl(forged=True), CA.root)
    namesake = Authority("example.org", now=NOW, subject="another name")
    namesake.key = CA.key
    assert not issued_by(namesake.crl(), CA.root)


def test_a_crl_of_another_algorithm_is_not_the_issuers() -> None:
    edwards = Authority("example.org", now=NOW, key="ed25519")
    assert issued_by(edwards.crl(), edwards.root)
    assert not issued_by(edwards.crl(), CA.root)
    assert not issued_by(CA.crl(), edwards.root)


def test_the_newest_crl_speaks_for_its_issuer() -> None:
    one, two = CA.issue().certificate, CA.issue().certificate
    old = CA.crl([one], last_update=NOW - timedelta(hours=2))
    new = CA.crl([two], last_update=NOW - timedelta(hours=1), next_update=NOW)
    foreign = Authority("example.org", now=NOW).crl([one], last_update=NOW)
    for crls in ((old, new, foreign), (foreign, new, old)):
        found = revocations_by(CA.root, crls)
        assert found.serials == {two.serial_number}
        assert found.next_update(is_leaf=True) == found.next_update(is_leaf=False) == NOW


def test_an_issuer_without_a_crl_has_revoked_nothing() -> None:
    assert revocations_by(CA.root, ()) == Revocations()
    assert revocations_by(CA.root, (Authority("other.test").crl(),)) == Revocations()


def test_a_crl_whose_issuer_can_not_be_read_is_refused() -> None:
    good = CA.crl().public_bytes(Encoding.DER)
    start = good.index(b"CA of ") - 2
    bit_string, not_utf8 = b"\x03", b"\xff"
    for at, damage in ((start, bit_string), (start + 2, not_utf8)):
        with pytest.raises(BundleError, match="a CRL can't be read"):
            parse_crls(good[:at] + damage + good[at + 1 :])
