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
from uproxy.identity.credentials import Credentials
from uproxy.identity.diagnosis import broken_path, outdated_signer, why_no_root
from uproxy.identity.vouching import Reachable, find_way_up
from uproxy.libssl import Anchor, PathError
from uproxy.model import Alert, Role
from uproxy.spiffe import encoding
from uproxy.spiffe.authorities import check_critical, check_signature, check_signer
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.crls import Revocations, revocations_by
from uproxy.spiffe.ids import SpiffeId
from uproxy.spiffe.presented import MAX_CHAIN, MAX_CHAIN_BYTES
from uproxy.spiffe.svid import check_role, claim_of, claimed_identity

_MAX_REMEMBERED = 1024
"""Signing certificates of valid paths about which something is remembered."""


class _TrustDomain:
    """The roots of one trust domain, ready for path validation."""

    __slots__ = ("_anchors", "_signers", "bundle", "ders")

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.ders = {root: encoding.der(root) for root in bundle.roots}
        self._anchors = {root: Anchor(der) for root, der in self.ders.items()}
        # by serial number; of validated paths only, so a stranger can't fill it
        self._signers: dict[int, Reachable] = {}

    def recall(self, presented: Sequence[x509.Certificate]) -> list[Reachable]:
        """Return those of the `presented` certificates that were in a valid path before, under a
        signer that is a root or among them; they needn't be decoded again."""
        known: list[Reachable] = []
        above = [*self.bundle.roots]
        for each in reversed(presented):  # most peers send the leaf first
            before = self._signers.get(each.serial_number)
            if before is not None and before.certificate == each and before.signer in above:
                known.append(before)
                above.append(before.certificate)
        return known

    def validate(self, path: list[x509.Certificate], ders: Sequence[bytes]) -> None:
        """Have OpenSSL validate a path, of which `ders` are all but the root.

        Raises:
            PathError: it isn't valid.
        """
        self._anchors[path[-1]].validate(ders)
        if len(self._signers) >= _MAX_REMEMBERED:
            self._signers.clear()
        for signer, above in itertools.pairwise(path[1:]):
            self._signers[signer.serial_number] = Reachable(signer, above)


class Verifier:
    """Verifies chains against one snapshot of credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self._bundles = credentials.bundles
        self._domains: dict[str, _TrustDomain] = {}  # made at the first peer of each
        # signers of validated paths only, so a stranger can't fill these
        self._revocations: dict[tuple[str, x509.Certificate], Revocations] = {}
        self._good_signers: set[tuple[x509.Certificate, Role, bool]] = set()

    def verify(self, chain: tuple[bytes, ...], role: Role, now: datetime) -> PeerSvid:
        """Verify a chain (DER, leaf first) presented by a peer that played `role`.

        Raises:
            UntrustedError: with the rule, the reason, the alert, and what the leaf claims.
        """
        presented = _read(chain)
        try:
            return self._verify(presented, chain, role, now)
        except UntrustedError as error:
            error.claim = claim_of(presented[0])
            raise

    def _verify(
        self,
        presented: list[x509.Certificate],
        chain: tuple[bytes, ...],
        role: Role,
        now: datetime,
    ) -> PeerSvid:
        leaf = presented[0]
        spiffe_id = claimed_identity(leaf)
        check_role(leaf, role)
        check_critical(leaf)
        _check_time(leaf, now)
        domain = self._domain(spiffe_id)
        path = self._path(domain, presented, chain, now)
        self._check_path(path, role)
        self._check_revocation(domain.bundle, path, now)
        return PeerSvid(
            spiffe_id=str(spiffe_id),
            chain=tuple(chain[presented.index(certificate)] for certificate in path[:-1]),
            not_after=min(certificate.not_valid_after_utc for certificate in path),
            anchor=domain.ders[path[-1]],
        )

    def recheck(self, peer: PeerSvid, role: Role, now: datetime) -> None:
        """Verify again, under this snapshot, a peer that was verified in its handshake.

        Certificates that have expired since, a stale CRL, and a root that was taken out of the
        bundle after its end are no distrust.

        Raises:
            UntrustedError: trust was withdrawn from the trust domain, the root or a certificate.
        """
        domain = self._domain(SpiffeId.parse(peer.spiffe_id))
        presented = _read(peer.chain)
        anchor = _read((peer.anchor,)) if peer.anchor else []
        known = peer.anchor in domain.ders.values()
        if anchor and (known or now > anchor[0].not_valid_after_utc):
            path = presented + anchor
        else:
            # another root may have signed it: the same key in a new certificate
            path = self._path(domain, presented, peer.chain, None)
            self._check_path(path, role)
        self._check_revocation(domain.bundle, path, None)

    def recheck_own(self, chain: tuple[bytes, ...]) -> None:
        """Verify again our own certificates (DER, leaf first).  Our own trust domain's bundle
        needn't have our root, so only a revocation counts.

        Raises:
            UntrustedError: UP-2.
        """
        presented = _read(chain)
        try:
            domain = self._domain(claimed_identity(presented[0]))
            path = self._path(domain, presented, chain, None)
            self._check_revocation(domain.bundle, path, None)
        except UntrustedError as error:
            if error.alert is Alert.CERTIFICATE_REVOKED:
                raise

    def _domain(self, spiffe_id: SpiffeId) -> _TrustDomain:
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
                self._domains[name] = _TrustDomain(bundle)
            except PathError as error:
                reason = f"a root of {name} is unusable: {error}"
                raise UntrustedError("TB-5", reason, Alert.UNKNOWN_CA) from error
        return self._domains[name]

    def _path(
        self,
        domain: _TrustDomain,
        presented: list[x509.Certificate],
        chain: tuple[bytes, ...],
        now: datetime | None,
    ) -> list[x509.Certificate]:
        """Return the path from leaf to trust anchor, validated (X5-14) within one trust domain
        (X5-16); times are checked only where there is a `now`.  `chain` is the DER of what was
        presented."""
        roots = sorted(domain.bundle.roots, key=lambda root: _outdated([root], now) is not None)
        # first whether it is reachable from a root at all: a stranger costs a few signatures with
        # its key
        path = find_way_up(presented, roots, domain.recall(presented[1:]))
        if path[-1] not in roots:
            raise why_no_root(path, self._bundles, domain.bundle.trust_domain)
        _decode(path[1:-1])
        outdated = _outdated(path[1:], now)
        if outdated is not None:
            raise outdated_signer(outdated)
        try:
            domain.validate(path, [chain[presented.index(each)] for each in path[:-1]])
        except PathError as error:
            if error.unsigned is not None:
                below = path[: error.unsigned + 1]
                raise why_no_root(below, self._bundles, domain.bundle.trust_domain) from error
            raise broken_path(error) from error
        return path

    def _check_path(self, path: Sequence[x509.Certificate], role: Role) -> None:
        """Refuse a path with a signature or a signer that SPIFFE, or we, don't accept."""
        for certificate in path[:-1]:
            check_signature(certificate)
        for signer in path[1:]:
            key = (signer, role, signer is path[-1])
            if key not in self._good_signers:
                check_signer(signer, role, is_anchor=key[2])
                if len(self._good_signers) >= _MAX_REMEMBERED:
                    self._good_signers.clear()
                self._good_signers.add(key)

    def _check_revocation(
        self, bundle: Bundle, path: Sequence[x509.Certificate], now: datetime | None
    ) -> None:
        """Refuse a path of which a certificate is revoked; and, only where there is a `now`, one
        for which a CRL is stale."""
        if not bundle.crls:
            return
        for certificate, issuer in itertools.pairwise(path):
            revocations = self._revocations_by(bundle, issuer)
            _check_one(certificate, revocations, now, is_leaf=certificate is path[0])

    def _revocations_by(self, bundle: Bundle, issuer: x509.Certificate) -> Revocations:
        key = (bundle.trust_domain, issuer)
        if key not in self._revocations:
            if len(self._revocations) >= _MAX_REMEMBERED:
                self._revocations.clear()
            self._revocations[key] = revocations_by(issuer, bundle.crls)
        return self._revocations[key]


def _read(chain: tuple[bytes, ...]) -> list[x509.Certificate]:
    """Read a chain (DER, leaf first), of which only the leaf is decoded."""
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
        # the others are decoded when a root leads to them
        return [encoding.certificate(chain[0]), *map(encoding.outline, chain[1:])]
    except BundleError as error:
        raise UntrustedError("X5-14", str(error), Alert.BAD_CERTIFICATE) from error


def _decode(path: Sequence[x509.Certificate]) -> None:
    try:
        for certificate in path:
            encoding.decode(certificate)
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


def _outdated(signers: Sequence[x509.Certificate], now: datetime | None) -> x509.Certificate | None:
    """Return the first certificate that isn't valid at `now`; None: all are."""
    if now is None:
        return None
    for signer in signers:
        if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
            return signer
    return None


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
