"""What the development CA signs obeys the X509-SVID standard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from uproxy.authority.ca import BACKDATE, Revoked, Signer
from uproxy.spiffe.crls import revocations_by

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEB = "spiffe://example.org/web"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def signer(*, with_intermediate: bool = False, trust_domain: str = "example.org") -> Signer:
    return Signer(trust_domain, NOW, DAY, with_intermediate=with_intermediate)


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


@pytest.mark.parametrize("with_intermediate", [False, True])
def test_an_svid_passes_path_validation(with_intermediate: bool) -> None:
    ca = signer(with_intermediate=with_intermediate)
    svid = ca.issue(WEB, NOW, HOUR)
    verifier = PolicyBuilder().store(Store([ca.root])).time(NOW).build_client_verifier()

    verified = verifier.verify(svid.leaf, list(svid.chain[1:]))

    assert len(svid.chain) == 1 + with_intermediate
    assert verified.chain[-1] == ca.root


def test_an_svid_has_the_extensions_the_standard_wants() -> None:
    leaf = signer().issue(WEB, NOW, HOUR).leaf
    extensions = leaf.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    eku = extensions.get_extension_for_class(x509.ExtendedKeyUsage)

    assert uris(leaf) == [WEB]
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert set(eku.value) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


@pytest.mark.parametrize("with_intermediate", [False, True])
def test_signing_certificates_name_the_trust_domain_only(with_intermediate: bool) -> None:
    ca = signer(with_intermediate=with_intermediate)

    for certificate in (ca.root, *ca.issue(WEB, NOW, HOUR).chain[1:]):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert uris(certificate) == ["spiffe://example.org"]
        assert constraints.value.ca
        assert constraints.critical
        assert usage.critical
        assert usage.value.key_cert_sign


def test_an_svid_is_backdated_and_lives_as_long_as_told() -> None:
    leaf = signer().issue(WEB, NOW, HOUR).leaf

    assert leaf.not_valid_before_utc == NOW - BACKDATE
    assert leaf.not_valid_after_utc == NOW + HOUR


def test_an_svid_never_outlives_its_ca() -> None:
    late = NOW + DAY - timedelta(minutes=1)

    leaf = signer().issue(WEB, late, HOUR).leaf

    assert leaf.not_valid_after_utc == NOW + DAY


def test_the_key_is_the_certificates_in_pkcs8() -> None:
    svid = signer().issue(WEB, NOW, HOUR)

    key = load_der_private_key(svid.key, password=None)

    assert key.public_key() == svid.leaf.public_key()
    assert "key=" not in repr(svid)


def test_two_cas_of_one_trust_domain_have_different_names() -> None:
    assert signer().root.subject != signer().root.subject


def test_the_longest_trust_domain_fits() -> None:
    name = "x" * 255

    assert uris(signer(trust_domain=name).root) == [f"spiffe://{name}"]


@pytest.mark.parametrize("with_intermediate", [False, True])
def test_a_revoked_svid_is_on_its_issuers_list(with_intermediate: bool) -> None:
    ca = signer(with_intermediate=with_intermediate)
    bad, good = ca.issue(WEB, NOW, HOUR), ca.issue(WEB, NOW, HOUR)
    revoked = Revoked(bad.leaf.serial_number, NOW, bad.leaf.not_valid_after_utc)

    crl = x509.load_der_x509_crl(ca.revocation_list([revoked], 7, NOW, HOUR))

    issuer = bad.chain[1] if with_intermediate else ca.root
    seen = revocations_by(issuer, [crl])
    assert bad.leaf.serial_number in seen.serials
    assert good.leaf.serial_number not in seen.serials
    assert seen.next_update(is_leaf=True) == NOW + HOUR
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
