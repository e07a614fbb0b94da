"""What a leaf says of itself; the rules one by one are in test_identity_verifier."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tests.helpers.odd_certificates import rsassa_pss, with_serial
from uproxy.errors import UntrustedError, UnusableError
from uproxy.lab.pki import CLIENT_AUTH, SERVER_AUTH, Authority, make_key
from uproxy.model import Claim, Role
from uproxy.spiffe.outline import Outline
from uproxy.spiffe.svid import (
    check_own_key,
    check_role,
    claim_of,
    claimed_identity,
    extension,
    key_problem,
)

CA = Authority("example.org")


def test_a_claimed_serial_number_may_be_long_and_is_kept_short() -> None:
    der = with_serial(CA.issue("/a").certificate, b"\1" + bytes(2000), CA.key)
    claim = claim_of(Outline(der))
    assert claim == Claim("spiffe://example.org/a", "01" + 62 * "0")


def test_a_well_formed_leaf_claims_one_identity_whoever_signed_it() -> None:
    leaf = CA.issue("/a/b", forged=True).certificate
    assert str(claimed_identity(leaf)) == "spiffe://example.org/a/b"


def test_a_refusal_repeats_the_uri_it_refuses() -> None:
    leaf = CA.issue(uris=("spiffe://example.org/a b",)).certificate
    with pytest.raises(UntrustedError, match=r"'spiffe://example\.org/a b' .*\(ID-14\)"):
        claimed_identity(leaf)


@pytest.mark.parametrize(
    ("usages", "allowed"),
    [
        (None, {Role.SERVER, Role.CLIENT}),
        ((SERVER_AUTH, CLIENT_AUTH), {Role.SERVER, Role.CLIENT}),
        ((SERVER_AUTH,), {Role.SERVER}),
        ((CLIENT_AUTH,), {Role.CLIENT}),
    ],
)
def test_a_leaf_plays_the_roles_its_usages_allow(
    usages: tuple[x509.ObjectIdentifier, ...] | None, allowed: set[Role]
) -> None:
    leaf = CA.issue(eku=usages).certificate
    for role in allowed:
        check_role(leaf, role)
    for role in set(Role) - allowed:
        with pytest.raises(UntrustedError, match=f"doesn't allow a {role}"):
            check_role(leaf, role)


def test_an_extension_may_be_absent() -> None:
    leaf = CA.issue(key_usage=None).certificate
    assert extension(leaf, x509.KeyUsage) is None
    assert extension(leaf, x509.BasicConstraints) == x509.BasicConstraints(False, None)


def rsa_key(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    """No prime's product, which nobody looks at."""
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) + 1).public_key()


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (rsa_key(2047), "RSA of 2047 bits is weak"),
        (rsa_key(2048), ""),
        (rsa_key(8192), ""),
        (rsa_key(8193), "RSA of 8193 bits is slow"),
        (rsa_key(2048, (1 << 63) + 1), ""),
        (rsa_key(2048, (1 << 64) + 1), "RSA with an exponent of 65 bits is slow"),
        (make_key("p256").public_key(), ""),
        (make_key("p384").public_key(), ""),
        (make_key("p521").public_key(), ""),
        (make_key("p224").public_key(), "secp224r1 is a curve that TLS 1.3 has no signatures on"),
        (make_key("secp256k1").public_key(), "secp256k1 is a curve that TLS 1.3"),
        (make_key("ed25519").public_key(), ""),
        (make_key("ed448").public_key(), ""),
        (make_key("dsa").public_key(), "DSA is no kind of TLS 1.3"),
    ],
)  # fmt: skip
def test_a_key_must_be_one_of_tls_1_3_neither_weak_nor_slow(
    key: CertificatePublicKeyTypes, problem: str
) -> None:
    assert key_problem(key).startswith(problem)
    assert bool(key_problem(key)) is bool(problem)


def test_of_our_own_keys_only_an_rsassa_pss_key_is_refused(tmp_path: Path) -> None:
    for kind in ("p256", "rsa2048", "ed25519"):
        check_own_key(CA.issue(key=kind).certificate)
    _, pem = rsassa_pss(CA, tmp_path)
    with pytest.raises(UnusableError, match="RSASSA-PSS key can't be used in our own"):
        check_own_key(x509.load_pem_x509_certificate(pem))
