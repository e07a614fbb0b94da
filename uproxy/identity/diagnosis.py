"""Explains why a path was refused, in words and as an alert; it accepts nothing.

Path validation says only that no path exists.  This looks at where the path ends that names and
signatures lead along (`vouching.find_way_up`), so that a log line can tell a foreign signer from a
broken path.  Nothing it finds is used to accept.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509

from uproxy.errors import UntrustedError
from uproxy.identity.vouching import Search
from uproxy.model import Alert
from uproxy.spiffe.bundles import Bundle

_SHOWN = 160  # characters of a name, or of OpenSSL's reason, that a message repeats


def why_no_root(
    path: list[x509.Certificate], bundles: Mapping[str, Bundle], domain: str
) -> UntrustedError:
    """Return the refusal of a leaf whose `path` (leaf first) leads to no root of `domain`."""
    search = Search()  # many bundles' roots may share a name
    signers = [
        name
        for name, bundle in bundles.items()
        if name != domain and search.issuer_among(bundle.roots, path[-1]) is not None
    ]
    if signers:
        reason = f"a certificate of {domain} is signed by the trust domain {signers[0]}"
        return UntrustedError("X5-16", reason, Alert.UNKNOWN_CA)
    reason = f"no root of {domain} signed the chain, which ends at issuer {_name(path[-1].issuer)}"
    return UntrustedError("X5-14", reason, Alert.UNKNOWN_CA)


def broken_path(error: Exception) -> UntrustedError:
    """Return the refusal of a path to a root that isn't valid; `error` is what path validation
    said."""
    reason = f"the path is broken: {str(error)[:_SHOWN]}"
    return UntrustedError("X5-14", reason, Alert.BAD_CERTIFICATE)


def outdated_signer(certificate: x509.Certificate) -> UntrustedError:
    """Return the refusal of a path in which this signing certificate has expired, or isn't valid
    yet."""
    reason = (
        f"the CA certificate {_name(certificate.subject)} is valid only from "
        f"{certificate.not_valid_before_utc.isoformat()} "
        f"to {certificate.not_valid_after_utc.isoformat()}"
    )
    return UntrustedError("X5-14", reason, Alert.CERTIFICATE_EXPIRED)


def _name(name: x509.Name) -> str:
    return repr(name.rfc4514_string()[:_SHOWN])
