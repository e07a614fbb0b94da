"""Checks of signing certificates and signatures that path validation doesn't make.

Rules `X5-…` of docs/reference/spiffe-rules.md.  A root is a name and a key that somebody has
decided to trust, so less is asked of it than of an intermediate that a stranger brings.  Pure:
no bundle, no time.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from cryptography.x509.oid import SignatureAlgorithmOID as Signatures

from uproxy.errors import BundleError, UntrustedError
from uproxy.model import Alert, Role
from uproxy.spiffe.svid import USAGE, extension, key_problem

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_EDWARDS = (Signatures.ED25519, Signatures.ED448)

_UNDERSTOOD = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES, ExtensionOID.CRL_DISTRIBUTION_POINTS,
    )
)  # fmt: skip
"""Extensions that may be critical.  OpenSSL knows more, but evaluates them only on request."""

_CONSTRAINED = (
    x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier,
    x509.DirectoryName,
)  # fmt: skip
"""The kinds of names whose constraints are evaluated."""


def check_root(root: x509.Certificate) -> None:
    """Refuse a certificate that can't be the root of a bundle.

    Raises:
        BundleError: it isn't a CA, or must not sign certificates.
    """
    name = repr(root.subject.rfc4514_string())
    if root.version is not x509.Version.v3:
        raise BundleError(
            f"the root {name} is an X.509 certificate of version 1, which can't say that it is a "
            "CA: replace it by one of version 3 with basicConstraints CA:TRUE"
        )
    constraints = extension(root, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise BundleError(
            f"the root {name} is no CA (basicConstraints CA:TRUE): is it a workload's certificate?"
        )
    usage = extension(root, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise BundleError(f"the root {name} may not sign certificates (no keyCertSign)")


def check_signer(signer: x509.Certificate, role: Role, *, is_anchor: bool) -> None:
    """Check what path validation doesn't check in a signing certificate.

    Raises:
        UntrustedError: X5-14 or X5-10, for a peer that played `role`.
    """
    check_critical(signer)
    _check_key(signer)
    _check_constraints(signer)
    usage = extension(signer, x509.KeyUsage)
    if (usage is None and not is_anchor) or (usage is not None and not usage.key_cert_sign):
        raise _bad(f"{_name(signer)} may not sign certificates (keyCertSign)")
    usages = extension(signer, x509.ExtendedKeyUsage)
    allowed = {USAGE[role], ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if usages is not None and allowed.isdisjoint(usages):
        raise _bad(f"the extended key usage of {_name(signer)} doesn't allow a {role}")


def check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Check that `issuer` signed `certificate`, by name and key.

    The two names may have strings of different kinds (RFC 5280 §7.1), as where other software made
    the issuer's certificate anew; `verify_directly_issued_by` takes them for different.

    Raises:
        InvalidSignature: the signature is wrong.
        ValueError, TypeError, UnsupportedAlgorithm: names, or kinds of key and signature, differ.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except ValueError:
        if certificate.issuer != issuer.subject:
            raise
        _verify(certificate, issuer)


def _verify(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    how = certificate.signature_algorithm_parameters
    match issuer.public_key(), how, certificate.signature_hash_algorithm:
        case rsa.RSAPublicKey() as key, (
            padding.PKCS1v15() | padding.PSS()
        ) as pad, hashes.HashAlgorithm() as hash_:
            key.verify(signature, signed, pad, hash_)
        case ec.EllipticCurvePublicKey() as key, ec.ECDSA() as ecdsa, _:
            key.verify(signature, signed, ecdsa)
        case (ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()) as key, None, None:
            key.verify(signature, signed)
        case _:
            raise TypeError("such a key makes no such signature")


def check_critical(certificate: x509.Certificate) -> None:
    """Refuse a critical extension that isn't evaluated.

    Raises:
        UntrustedError: X5-14.
    """
    for each in certificate.extensions:
        if each.critical and each.oid not in _UNDERSTOOD:
            oid = each.oid.dotted_string
            raise _bad(f"{_name(certificate)} has the unknown critical extension {oid}")


def check_signature(certificate: x509.Certificate) -> None:
    """Refuse a signature by a weak or unknown algorithm; whether it is right isn't looked at.

    Raises:
        UntrustedError: X5-14.
    """
    oid = certificate.signature_algorithm_oid
    if oid in _EDWARDS:
        return
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = None
    if not isinstance(algorithm, _HASHES):
        word = "an unknown algorithm" if algorithm is None else algorithm.name
        raise _bad(f"{_name(certificate)} is signed with {word}: SHA-256 or better is needed")


def _check_key(signer: x509.Certificate) -> None:
    problem = key_problem(signer.public_key())
    if problem:
        reason = f"the key of {_name(signer)} can't be used: {problem}"
        raise UntrustedError("X5-14", reason, Alert.UNSUPPORTED_CERTIFICATE)


def _check_constraints(signer: x509.Certificate) -> None:
    constraints = extension(signer, x509.NameConstraints)
    if constraints is None:
        return
    for subtree in (
        *(constraints.permitted_subtrees or ()),
        *(constraints.excluded_subtrees or ()),
    ):
        if not isinstance(subtree, _CONSTRAINED):
            raise _bad(f"{_name(signer)} has a name constraint of a kind that isn't evaluated")


def _name(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string()[:160]!r}"


def _bad(reason: str) -> UntrustedError:
    return UntrustedError("X5-14", reason, Alert.BAD_CERTIFICATE)
