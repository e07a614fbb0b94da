"""The roots of one trust domain, and the validated paths from a leaf up to them.

What was found about a signing certificate is remembered while the bundle is the same: who signed
it, and that the path above it is valid.  Only CAs that a root's signatures lead to are remembered:
a stranger can present them, but not make them, and so can't fill the memory with its own.  Times
are looked at each time; CRLs are the verifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509

from uproxy.errors import BundleError, UntrustedError
from uproxy.identity.diagnosis import Roots, broken_path, outdated_signer, why_no_root
from uproxy.identity.vouching import Signers, find_way_up
from uproxy.libssl import Anchor, PathError
from uproxy.model import Alert
from uproxy.spiffe import encoding
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.outline import Outline
from uproxy.spiffe.svid import extension

MAX_REMEMBERED = 1024
"""Signing certificates that are remembered."""
MAX_PATHS = 64
"""Valid paths that are remembered; OpenSSL's part of each takes some kilobytes."""

_RESOURCES = {
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.7"),
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.8"),
}
"""The extensions for blocks of IP addresses and for numbers of autonomous systems."""


class Anchors:
    """The roots of one trust domain, ready for path validation."""

    def __init__(self, bundle: Bundle, everywhere: Roots) -> None:
        """`everywhere` has the roots of all trust domains, for the words of refusals.

        Raises:
            PathError: OpenSSL can't read a root.
        """
        self.bundle = bundle
        self._everywhere = everywhere
        roots = [Outline(encoding.der(root), root) for root in bundle.roots]
        self._roots = {root.der: root for root in roots}
        self._times = [(_times(root), root) for root in roots]
        self._stores: dict[tuple[bytes, ...], Anchor] = {
            (root.der,): Anchor(root.der) for root in roots
        }
        self._signers: dict[bytes, tuple[Outline, bytes]] = {}  # and the DER of who signed it
        self._below: dict[tuple[bytes, ...], Anchor] = {}  # by the path above the leaf

    def root(self, der: bytes) -> Outline | None:
        """Return the root with this DER; None: there is none."""
        return self._roots.get(der)

    def path(self, leaf: Outline, chain: Sequence[bytes], now: datetime | None) -> list[Outline]:
        """Return the path from leaf to root, validated within this trust domain (X5-14, X5-16).
        `chain` (DER) is what was presented; the signers' times are checked where there is a `now`.

        Raises:
            UntrustedError: there is none.
        """
        others = self._others(chain, leaf)
        known = self._recall(others, now)
        # first whether it is reachable from a root at all: a stranger costs a few signatures
        path = find_way_up(leaf, others, self._roots_at(now), known)
        self._remember(known)
        if len(path) == 1 or path[-1].der not in self._roots:  # the leaf may be a root itself
            raise self._no_root(path)
        _decode(path[1:-1])
        for signer in path[1:]:
            if _is_outdated(_times(signer), now):
                raise outdated_signer(signer.certificate)
        return self._validate(path)

    def _others(self, chain: Sequence[bytes], leaf: Outline) -> list[Outline]:
        """Return what was presented beside the leaf and roots, each once."""
        strangers = [
            der for der in dict.fromkeys(chain) if der not in self._roots and der != leaf.der
        ]
        try:
            # they are decoded when a root leads to them
            return [self._known(der) or Outline(der) for der in strangers]
        except BundleError as error:
            raise UntrustedError("X5-14", str(error), Alert.BAD_CERTIFICATE) from error

    def _known(self, der: bytes) -> Outline | None:
        found = self._signers.get(der)
        return None if found is None else found[0]

    def _roots_at(self, now: datetime | None) -> list[Outline]:
        """Return the roots, those that are valid first."""
        ordered = sorted(self._times, key=lambda each: _is_outdated(each[0], now))
        return [root for _, root in ordered]

    def _recall(self, presented: Sequence[Outline], now: datetime | None) -> Signers:
        """Return those of the `presented` certificates that are known to be reachable through a
        root, or others of them.  Those below a root that has ended are sought anew: it may have
        been renewed with its old key."""
        signers: Signers = {}
        found: dict[bytes, Outline] = {}
        for each in reversed(presented):  # most peers send the leaf first
            remembered = self._signers.get(each.der)
            if remembered is not None:
                signer = self._roots.get(remembered[1]) or found.get(remembered[1])
                if signer is not None and not self._has_ended(signer, now):
                    signers[each], found[each.der] = signer, each
        return signers

    def _has_ended(self, signer: Outline, now: datetime | None) -> bool:
        return signer.der in self._roots and _is_outdated(_times(signer), now)

    def _remember(self, signers: Signers) -> None:
        # whoever has the key of an SVID can sign any number of others with it
        for each, above in [(each, above) for each, above in signers.items() if each.is_ca]:
            if each.der not in self._signers and len(self._signers) >= MAX_REMEMBERED:
                self._signers.clear()
            self._signers[each.der] = each, above.der

    def _validate(self, path: list[Outline]) -> list[Outline]:
        """Have OpenSSL validate a path from leaf to root, and return what it validated: if it took
        another path, what it left out is not in it.  If the path above the leaf is known to be
        valid, only what is new is validated: the leaf, below the one that signed it."""
        above = tuple(each.der for each in path[1:])
        store = self._stores.get(above) or self._below.get(above)
        try:
            if store is not None:
                store.validate([path[0].der])
                return path
            places = self._stores[above[-1:]].validate([path[0].der, *above[:-1]])
        except PathError as error:
            if store is None and error.is_leaf_signature:
                self._remember_path(path, above)
            if error.unsigned is not None:
                raise self._no_root(path[: error.unsigned + 1]) from error
            raise broken_path(error) from error
        if places == [*range(len(above))]:
            self._remember_path(path, above)
            return path
        return [*(path[at] for at in places), path[-1]]

    def _remember_path(self, path: Sequence[Outline], above: tuple[bytes, ...]) -> None:
        """Note a path of which all is valid, or all but the leaf's signature and what names the
        leaf may have.  Where a signer above the first constrains names, or one has resources that
        a leaf's must be part of (RFC 3779), the whole path is validated each time."""
        bounds_names = any(extension(each.certificate, x509.NameConstraints) for each in path[2:])
        if not bounds_names and not any(map(_has_resources, path[1:])):
            if len(self._below) >= MAX_PATHS:
                self._below.clear()
            self._below[above] = Anchor(path[1].der)

    def _no_root(self, path: Sequence[Outline]) -> UntrustedError:
        return why_no_root(path, self._everywhere, self.bundle.trust_domain)


def _decode(signers: Sequence[Outline]) -> None:
    try:
        for signer in signers:
            encoding.decode(signer.certificate)
    except BundleError as error:
        raise UntrustedError("X5-14", str(error), Alert.BAD_CERTIFICATE) from error


def _has_resources(signer: Outline) -> bool:
    return any(each.oid in _RESOURCES for each in signer.certificate.extensions)


_Times = tuple[datetime, datetime]


def _times(certificate: Outline) -> _Times:
    found = certificate.certificate
    return found.not_valid_before_utc, found.not_valid_after_utc


def _is_outdated(times: _Times, now: datetime | None) -> bool:
    return now is not None and not times[0] <= now <= times[1]
