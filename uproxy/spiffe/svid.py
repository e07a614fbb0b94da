"""What the X509-SVID standard asks of a leaf by itself, before and beside path validation.

It says who a leaf claims to be; whether that is true is the verifier's to find out against
the bundle of the claimed trust domain.  Rules `X5-…` of docs/reference/spiffe-rules.md.
Pure: no bundle, no time.
"""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from uproxy.errors import SpiffeIdError, UntrustedError
from uproxy.model import Alert, Role
from uproxy.spiffe.ids import SpiffeId

MIN_RSA_BITS = 2048
"""What path validation demands of CAs, demanded of leaves too (NIST SP 800-131A)."""

MAX_RSA_EXPONENT_BITS = 64
"""With an exponent as long as the modulus a signature costs a hundred times as much to check."""

USAGE = {Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}
"""The extended key usage a peer needs in each role."""

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def claimed_identity(leaf: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID of a well-formed leaf; not proven by anything yet.

    Raises:
        UntrustedError: naming the rule (X509-SVID §2, §3, §4, §5.2).
    """
    _check_constraints(leaf)
    _check_key_usage(leaf)
    _check_key(leaf)
    spiffe_id = _spiffe_id(leaf)
    if not spiffe_id.path:
        raise _bad("X5-4", f"{spiffe_id} names a trust domain, not a workload")
    return spiffe_id


def check_role(leaf: x509.Certificate, role: Role) -> None:
    """Refuse a leaf whose extended key usage, if present, leaves out the role it plays.

    anyExtendedKeyUsage isn't enough: the standard asks for both usages by name (§4.4).

    Raises:
        UntrustedError: X5-13.
    """
    usages = extension(leaf, x509.ExtendedKeyUsage)
    if usages is not None and USAGE[role] not in usages:
        reason = f"the certificate's extended key usage doesn't allow a {role}"
        raise UntrustedError("X5-13", reason, Alert.UNSUPPORTED_CERTIFICATE)


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """An extension's value, or None when the certificate doesn't have it."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    names = extension(leaf, x509.SubjectAlternativeName) or ()
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
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
    usage = extension(leaf, x509.KeyUsage)
    if usage is None:
        return
    if usage.key_cert_sign or usage.crl_sign:
        raise _bad("X5-12", "the certificate may sign others (keyCertSign or cRLSign)")
    if not usage.digital_signature:
        # RFC 8446 §4.4.2.2 wants the bit too, whenever keyUsage is there
        raise _bad("X5-11", "the certificate's key usage lacks digitalSignature")


def _check_key(leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            fit = key.key_size >= MIN_RSA_BITS and exponent.bit_length() <= MAX_RSA_EXPONENT_BITS
        case ec.EllipticCurvePublicKey():
            fit = isinstance(key.curve, _CURVES)
        case _:
            fit = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    if not fit:
        reason = "the certificate's key is weak or of an unsupported kind"
        raise UntrustedError("X5-14", reason, Alert.UNSUPPORTED_CERTIFICATE)


def _bad(rule: str, reason: str) -> UntrustedError:
    return UntrustedError(rule, reason, Alert.BAD_CERTIFICATE)
