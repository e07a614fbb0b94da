"""Bundles: the roots and CRLs of one trust domain, out of PEM, DER or a SPIFFE JWKS.

A bundle always knows its trust domain and is never merged with another's (TB-9, FE-2).  Whether
something has expired isn't checked here.  Rules (`X5-…`, `TB-…` of
docs/reference/spiffe-rules.md): an entry the standard says to ignore is ignored whole; anything
else unreadable, and a root that is no CA, makes the bundle bad; an empty `keys` is a bundle that
trusts nobody, not an error.  The caller replaces a bad bundle by `distrusted`, so that no peer of
that domain is trusted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.errors import BundleError
from uproxy.spiffe import encoding
from uproxy.spiffe.authorities import check_root
from uproxy.spiffe.ids import TrustDomain
from uproxy.spiffe.strict_json import read_object

DEFAULT_REFRESH_HINT_S = 300
"""Seconds between two fetches of a bundle that names none (Trust Domain and Bundle §4.1.2)."""

_KEY_TYPES = ("RSA", "EC", "OKP")
_X509_USE = "x509-svid"

_T = TypeVar("_T", x509.Certificate, x509.CertificateRevocationList)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The roots and CRLs against which one trust domain's SVIDs are checked.  Equal content is
    equal, whatever the order and however often repeated."""

    trust_domain: str
    """Its name, lower case."""
    roots: tuple[x509.Certificate, ...]
    """Empty: no peer of the domain is trusted (TB-5)."""
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    problem: str = ""
    """Why the bundle can't be used; empty where it can."""

    def __post_init__(self) -> None:
        TrustDomain(self.trust_domain)
        object.__setattr__(self, "roots", _canonical(self.roots))
        object.__setattr__(self, "crls", _canonical(self.crls))


@dataclass(frozen=True, slots=True)
class BundleDocument:
    """A SPIFFE JWKS: a bundle and what its publisher says about it."""

    bundle: Bundle
    sequence: int | None
    """`spiffe_sequence`; None when absent or not an integer."""
    refresh_hint: int
    """`spiffe_refresh_hint` in seconds; the default when absent or not a positive integer."""


def distrusted(trust_domain: str, problem: str) -> Bundle:
    """Return the bundle that replaces one that can't be used: no peer of the domain is trusted."""
    words = f"no certificate of {trust_domain} is trusted: {problem}"
    return Bundle(trust_domain, (), problem=words)


def parse_bundle(trust_domain: str, data: bytes) -> Bundle:
    """Read a bundle as JWKS (begins with `{`), PEM or DER.

    Raises:
        BundleError: naming what is wrong.
    """
    if is_jwks(data):
        return parse_jwks(trust_domain, data).bundle
    return parse_certificates(trust_domain, data)


def is_jwks(data: bytes) -> bool:
    """Return whether a bundle is a JWKS; otherwise it is PEM or DER."""
    return data.lstrip()[:1] == b"{"


def parse_certificates(trust_domain: str, data: bytes) -> Bundle:
    """Read PEM or concatenated DER; at least one certificate.

    Raises:
        BundleError: naming what is wrong.
    """
    return Bundle(trust_domain, _roots(encoding.certificates(data)))


def parse_jwks(trust_domain: str, data: bytes) -> BundleDocument:
    """Read a SPIFFE bundle document (Trust Domain and Bundle §4, X509-SVID §6).

    Raises:
        BundleError: naming what is wrong.
    """
    document = _json_object(data)
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise BundleError("the JWKS has no list 'keys' (TB-4)")
    entries = [_x509_entry(key) for key in keys]
    roots = _roots(encoding.certificate(der) for der in entries if der is not None)
    hint = _integer(document.get("spiffe_refresh_hint"))
    return BundleDocument(
        Bundle(trust_domain, roots),
        _integer(document.get("spiffe_sequence")),
        hint if hint is not None and hint > 0 else DEFAULT_REFRESH_HINT_S,
    )


def parse_der_roots(trust_domain: str, data: bytes) -> Bundle:
    """Read the Workload API's concatenated DER; at least one certificate.

    Raises:
        BundleError: naming what is wrong.
    """
    elements = encoding.split_der(data)
    if not elements:
        raise BundleError("it is empty")
    return Bundle(trust_domain, _roots(encoding.certificate(each) for each in elements))


def parse_crls(data: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """Read CRLs from PEM or concatenated DER, at least one; `crls.why_unusable` says of each
    whether it can be applied.

    Raises:
        BundleError: unreadable, so that it can't be known whose certificates it is about.
    """
    return encoding.revocation_lists(data)


def _roots(certificates: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    roots = tuple(certificates)
    for root in roots:
        check_root(root)
    return roots


def _canonical(items: Iterable[_T]) -> tuple[_T, ...]:
    by_content = {item.public_bytes(Encoding.DER): item for item in items}
    return tuple(by_content[der] for der in sorted(by_content))


def _json_object(data: bytes) -> dict[str, object]:
    if len(data) > encoding.MAX_BYTES:
        raise BundleError(f"{len(data)} bytes; at most {encoding.MAX_BYTES} are read")
    try:
        return read_object(data, "the JWKS")
    except ValueError as error:
        raise BundleError(str(error)) from error


def _x509_entry(key: object) -> bytes | None:
    """The certificate (DER) of one JWK, or None for an entry that must be ignored."""
    if not isinstance(key, dict):
        raise BundleError("an entry of 'keys' is not a JSON object")
    if key.get("use") != _X509_USE or key.get("kty") not in _KEY_TYPES:
        return None
    match key.get("x5c"):
        case [str() as first, *_]:
            return _base64(first)
        case None | []:
            return None
    raise BundleError("an 'x5c' of the JWKS is not a list of strings")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BundleError(f"an 'x5c' of the JWKS is not base64: {error}") from error


def _integer(value: object) -> int | None:
    # JSON's true is an int in Python
    return value if isinstance(value, int) and not isinstance(value, bool) else None
