"""What is asked of roots when they are read, and of signers and signatures in a path."""

from __future__ import annotations

import itertools
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.helpers.odd_certificates import (
    first_version,
    rsassa_pss,
    with_printable_issuer,
)
from uproxy.errors import BundleError, UntrustedError
from uproxy.lab.pki import SERVER_AUTH, UNKNOWN_OID, Authority
from uproxy.model import Role
from uproxy.spiffe.authorities import (
    check_critical,
    check_issued,
    check_root,
    check_signature,
    check_signer,
)

CA = Authority("example.org")


@pytest.mark.parametrize(
    ("reason", "root"),
    [
        ("is no CA", Authority("example.org", ca=None).root),
        ("is no CA", Authority("example.org", ca=False).root),
        ("is no CA .* a workload's certificate", CA.issue().certificate),
        ("no keyCertSign", Authority("example.org", key_usage=("crl_sign",)).root),
    ],
)
def test_a_root_that_is_no_ca_is_refused(reason: str, root: x509.Certificate) -> None:
    with pytest.raises(BundleError, match=reason):
        check_root(root)


def test_a_root_of_version_1_is_refused_with_the_way_out() -> None:
    with pytest.raises(BundleError, match=r"version 1.*replace it by one of version 3"):
        check_root(first_version(Authority("example.org")))


@pytest.mark.parametrize(
    "quirks",
    [
        {},
        {"ca_critical": False, "key_usage_critical": False},
        {"key_usage": None},
        {"key": "ed448"},
    ],
    ids=["usual", "nothing critical", "no keyUsage", "Ed448"],
)
def test_a_ca_may_be_a_root(quirks: dict[str, Any]) -> None:
    root = Authority("example.org", **quirks).root
    check_root(root)
    check_signer(root, Role.CLIENT, is_anchor=True)


@pytest.mark.parametrize(
    ("reason", "quirks"),
    [
        ("keyCertSign", {"key_usage": None}),
        ("keyCertSign", {"key_usage": ("crl_sign",)}),
        ("RSA of 1024 bits", {"key": "rsa1024"}),
        ("secp224r1 is a curve", {"key": "p224"}),
        ("doesn't allow a client", {"eku": (SERVER_AUTH,)}),
        ("unknown critical extension", {"unknown_critical": True}),
        ("isn't evaluated", {"permitted": (x509.RegisteredID(UNKNOWN_OID),)}),
    ],
)
def test_an_intermediate_that_may_not_sign_is_refused(reason: str, quirks: dict[str, Any]) -> None:
    with pytest.raises(UntrustedError, match=reason):
        check_signer(CA.intermediate(**quirks).certificate, Role.CLIENT, is_anchor=False)


def test_any_extended_key_usage_is_enough_for_a_signer() -> None:
    usages = (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)
    check_signer(CA.intermediate(eku=usages).certificate, Role.SERVER, is_anchor=False)


def test_a_signature_is_by_sha_256_or_better_or_by_an_edwards_curve(tmp_path: Path) -> None:
    strong = (CA.issue(hash=hashes.SHA384), CA.issue(hash=hashes.SHA512))
    for good in (CA.issue(), *strong, Authority(key="ed25519").issue()):
        check_signature(good.certificate)
    with pytest.raises(UntrustedError, match="signed with sha224"):
        check_signature(CA.issue(hash=hashes.SHA224).certificate)
    _, certificate = rsassa_pss(CA, tmp_path)
    check_signature(x509.load_pem_x509_certificate(certificate))


def test_only_what_is_evaluated_may_be_critical() -> None:
    check_critical(CA.issue(eku_critical=True, san_critical=True).certificate)
    with pytest.raises(UntrustedError, match=UNKNOWN_OID.dotted_string):
        check_critical(CA.issue(unknown_critical=True).certificate)


def test_a_signature_by_an_unknown_algorithm_is_refused() -> None:
    ecdsa, unknown = b"\x2a\x86\x48\xce\x3d\x04\x03\x02", b"\x2a\x86\x48\xce\x3d\x04\x03\x7f"
    der = CA.issue().der[0]
    assert der.count(ecdsa) == 2
    odd = x509.load_der_x509_certificate(der.replace(ecdsa, unknown))
    with pytest.raises(UntrustedError, match="is signed with an unknown algorithm: SHA-256 or"):
        check_signature(odd)


def test_policies_and_places_of_crls_may_be_critical() -> None:
    """They are read by nobody here, and whoever doesn't read them errs on the safe side."""
    policy = x509.PolicyInformation(UNKNOWN_OID, None)
    url = x509.UniformResourceIdentifier("http://ca.test/crl")
    for value in (
        x509.CertificatePolicies([policy]),
        x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)]),
    ):
        check_critical(CA.issue(extensions=((value, True),)).certificate)


NAMES = (
    x509.DNSName("example.org"),
    x509.IPAddress(ip_network("10.0.0.0/8")),
    x509.RFC822Name("example.org"),
    x509.UniformResourceIdentifier("example.org"),
    x509.DirectoryName(CA.root.subject),
)


@pytest.mark.parametrize("constraint", NAMES, ids=lambda name: type(name).__name__)
@pytest.mark.parametrize("field", ["permitted", "excluded"])
def test_constraints_on_names_that_are_evaluated_may_be_there(
    field: str, constraint: x509.GeneralName
) -> None:
    quirks: dict[str, Any] = {field: (constraint,)}
    certificate = CA.intermediate(**quirks).certificate
    check_signer(certificate, Role.CLIENT, is_anchor=False)


@pytest.mark.parametrize("field", ["permitted", "excluded"])
def test_any_other_constraint_is_refused_and_the_signer_named(field: str) -> None:
    quirks: dict[str, Any] = {field: (*NAMES, x509.RegisteredID(UNKNOWN_OID))}
    signer = CA.intermediate(**quirks).certificate
    with pytest.raises(UntrustedError, match=r"the certificate of 'CN=.*' has a name"):
        check_signer(signer, Role.CLIENT, is_anchor=False)


KINDS = ("p256", "rsa2048", "ed25519", "ed448")


@pytest.mark.parametrize("kind", KINDS)
def test_an_issuer_is_told_by_name_and_signature(kind: str) -> None:
    """However its name is encoded."""
    ca, namesake = Authority("example.org", key=kind), Authority("example.org", key=kind)
    usual = ca.issue().certificate
    reencoded = with_printable_issuer(usual, ca.key)
    assert reencoded.issuer.public_bytes() != ca.root.subject.public_bytes()
    for certificate in (usual, reencoded):
        check_issued(certificate, ca.root)
        with pytest.raises(InvalidSignature):
            check_issued(certificate, namesake.root)
        with pytest.raises(ValueError, match="subject does not match"):
            check_issued(certificate, Authority("partner.test", key=kind).root)


def test_a_key_of_another_kind_signed_nothing() -> None:
    cas = [Authority("example.org", key=kind) for kind in KINDS[:3]]
    for ca, other in itertools.permutations(cas, 2):
        usual = ca.issue().certificate
        for certificate in (usual, with_printable_issuer(usual, ca.key)):
            with pytest.raises((ValueError, TypeError)):
                check_issued(certificate, other.root)


def test_a_signature_with_pss_padding_is_checked_with_it() -> None:
    ca = Authority("example.org", key="rsa2048")
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    certificate = with_printable_issuer(ca.issue().certificate, ca.key, pss)
    check_issued(certificate, ca.root)
    with pytest.raises(InvalidSignature):
        check_issued(certificate, Authority("example.org", key="rsa2048").root)
