"""Is this chain a SPIFFE peer's?  The only place where a peer becomes an identity.

It judges certificates, not permissions: who may talk to whom is the policy's.  Rules: a
peer is checked against the bundle of its own trust domain, never another's (X5-16); the
path is cryptography's to validate, the SVID's form `uproxy.spiffe.svid`'s; every refusal
names its rule and the TLS alert that tells the peer.  No clock, no I/O, no memory of peers:
the same chain may be judged again, later or under another snapshot, by the same call.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from uproxy.contract import PeerSvid
from uproxy.errors import BundleError, UntrustedError
from uproxy.identity.credentials import Credentials
from uproxy.identity.diagnosis import why_untrusted
from uproxy.identity.vouching import vouched_for
from uproxy.model import Alert, Role
from uproxy.spiffe import encoding
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.crls import Revocations, newest_revocations
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.svid import USAGE, check_role, claimed_identity

MAX_CHAIN = 10
"""Certificates a peer may present; what ztunnel and OpenSSL's depth allow is of this order."""
MAX_CHAIN_BYTES = 64 * 1024
"""All of them together."""


class Verifier:
    """Judges chains against one snapshot of credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self._bundles = credentials.bundles
        self._stores = {
            name: Store([*bundle.roots])
            for name, bundle in credentials.bundles.items()
            if bundle.roots
        }
        # issuers of validated paths only, so a peer can't fill it
        self._revocations: dict[tuple[str, x509.Certificate], Revocations | None] = {}

    def verify(self, chain: tuple[bytes, ...], role: Role, now: datetime) -> PeerSvid:
        """Judge a chain (DER, leaf first) presented by a peer that played `role`.

        Raises:
            UntrustedError: with the rule, the reason and the alert.
        """
        presented = _read(chain)
        leaf = presented[0]
        spiffe_id = claimed_identity(leaf)
        check_role(leaf, role)
        _check_time(leaf, now)
        path = self._path(spiffe_id, presented, role, now)
        self._check_revocation(spiffe_id.trust_domain.name, path, now)
        return PeerSvid(
            spiffe_id=str(spiffe_id),
            chain=tuple(encoding.der(certificate) for certificate in path[:-1]),
            not_after=min(certificate.not_valid_after_utc for certificate in path),
        )

    def _path(
        self,
        spiffe_id: SpiffeId,
        presented: list[x509.Certificate],
        role: Role,
        now: datetime,
    ) -> list[x509.Certificate]:
        """Leaf to trust anchor, validated (X5-14) within the leaf's own trust domain (X5-16)."""
        domain = spiffe_id.trust_domain.name
        bundle = self._bundles.get(domain)
        if bundle is None:
            reason = f"{spiffe_id}: no bundle for the trust domain {domain}"
            raise UntrustedError("X5-17", reason, Alert.UNKNOWN_CA)
        store = self._stores.get(domain)
        if store is None:
            reason = f"{spiffe_id}: the bundle of {domain} has no X.509 root"
            raise UntrustedError("TB-5", reason, Alert.UNKNOWN_CA)
        ca_policy, leaf_policy = _POLICIES[role]
        vouched = vouched_for(presented[1:], self._bundles[domain].roots)
        builder = PolicyBuilder().store(store).time(now).max_chain_depth(len(vouched))
        builder = builder.extension_policies(ca_policy=ca_policy, ee_policy=leaf_policy)
        try:
            # the client verifier for servers too: the other one wants a DNS name
            return builder.build_client_verifier().verify(presented[0], vouched).chain
        except VerificationError as error:
            raise why_untrusted(presented, self._bundles, domain, now, error) from error

    def _check_revocation(self, domain: str, path: list[x509.Certificate], now: datetime) -> None:
        bundle = self._bundles[domain]
        if not bundle.crls:
            return
        for certificate, issuer in itertools.pairwise(path):
            revocations = self._revocations_of(bundle, issuer)
            if revocations is not None:
                _check_one(certificate, revocations, now)

    def _revocations_of(self, bundle: Bundle, issuer: x509.Certificate) -> Revocations | None:
        key = (bundle.trust_domain, issuer)
        if key not in self._revocations:
            self._revocations[key] = newest_revocations(issuer, bundle.crls)
        return self._revocations[key]


def _read(chain: tuple[bytes, ...]) -> list[x509.Certificate]:
    if not chain:
        raise UntrustedError("X5-14", "the peer sent no certificate", Alert.BAD_CERTIFICATE)
    size = sum(map(len, chain))
    if len(chain) > MAX_CHAIN or size > MAX_CHAIN_BYTES:
        reason = (
            f"the peer sent {len(chain)} certificates of {size} bytes; "
            f"at most {MAX_CHAIN} and {MAX_CHAIN_BYTES} are read"
        )
        raise UntrustedError("UP-1", reason, Alert.BAD_CERTIFICATE)
    try:
        return [encoding.certificate(der) for der in chain]
    except BundleError as error:
        raise UntrustedError("X5-14", str(error), Alert.BAD_CERTIFICATE) from error


def _check_time(leaf: x509.Certificate, now: datetime) -> None:
    if now > leaf.not_valid_after_utc:
        word = f"expired at {leaf.not_valid_after_utc.isoformat()}"
    elif now < leaf.not_valid_before_utc:
        word = f"is not valid before {leaf.not_valid_before_utc.isoformat()}"
    else:
        return
    raise UntrustedError("X5-14", f"the peer's certificate {word}", Alert.CERTIFICATE_EXPIRED)


def _check_one(certificate: x509.Certificate, revocations: Revocations, now: datetime) -> None:
    serial = f"{certificate.serial_number:x}"
    if certificate.serial_number in revocations.serials:
        reason = f"the certificate with serial {serial} is revoked"
        raise UntrustedError("UP-2", reason, Alert.CERTIFICATE_REVOKED)
    if now > revocations.next_update:
        reason = (
            f"the CRL of {certificate.issuer.rfc4514_string()!r} is stale since "
            f"{revocations.next_update.isoformat()}: publish a newer one"
        )
        raise UntrustedError("UP-3", reason, Alert.CERTIFICATE_UNKNOWN)


def _policies(role: Role) -> tuple[ExtensionPolicy, ExtensionPolicy]:
    """What CAs and leaves must carry: cryptography's web PKI defaults, less what SPIFFE doesn't
    ask of a leaf (each is told in docs/reference/spiffe-rules.md)."""

    def check_ca_usage(
        _policy: Policy, _certificate: x509.Certificate, usages: x509.ExtendedKeyUsage | None
    ) -> None:
        allowed = {USAGE[role], ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if usages is not None and allowed.isdisjoint(usages):
            raise ValueError(f"a CA's extended key usage doesn't allow a {role}")

    agnostic = Criticality.AGNOSTIC
    ca_policy = (
        ExtensionPolicy.webpki_defaults_ca()
        .may_be_present(x509.ExtendedKeyUsage, agnostic, check_ca_usage)
        .may_be_present(x509.NameConstraints, agnostic, _check_constraints)
    )
    leaf_policy = (
        ExtensionPolicy.webpki_defaults_ee()
        .may_be_present(x509.AuthorityKeyIdentifier, agnostic, None)
        .may_be_present(x509.SubjectAlternativeName, agnostic, None)
        .may_be_present(x509.ExtendedKeyUsage, agnostic, None)
    )
    return ca_policy, leaf_policy


def _check_constraints(
    _policy: Policy, _certificate: x509.Certificate, constraints: x509.NameConstraints | None
) -> None:
    """cryptography enforces these kinds, refuses URIs where an SVID has one, and would step over
    the other kinds if the extension isn't critical."""
    if constraints is None:
        return
    for subtree in (
        *(constraints.permitted_subtrees or ()),
        *(constraints.excluded_subtrees or ()),
    ):
        if not isinstance(subtree, x509.DNSName | x509.IPAddress | x509.RFC822Name):
            raise ValueError("a name constraint of a kind that can't be evaluated")


_POLICIES: Mapping[Role, tuple[ExtensionPolicy, ExtensionPolicy]] = MappingProxyType(
    {role: _policies(role) for role in Role}
)
