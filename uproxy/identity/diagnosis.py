"""Why a path was refused, in words and as an alert: after the fact, and never a yes.

Path validation says only that no path exists.  This walks from the leaf upward by name and
signature to see where the path ends, so that a log line can tell a foreign signer from an
expired intermediate.  It is bounded by the presented chain, uses no key that the roots don't
lead to, and nothing it finds is used to accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519

from uproxy.errors import UntrustedError
from uproxy.identity.vouching import issuer_among, vouched_for
from uproxy.model import Alert
from uproxy.spiffe.bundles import Bundle

_SHOWN = 160  # characters of cryptography's reason that a message repeats
_EDWARDS = ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


def why_untrusted(
    presented: list[x509.Certificate],
    bundles: Mapping[str, Bundle],
    domain: str,
    now: datetime,
    error: Exception,
) -> UntrustedError:
    """The refusal of `presented` (leaf first), which has no valid path to a root of `domain`.

    `error` is what path validation said.
    """
    path = _climb(presented, bundles[domain].roots)
    if path[-1] in bundles[domain].roots:
        return _broken_path(path, now, error)
    signers = [
        name
        for name, bundle in bundles.items()
        if name != domain and issuer_among(bundle.roots, path[-1]) is not None
    ]
    if signers:
        reason = f"a certificate of {domain} is signed by the trust domain {signers[0]}"
        return UntrustedError("X5-16", reason, Alert.UNKNOWN_CA)
    reason = f"no root of {domain} signed the chain, which ends at issuer {_name(path[-1].issuer)}"
    return UntrustedError("X5-14", reason, Alert.UNKNOWN_CA)


def _climb(
    presented: list[x509.Certificate], roots: tuple[x509.Certificate, ...]
) -> list[x509.Certificate]:
    """From the leaf as far up as it leads; a root is the last one.  A stranger's certificates
    are followed by their names only: checking signatures with its keys is what it may want."""
    path, rest = presented[:1], presented[1:]
    vouched = vouched_for(rest, roots)
    while True:
        root = issuer_among(roots, path[-1])
        issuer = root or issuer_among((each for each in vouched if each in rest), path[-1])
        issuer = issuer or _named(path[-1].issuer, [each for each in rest if each not in vouched])
        if issuer is None:
            return path
        path.append(issuer)
        if root is not None:
            return path
        rest.remove(issuer)


def _named(name: x509.Name, candidates: list[x509.Certificate]) -> x509.Certificate | None:
    return next((each for each in candidates if each.subject == name), None)


def _broken_path(path: list[x509.Certificate], now: datetime, error: Exception) -> UntrustedError:
    for certificate in path:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            reason = (
                f"the CA certificate {_name(certificate.subject)} is valid only from "
                f"{certificate.not_valid_before_utc.isoformat()} "
                f"to {certificate.not_valid_after_utc.isoformat()}"
            )
            return UntrustedError("X5-14", reason, Alert.CERTIFICATE_EXPIRED)
    if any(isinstance(ca.public_key(), _EDWARDS) for ca in path[1:]):
        reason = "a CA with an Ed25519 or Ed448 key is not supported"
        return UntrustedError("X5-14", reason, Alert.UNSUPPORTED_CERTIFICATE)
    reason = f"the path is broken: {str(error)[:_SHOWN]}"
    return UntrustedError("X5-14", reason, Alert.BAD_CERTIFICATE)


def _name(name: x509.Name) -> str:
    return repr(name.rfc4514_string()[:_SHOWN])
