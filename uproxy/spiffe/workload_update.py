"""Checks a Workload API message: identities, bundles and CRLs that may be used together.

It stands between the bytes (`workload_messages`) and the source that publishes them.  It chooses
no identity, and accepts an expired SVID.  Rules (`WA-…`, `X5-…` of
docs/reference/spiffe-rules.md): a message whose SVIDs break a rule is discarded, with the rule
named; bundles stay apart by trust domain.  A bundle that is empty or can't be read ends the trust
in its domain, and hinders nothing else: the last one may be what somebody wants to stop.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from uproxy.errors import BundleError, MessageError, SpiffeIdError, UntrustedError, UnusableError
from uproxy.spiffe import encoding
from uproxy.spiffe.authorities import check_issued
from uproxy.spiffe.bundles import Bundle, distrusted, parse_crls, parse_der_roots
from uproxy.spiffe.crls import why_unusable
from uproxy.spiffe.ids import SpiffeId, TrustDomain
from uproxy.spiffe.svid import check_own_key, claimed_identity
from uproxy.spiffe.workload_messages import (
    WireSvid,
    decode_svid_response,
)

_SCHEME = "spiffe://"
_SEQUENCE, _INTEGER = 0x30, 0x02


@dataclass(frozen=True, slots=True)
class OfferedSvid:
    """One identity that the agent offers."""

    spiffe_id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    """Leaf first, then intermediates."""
    key: PrivateKeyTypes = field(repr=False)
    hint: str


@dataclass(frozen=True, slots=True)
class WorkloadUpdate:
    """The content of one X509SVIDResponse, which replaces that of the last one."""

    svids: tuple[OfferedSvid, ...]
    """At least one, in the agent's order (WA-16)."""
    bundles: Mapping[str, Bundle]
    """Trust domain name to bundle: our own domains' and the federated ones'."""
    problems: tuple[str, ...] = ()
    """Which trust domains' peers aren't trusted because of the message, and why, in words."""


def parse_svid_response(data: bytes) -> WorkloadUpdate:
    """Read and check an X509SVIDResponse.

    Raises:
        MessageError: naming the rule it breaks; nothing of it may be used.
    """
    response = decode_svid_response(data)
    if not response.svids:
        raise MessageError("the message offers no SVID (WA-10)")
    svids = tuple(_svid(wire) for wire in response.svids)
    given, problems = _by_domain(response.federated_bundles)
    for svid, wire in zip(svids, response.svids, strict=True):
        given.setdefault(svid.spiffe_id.trust_domain.name, []).append(wire.bundle)
    crls, unreadable = _crls(response.crl)
    bundles = {name: _bundle(name, ders, crls, unreadable) for name, ders in given.items()}
    problems += [bundle.problem for bundle in bundles.values() if bundle.problem]
    problems += [_unusable(crl) for crl in crls if why_unusable(crl)]
    return WorkloadUpdate(svids, bundles, tuple(problems))


def _svid(wire: WireSvid) -> OfferedSvid:
    for name in ("spiffe_id", "x509_svid", "x509_svid_key"):
        if not getattr(wire, name):
            raise MessageError(f"an SVID without {name} (WA-7)")
    try:
        spiffe_id = SpiffeId.parse(wire.spiffe_id)
    except SpiffeIdError as error:
        raise MessageError(str(error)) from error
    if not spiffe_id.path:
        raise MessageError(f"{spiffe_id} names no workload (X5-4)")
    chain = _certificates(wire.x509_svid, f"the SVID of {spiffe_id}")
    _check_leaf(chain[0], spiffe_id)
    _check_order(chain, spiffe_id)
    return OfferedSvid(spiffe_id, chain, _key(wire.x509_svid_key, chain[0], spiffe_id), wire.hint)


def _check_leaf(leaf: x509.Certificate, spiffe_id: SpiffeId) -> None:
    try:
        named = claimed_identity(leaf)
        check_own_key(leaf)
    except (UntrustedError, UnusableError) as error:
        raise MessageError(f"the SVID of {spiffe_id}: {error}") from error
    if named != spiffe_id:
        raise MessageError(f"the SVID of {spiffe_id} is issued to {named} (X5-1)")


def _check_order(chain: tuple[x509.Certificate, ...], spiffe_id: SpiffeId) -> None:
    for subject, issuer in itertools.pairwise(chain):
        try:
            check_issued(subject, issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise MessageError(f"the chain of {spiffe_id} is out of order (WA-11)") from error


def _key(der: bytes, leaf: x509.Certificate, spiffe_id: SpiffeId) -> PrivateKeyTypes:
    if not _is_pkcs8(der):
        raise MessageError(f"the key of {spiffe_id} is not unencrypted PKCS#8 DER (WA-11)")
    try:
        key = load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # the text of the error stays out: it describes a private key
        raise MessageError(f"the key of {spiffe_id} can't be read (WA-11)") from error
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        raise MessageError(f"the key of {spiffe_id} is not the certificate's (WA-11)")
    return key


def _is_pkcs8(der: bytes) -> bool:
    """PrivateKeyInfo (RFC 5208 §5): a version and then the algorithm's SEQUENCE; PKCS#1 and
    SEC1 go on with the key itself, an encrypted one begins with the algorithm."""
    header = 2 + (der[1] & 0x7F if len(der) > 1 and der[1] >= 0x80 else 0)
    version = der[header : header + 3]
    return (
        der[:1] == bytes([_SEQUENCE])
        and version[:2] == bytes([_INTEGER, 1])
        and der[header + 3 : header + 4] == bytes([_SEQUENCE])
    )


def _by_domain(entries: Iterable[tuple[str, bytes]]) -> tuple[dict[str, list[bytes]], list[str]]:
    """Return what the message has for each trust domain, and what is wrong with the names."""
    given: dict[str, list[bytes]] = {}
    problems = []
    for key, der in entries:
        try:
            given.setdefault(trust_domain_in(key), []).append(der)
        except SpiffeIdError as error:
            problems.append(f"a bundle is left out, its key is no trust domain: {error}")
    return given, problems


def trust_domain_in(key: str) -> str:
    """Return the name in `td`, `spiffe://td` or `spiffe://td/path`: agents write all three
    (WA-15)."""
    if key[: len(_SCHEME)].lower() == _SCHEME:
        return SpiffeId.parse(key).trust_domain.name
    return TrustDomain.parse(key).name


def _bundle(
    name: str,
    ders: list[bytes],
    crls: tuple[x509.CertificateRevocationList, ...],
    unreadable: str,
) -> Bundle:
    # every CRL goes with every bundle: it applies only where its issuer is in a chain that
    # was validated against that very bundle
    try:
        first, *others = (parse_der_roots(name, der) for der in ders)
    except BundleError as error:
        return distrusted(name, f"the agent's bundle can't be used: {error}")
    if any(other != first for other in others):
        return distrusted(name, "the agent sends different bundles for it (WA-15)")
    if unreadable:
        return distrusted(name, unreadable)
    return replace(first, crls=crls)


def _certificates(der: bytes, what: str) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(encoding.certificate(one) for one in encoding.split_der(der))
    except BundleError as error:
        raise MessageError(f"{what}: {error} (WA-11)") from error


def _crls(ders: tuple[bytes, ...]) -> tuple[tuple[x509.CertificateRevocationList, ...], str]:
    """Return the message's CRLs, and why one has no readable issuer: it may be any issuer's."""
    try:
        return tuple(crl for der in ders for crl in _der_crls(der)), ""
    except BundleError as error:
        return (), f"the agent sends a CRL that can't be read, and may be of any issuer: {error}"


def _der_crls(der: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    elements = encoding.split_der(der)
    if not elements:
        raise BundleError("it is empty")
    return tuple(crl for element in elements for crl in parse_crls(element))


def _unusable(crl: x509.CertificateRevocationList) -> str:
    name = crl.issuer.rfc4514_string()
    return (
        f"no certificate issued by {name!r} is trusted: its CRL can't be applied: "
        f"{why_unusable(crl)}"
    )
