"""Verifies that a chain is a SPIFFE peer's: the only place where certificates become an identity.

It checks certificates, not permissions: who may talk to whom is the policy's.  Rules: a peer is
checked against the bundle of its own trust domain, never another's (X5-16); the path is OpenSSL's
to validate, with a store of that domain's roots alone, the SVID's form `uproxy.spiffe.svid`'s;
every refusal names its rule and the TLS alert that tells the peer.  No clock, no I/O, no memory of
peers.

`verify` is called in a handshake.  `recheck` is called for a connection that is open, for which
time alone is never distrust: it asks whether trust was withdrawn since.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509

from uproxy.contract import PeerSvid
from uproxy.errors import BundleError, UntrustedError
from uproxy.identity.anchors import Anchors
from uproxy.identity.credentials import Credentials
from uproxy.identity.diagnosis import Roots
from uproxy.libssl import PathError
from uproxy.model import Alert, Role
from uproxy.spiffe import encoding
from uproxy.spiffe.authorities import check_critical, check_signature, check_signer
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.crls import Revocations, revocations_by
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.outline import Outline
from uproxy.spiffe.presented import MAX_CHAIN, MAX_CHAIN_BYTES
from uproxy.spiffe.svid import check_role, claim_of, claimed_identity, only_id

_MAX_REMEMBERED = 1024
"""Signing certificates of valid paths about which something is remembered."""


class Verifier:
    """Verifies chains against one snapshot of credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self._bundles = credentials.bundles
        self._roots = Roots(credentials.bundles)
        self._domains: dict[str, Anchors] = {}  # made at the first peer of each
        # signers of validated paths only, so a stranger can't fill these
        self._revocations: dict[tuple[str, bytes], Revocations] = {}
        self._good_signers: set[tuple[bytes, Role, bool]] = set()

    def verify(self, chain: tuple[bytes, ...], role: Role, now: datetime) -> PeerSvid:
        """Verify a chain (DER, leaf first) presented by a peer that played `role`.

        Raises:
            UntrustedError: with the rule, the reason, the alert, and what the leaf claims.
        """
        _check_size(chain)
        leaf = _outline(chain[0])
        try:
            return self._verify(leaf, chain, role, now)
        except UntrustedError as error:
            error.claim = claim_of(leaf)
            raise

    def _verify(
        self, leaf: Outline, chain: tuple[bytes, ...], role: Role, now: datetime
    ) -> PeerSvid:
        # where there isn't one, the whole leaf is looked at for what is wrong
        claimed = only_id(leaf) or claimed_identity(_decoded(leaf))
        _check_time(leaf.certificate, now)
        domain = self._domain(claimed)
        # before the leaf is decoded: most of what strangers present isn't signed for
        path = domain.path(leaf, chain, now)
        spiffe_id = claimed_identity(_decoded(leaf))
        if spiffe_id != claimed:
            reason = f"the certificate's names are read as {spiffe_id} and as {claimed}"
            raise UntrustedError("X5-15", reason, Alert.BAD_CERTIFICATE)
        check_role(leaf.certificate, role)
        check_critical(leaf.certificate)
        self._check_path(path, role)
        self._check_revocation(domain.bundle, path, now)
        return PeerSvid(
            spiffe_id=str(spiffe_id),
            chain=tuple(each.der for each in path[:-1]),
            not_after=min(each.certificate.not_valid_after_utc for each in path),
            anchor=path[-1].der,
        )

    def recheck(self, peer: PeerSvid, role: Role, now: datetime) -> None:
        """Verify again, under this snapshot, a peer that was verified in its handshake.

        Certificates that have expired since, a stale CRL, and a root that was taken out of the
        bundle after its end are no distrust.

        Raises:
            UntrustedError: trust was withdrawn from the trust domain, the root or a certificate.
        """
        domain = self._domain(SpiffeId.parse(peer.spiffe_id))
        path = [_outline(der) for der in peer.chain]
        anchor = domain.root(peer.anchor)
        if anchor is None and peer.anchor:
            ended = _outline(peer.anchor)
            anchor = ended if now > ended.certificate.not_valid_after_utc else None
        if anchor is not None:
            path = [*path, anchor]
        else:
            # another root may have signed it: the same key in a new certificate
            path = domain.path(path[0], peer.chain, None)
            self._check_path(path, role)
        self._check_revocation(domain.bundle, path, None)

    def recheck_own(self, chain: tuple[bytes, ...]) -> None:
        """Verify again our own certificates (DER, leaf first).  Our own trust domain's bundle
        needn't have our root, so only a revocation counts.

        Raises:
            UntrustedError: UP-2.
        """
        leaf = _outline(chain[0])
        try:
            domain = self._domain(claimed_identity(_decoded(leaf)))
            path = domain.path(leaf, chain, None)
            self._check_revocation(domain.bundle, path, None)
        except UntrustedError as error:
            if error.alert is Alert.CERTIFICATE_REVOKED:
                raise

    def _domain(self, spiffe_id: SpiffeId) -> Anchors:
        name = spiffe_id.trust_domain.name
        if name not in self._domains:
            bundle = self._bundles.get(name)
            if bundle is None:
                reason = f"no bundle for the trust domain {name}"
                raise UntrustedError("X5-17", reason, Alert.UNKNOWN_CA)
            if not bundle.roots:
                why = bundle.problem or f"the bundle of {name} has no X.509 root"
                raise UntrustedError("TB-5", why, Alert.UNKNOWN_CA)
            try:
                self._domains[name] = Anchors(bundle, self._roots)
            except PathError as error:
                reason = f"a root of {name} is unusable: {error}"
                raise UntrustedError("TB-5", reason, Alert.UNKNOWN_CA) from error
        return self._domains[name]

    def _check_path(self, path: Sequence[Outline], role: Role) -> None:
        """Refuse a path with a signature or a signer that SPIFFE, or we, don't accept."""
        for certificate in path[:-1]:
            check_signature(certificate.certificate)
        for signer in path[1:]:
            key = (signer.der, role, signer is path[-1])
            if key not in self._good_signers:
                check_signer(signer.certificate, role, is_anchor=key[2])
                if len(self._good_signers) >= _MAX_REMEMBERED:
                    self._good_signers.clear()
                self._good_signers.add(key)

    def _check_revocation(
        self, bundle: Bundle, path: Sequence[Outline], now: datetime | None
    ) -> None:
        """Refuse a path of which a certificate is revoked; and, only where there is a `now`, one
        for which a CRL is stale."""
        if not bundle.crls:
            return
        for certificate, issuer in itertools.pairwise(path):
            revocations = self._revocations_by(bundle, issuer)
            _check_one(certificate.certificate, revocations, now, is_leaf=certificate is path[0])

    def _revocations_by(self, bundle: Bundle, issuer: Outline) -> Revocations:
        key = (bundle.trust_domain, issuer.der)
        if key not in self._revocations:
            if len(self._revocations) >= _MAX_REMEMBERED:
                self._revocations.clear()
            self._revocations[key] = revocations_by(issuer.certificate, bundle.crls)
        return self._revocations[key]


def _check_size(chain: tuple[bytes, ...]) -> None:
    if not chain:
        raise UntrustedError("X5-14", "the peer sent no certificate", Alert.BAD_CERTIFICATE)
    size = sum(map(len, chain))
    if len(chain) > MAX_CHAIN or size > MAX_CHAIN_BYTES:
        reason = (
            f"the peer sent {len(chain)} certificates of {size} bytes; "
            f"at most {MAX_CHAIN} and {MAX_CHAIN_BYTES} are read"
        )
        raise UntrustedError("UP-1", reason, Alert.BAD_CERTIFICATE)


def _outline(der: bytes) -> Outline:
    try:
        return Outline(der)
    except BundleError as error:
        raise UntrustedError("X5-14", str(error), Alert.BAD_CERTIFICATE) from error


def _decoded(leaf: Outline) -> x509.Certificate:
    """Return a leaf all parts of which can be decoded."""
    try:
        encoding.decode(leaf.certificate)
    except BundleError as error:
        raise UntrustedError("X5-14", str(error), Alert.BAD_CERTIFICATE) from error
    return leaf.certificate


def _check_time(leaf: x509.Certificate, now: datetime) -> None:
    try:
        before, after = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except ValueError as error:  # year 0, which DER allows and Python doesn't
        reason = f"a certificate can't be read: {error}"
        raise UntrustedError("X5-14", reason, Alert.BAD_CERTIFICATE) from error
    if now > after:
        word = f"expired at {after.isoformat()}"
    elif now < before:
        word = f"is not valid before {before.isoformat()}"
    else:
        return
    raise UntrustedError("X5-14", f"the peer's certificate {word}", Alert.CERTIFICATE_EXPIRED)


def _check_one(
    certificate: x509.Certificate,
    revocations: Revocations,
    now: datetime | None,
    *,
    is_leaf: bool,
) -> None:
    issuer = repr(certificate.issuer.rfc4514_string())
    if certificate.serial_number in revocations.serials:
        reason = f"the certificate with serial {encoding.serial_text(certificate)} is revoked"
        raise UntrustedError("UP-2", reason, Alert.CERTIFICATE_REVOKED)
    if revocations.problem:
        reason = f"a CRL of {issuer} can't be applied: {revocations.problem}"
        raise UntrustedError("UP-4", reason, Alert.CERTIFICATE_UNKNOWN)
    next_update = revocations.next_update(is_leaf=is_leaf)
    if now is not None and next_update is not None and now > next_update:
        reason = (
            f"the CRL of {issuer} is stale since {next_update.isoformat()}: publish a newer one"
        )
        raise UntrustedError("UP-3", reason, Alert.CERTIFICATE_UNKNOWN)
