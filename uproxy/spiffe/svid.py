"""Checks what the X509-SVID standard demands of a leaf certificate by itself.

It returns the SPIFFE ID that the leaf claims; the verifier then checks the path to the claimed
trust domain's bundle.  Rules `X5-…` of docs/reference/spiffe-rules.md.  Pure: it needs no
bundle and no time.
"""

from __future__ import annotations

import contextlib
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, PublicKeyAlgorithmOID

from uproxy.errors import SpiffeIdError, UntrustedError, UnusableError
from uproxy.model import Alert, Claim, Role
from uproxy.spiffe.encoding import serial_text
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.outline import Outline

MIN_RSA_BITS = 2048
"""OpenSSL demands this of CA keys; we demand it of leaves too (NIST SP 800-131A)."""

MAX_RSA_BITS = 8192
"""Verifying a signature by a longer key costs more than a whole handshake."""

MAX_RSA_EXPONENT_BITS = 64
"""An exponent as long as the modulus makes verifying a signature a hundred times as expensive."""

MAX_SERIAL_DIGITS = 64
"""Of a claimed serial number; RFC 5280 section 4.1.2.2 allows 40, and a stranger may send more."""

USAGE = {Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}
"""The extended key usage that a peer needs in its role."""

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def claimed_identity(leaf: x509.Certificate) -> SpiffeId:
    """Return the SPIFFE ID of a valid leaf; whether it is true is not checked here.

    Raises:
        UntrustedError: it names the broken rule (X509-SVID §2, §3, §4, §5.2).
    """
    _check_constraints(leaf)
    _check_key_usage(leaf)
    _check_key(leaf)
    spiffe_id = _spiffe_id(leaf)
    if not spiffe_id.path:
        raise _bad("X5-4", f"{spiffe_id} names a trust domain, not a workload")
    return spiffe_id


def only_id(leaf: Outline) -> SpiffeId | None:
    """Return the SPIFFE ID that is a leaf's only URI name, of which nothing else is looked at;
    None: there is none, or there are more."""
    uris = leaf.uris
    if len(uris) == 1:
        with contextlib.suppress(SpiffeIdError, UnicodeDecodeError):
            return SpiffeId.parse(uris[0].decode("ascii"))
    return None


def claim_of(leaf: Outline) -> Claim:
    """Return what a leaf that was refused says of itself."""
    named = only_id(leaf)
    serial = serial_text(leaf.certificate)[:MAX_SERIAL_DIGITS]
    return Claim(None if named is None else str(named), serial)


def check_role(leaf: x509.Certificate, role: Role) -> None:
    """Refuse a leaf that has an extended key usage without the one of its role.

    anyExtendedKeyUsage is not enough: the standard demands both usages by name (§4.4).

    Raises:
        UntrustedError: X5-13.
    """
    usages = extension(leaf, x509.ExtendedKeyUsage)
    if usages is not None and USAGE[role] not in usages:
        reason = f"the certificate's extended key usage doesn't allow a {role}"
        raise UntrustedError("X5-13", reason, Alert.UNSUPPORTED_CERTIFICATE)


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return an extension's value; None if the certificate doesn't have it."""
    try:
        # by its number: a look at the class of each costs more, where a stranger sends many
        value = certificate.extensions.get_extension_for_oid(kind.oid).value
    except x509.ExtensionNotFound:
        return None
    return value if isinstance(value, kind) else None


def check_own_key(leaf: x509.Certificate) -> None:
    """Refuse a key that peers may have, but that we can't prove the possession of.

    Raises:
        UnusableError: an RSASSA-PSS key.
    """
    if leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise UnusableError(
            "an RSASSA-PSS key can't be used in our own certificate: have it issued for a key on "
            "P-256 or a plain RSA key (rsaEncryption), which TLS 1.3 uses with PSS signatures too"
        )


def key_problem(key: CertificatePublicKeyTypes) -> str:
    """Return why a key may neither prove an identity nor sign certificates; empty where it may."""
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e.bit_length()
            if key.key_size < MIN_RSA_BITS:
                kind = f"RSA of {key.key_size} bits is weak"
            elif key.key_size > MAX_RSA_BITS:
                kind = f"RSA of {key.key_size} bits is slow"
            elif exponent > MAX_RSA_EXPONENT_BITS:
                kind = f"RSA with an exponent of {exponent} bits is slow"
            else:
                return ""
        case ec.EllipticCurvePublicKey():
            if isinstance(key.curve, _CURVES):
                return ""
            kind = f"{key.curve.name} is a curve that TLS 1.3 has no signatures on"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return ""
        case _:
            kind = f"{type(key).__name__.removesuffix('PublicKey')} is no kind of TLS 1.3"
    return f"{kind} (P-256, P-384, P-521, Ed25519, Ed448 and RSA of 2048 to 8192 bits can)"


def _spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    """Return the leaf's SPIFFE ID: its only URI name."""
    names = extension(leaf, x509.SubjectAlternativeName) or ()
    # not isinstance: the names' base class is abstract, which makes it slow, and there may be many
    uris = [name.value for name in names if type(name) is x509.UniformResourceIdentifier]
    if not uris:
        raise _bad("X5-1", "the certificate has no URI name, so it is not an SVID")
    if len(uris) > 1:
        raise _bad("X5-2", f"the certificate has {len(uris)} URI names; an SVID has one")
    try:
        return SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        rule = "X5-15" if error.rule == "ID-1" else error.rule
        raise _bad(rule, f"the certificate's URI name: {error}") from error


def _check_constraints(leaf: x509.Certificate) -> None:
    constraints = extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _bad("X5-8", "a signing certificate (cA) can't authenticate a workload")


def _check_key_usage(leaf: x509.Certificate) -> None:
    """Refuse a leaf that may sign certificates or CRLs, or may not sign handshakes."""
    usage = extension(leaf, x509.KeyUsage)
    if usage is None:
        return
    if usage.key_cert_sign or usage.crl_sign:
        raise _bad("X5-12", "the certificate may sign others (keyCertSign or cRLSign)")
    if not usage.digital_signature:
        # RFC 8446 §4.4.2.2 demands the bit too, if there is a keyUsage
        raise _bad("X5-11", "the certificate's key usage lacks digitalSignature")


def _check_key(leaf: x509.Certificate) -> None:
    """Refuse a weak key, or one of a kind that we don't support."""
    problem = key_problem(leaf.public_key())
    if problem:
        reason = f"the certificate's key can't be used: {problem}"
        raise UntrustedError("X5-14", reason, Alert.UNSUPPORTED_CERTIFICATE)


def _bad(rule: str, reason: str) -> UntrustedError:
    return UntrustedError(rule, reason, Alert.BAD_CERTIFICATE)
