"""Finds the path from a leaf to a trust anchor that is worth validating, from the anchors downward.

A stranger chooses the certificates and keys it presents.  A path builder that starts at the leaf
would check signatures with those keys, up to a hundred of them, and keys can be made that cost
milliseconds each.  So a key is used only if signatures lead to it from an anchor, and few
signatures may be wrong.  Where names and key identifiers leave one possible signer, it is taken
without checking a signature: path validation does that, once.  A certificate that is reachable
from a root isn't yet valid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from uproxy.spiffe.authorities import check_issued
from uproxy.spiffe.encoding import UNREADABLE
from uproxy.spiffe.svid import extension

MAX_MISSES: Final = 3
"""How many signatures may be wrong in one search: as many as roots share the most frequent name,
and no more than this.  A path that exists is missed only where more signers share a name and have
no key identifiers, or where somebody else's certificate with the issuer's name is presented before
the issuer's."""


class Reachable(NamedTuple):
    """A certificate that is reachable from a root, and the one that signed it."""

    certificate: x509.Certificate
    signer: x509.Certificate


class Search:
    """Checks signatures until too many were wrong, as only a stranger's certificates are."""

    def __init__(self, roots: Sequence[x509.Certificate] = ()) -> None:
        """`roots` are those that may have signed something."""
        self._roots = roots
        self._missed = 0
        self._is_over = False

    def issuer_among(
        self, candidates: Iterable[x509.Certificate], certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """Return the first of `candidates` that signed `certificate`, by name and key; None: none
        did, or too many signatures were wrong in this search."""
        for candidate in candidates:
            if self._is_over:
                return None
            try:
                check_issued(certificate, candidate)
            except InvalidSignature:
                self._miss()
            except (ValueError, TypeError, UnsupportedAlgorithm):
                pass  # names or kinds of keys that don't fit cost nothing
            else:
                return candidate
        return None

    def _miss(self) -> None:
        namesakes = Counter(root.subject for root in self._roots)
        self._missed += 1
        self._is_over = self._missed >= min(max(namesakes.values(), default=1), MAX_MISSES)

    def reachable_from_roots(
        self, strangers: Iterable[x509.Certificate], anchors: Iterable[x509.Certificate]
    ) -> list[Reachable]:
        """Return those of `strangers` that an anchor signed, or another one that is reachable."""
        reachable: list[Reachable] = []
        rest, signers = _once(strangers), [*anchors]
        while signers:
            signed = [(each, self._signer(each, signers)) for each in rest]
            found = [Reachable(each, signer) for each, signer in signed if signer is not None]
            reachable += found
            signers = _certificates_of(found)
            rest = [each for each in rest if each not in signers]
        return reachable

    def _signer(
        self, certificate: x509.Certificate, among: Iterable[x509.Certificate]
    ) -> x509.Certificate | None:
        if self._is_over:
            return None  # reading names costs too
        return self.issuer_among(fitting(certificate, among), certificate)


def find_way_up(
    presented: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    known: Sequence[Reachable] = (),
) -> list[x509.Certificate]:
    """Return the path from the leaf as far up as names, key identifiers and signatures lead; if it
    leads to a root, that is the last one.  `known` are presented certificates that are known to be
    reachable from a root.

    Certificates that aren't reachable are followed by their names only, and to no root: checking
    signatures with a stranger's keys is what it may want.  Where there is only one possible signer
    the leaf's signature isn't checked, and may be wrong.
    """
    search, leaf = Search(roots), presented[0]
    rest = [each for each in presented[1:] if each not in roots]
    anchors, others = fitting(leaf, roots), named_issuers(leaf, rest)
    reachable = [*known]
    if anchors and names_key_of(leaf, anchors[0]):
        others = []
    elif any(each not in _certificates_of(reachable) for each in others):
        # in the order in which RFC 8446 section 4.4.2 wants them
        unknown = [each for each in rest if each not in _certificates_of(reachable)]
        reachable += search.reachable_from_roots(unknown, [*roots, *_certificates_of(reachable)])
    candidates = [each for each in others if each in _certificates_of(reachable)]
    issuer = _choose(search, fitting(leaf, [*anchors, *candidates]), leaf)
    if issuer is not None:
        return [leaf, *_up(issuer, reachable)]
    return [leaf, *_follow_names(others[0], rest)] if others else [leaf]


def _certificates_of(reachable: Iterable[Reachable]) -> list[x509.Certificate]:
    return [each.certificate for each in reachable]


def _up(issuer: x509.Certificate, reachable: Sequence[Reachable]) -> Iterator[x509.Certificate]:
    """Yield `issuer` and its signers up to the root."""
    above: x509.Certificate | None = issuer
    while above is not None:
        yield above
        above = next((each.signer for each in reachable if each.certificate == above), None)


def fitting(
    certificate: x509.Certificate, candidates: Iterable[x509.Certificate]
) -> list[x509.Certificate]:
    """Return the candidates that have the name of `certificate`'s issuer: those that have its key
    identifier too; where none has, those of which it isn't known.

    OpenSSL doesn't accept a signer with another key identifier.
    """
    named = [
        (each, names_key_of(certificate, each)) for each in named_issuers(certificate, candidates)
    ]
    return [each for each, fits in named if fits] or [each for each, fits in named if fits is None]


def names_key_of(certificate: x509.Certificate, signer: x509.Certificate) -> bool | None:
    """Return whether the key identifier that `certificate` gives for its signer is that of
    `signer`; None: one of them has none."""
    try:
        authority = extension(certificate, x509.AuthorityKeyIdentifier)
        own = extension(signer, x509.SubjectKeyIdentifier)
    except UNREADABLE:
        return None
    if authority is None or authority.key_identifier is None or own is None:
        return None
    return authority.key_identifier == own.digest


def named_issuers(
    certificate: x509.Certificate, candidates: Iterable[x509.Certificate]
) -> list[x509.Certificate]:
    """Return the candidates that have the name of `certificate`'s issuer, each once."""
    try:
        name = certificate.issuer
    except UNREADABLE:
        return []
    return _once(each for each in candidates if _subject(each) == name)


def _once(certificates: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    return [*dict.fromkeys(certificates)]


def _follow_names(
    first: x509.Certificate, rest: Sequence[x509.Certificate]
) -> Iterator[x509.Certificate]:
    """Yield a stranger's certificate and what follows above it, by names alone."""
    certificate, left = first, [*rest]
    while True:
        yield certificate
        left.remove(certificate)
        above = named_issuers(certificate, left)
        if not above:
            return
        certificate = above[0]


def _choose(
    search: Search, candidates: Sequence[x509.Certificate], certificate: x509.Certificate
) -> x509.Certificate | None:
    """Return the candidate that signed `certificate`; None: none did.  If all candidates have one
    key, the first is returned without checking the signature."""
    if not candidates:
        return None
    first, *more = candidates
    if any(_key(each) != _key(first) for each in more):
        return search.issuer_among(candidates, certificate)
    return first


def _key(certificate: x509.Certificate) -> CertificatePublicKeyTypes | None:
    """Return the public key; None: it can't be read."""
    try:
        return certificate.public_key()
    except UNREADABLE:
        return None


def _subject(certificate: x509.Certificate) -> x509.Name | None:
    """Return the subject; None: it can't be read."""
    try:
        return certificate.subject
    except UNREADABLE:
        return None
