"""Explains why a path was refused, in words and as an alert; it accepts nothing.

Path validation says only that no path exists.  This looks at where the path ends that names and
signatures lead along (`vouching.find_way_up`), so that a log line can tell a foreign signer from a
broken path.  Nothing it finds is used to accept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from cryptography import x509

from uproxy.errors import UntrustedError
from uproxy.identity.vouching import Search
from uproxy.model import Alert
from uproxy.spiffe import encoding
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.outline import Outline

_SHOWN = 160  # characters of a name, or of OpenSSL's reason, that a message repeats


class Roots:
    """The roots of all trust domains, by their names."""

    def __init__(self, bundles: Mapping[str, Bundle]) -> None:
        """`bundles` by trust domain."""
        self._bundles = bundles

    def signer_elsewhere(self, certificate: Outline, domain: str) -> str | None:
        """Return the trust domain, other than `domain`, of which a root has signed
        `certificate`."""
        search = Search()  # many bundles' roots may share a name
        for name, root in self._by_name.get(certificate.issuer, ()):
            if name != domain and search.issuer_among([root], certificate) is not None:
                return name
        return None

    @cached_property
    def _by_name(self) -> dict[bytes, list[tuple[str, Outline]]]:
        named: dict[bytes, list[tuple[str, Outline]]] = {}
        for name, bundle in self._bundles.items():
            for root in bundle.roots:
                outline = Outline(encoding.der(root), root)
                named.setdefault(outline.subject, []).append((name, outline))
        return named


def why_no_root(path: Sequence[Outline], roots: Roots, domain: str) -> UntrustedError:
    """Return the refusal of a leaf whose `path` (leaf first) leads to no root of `domain`."""
    signer = roots.signer_elsewhere(path[-1], domain)
    if signer is not None:
        reason = f"a certificate of {domain} is signed by the trust domain {signer}"
        return UntrustedError("X5-16", reason, Alert.UNKNOWN_CA)
    reason = f"no root of {domain} signed the chain, which ends at issuer {_issuer(path[-1])}"
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


def _issuer(certificate: Outline) -> str:
    try:
        return _name(certificate.certificate.issuer)
    except encoding.UNREADABLE:
        return "with a name that can't be read"


def _name(name: x509.Name) -> str:
    return repr(name.rfc4514_string()[:_SHOWN])
