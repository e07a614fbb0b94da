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

from uproxy.spiffe.encoding import UNREADABLE
from uproxy.spiffe.svid import extension

MISSES: Final = 1
"""How many signatures may be wrong in one search where every root has a name of its own.  A path
that exists is missed only where signers share a name and have no key identifiers, or where
somebody else's certificate with the issuer's name is presented before the issuer's."""
MAX_MISSES: Final = 3
"""The same where roots share a name: each further root of the most frequent name allows one more,
up to this."""


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

    @property
    def is_over(self) -> bool:
        """Whether too many signatures were wrong."""
        return self._missed >= MISSES and self._missed >= self._most()

    def _most(self) -> int:
        namesakes = max(Counter(root.subject for root in self._roots).values(), default=1)
        return min(MISSES + namesakes - 1, MAX_MISSES)

    def issuer_among(
        self, candidates: Iterable[x509.Certificate], certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """Return the first of `candidates` that signed `certificate`, by name and key; None: none
        did, or the search is over."""
        for candidate in candidates:
            if self.is_over:
                return None
            try:
                certificate.verify_directly_issued_by(candidate)
            except InvalidSignature:
                self._missed += 1
            except (ValueError, TypeError, UnsupportedAlgorithm):
                continue  # names or kinds of keys that don't fit cost nothing
            else:
                return candidate
        return None

    def reachable_from_roots(
        self, strangers: Sequence[x509.Certificate], anchors: Iterable[x509.Certificate]
    ) -> list[Reachable]:
        """Return those of `strangers` that an anchor signed, or another one that is reachable."""
        reachable: list[Reachable] = []
        rest, signers = [*_once(strangers)], [*anchors]
        while rest and signers:
            signed = [(each, self._signer(each, signers, rest)) for each in rest]
            found = [Reachable(each, signer) for each, signer in signed if signer is not None]
            reachable += found
            signers = [each.certificate for each in found]
            rest = [each for each in rest if each not in signers]
        return reachable

    def _signer(
        self,
        certificate: x509.Certificate,
        among: Sequence[x509.Certificate],
        others: Sequence[x509.Certificate],
    ) -> x509.Certificate | None:
        """Return the one `among` these that signed it; None: none did.  Where one of `others` has
        the same name, key identifiers decide before signatures do."""
        if self.is_over:
            return None
        if len(among) > 1:
            among = fitting(certificate, among)
        if named_issuers(certificate, among) and named_issuers(certificate, others):
            among = [each for each in among if not names_another_key(certificate, each)]
        return self.issuer_among(among, certificate)


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
    if names_key_of(leaf, anchors):
        others = []
    elif any(each not in _certificates_of(reachable) for each in others):
        # in the order in which RFC 8446 section 4.4.2 wants them
        unknown = [each for each in rest if each not in _certificates_of(reachable)]
        reachable += search.reachable_from_roots(unknown, [*roots, *_certificates_of(reachable)])
    candidates = [each for each in others if each in _certificates_of(reachable)]
    if search.is_over and not candidates:
        return [leaf]
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
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate]
) -> Sequence[x509.Certificate]:
    """Return the candidates that have the name of `certificate`'s issuer; of several, those that
    have its key identifier too, where any has."""
    named = named_issuers(certificate, candidates)
    if len(named) < 2:
        return named
    return [each for each in named if names_key_of(certificate, [each])] or named


def names_key_of(certificate: x509.Certificate, signers: Sequence[x509.Certificate]) -> bool:
    """Return whether there are `signers`, and `certificate`'s key identifier is that of all of
    them."""
    identifiers = [_key_identifiers(certificate, each) for each in signers]
    return bool(identifiers) and all(named == own and own for named, own in identifiers)


def names_another_key(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    """Return whether the key identifier that `certificate` gives for its signer is another than
    that of `signer`; False where one of them has none."""
    named, own = _key_identifiers(certificate, signer)
    return bool(named and own) and named != own


def _key_identifiers(
    certificate: x509.Certificate, signer: x509.Certificate
) -> tuple[bytes | None, bytes | None]:
    """Return the key identifier that `certificate` gives for its signer, and that of `signer`; None
    for each that isn't there."""
    try:
        authority = extension(certificate, x509.AuthorityKeyIdentifier)
        own = extension(signer, x509.SubjectKeyIdentifier)
    except UNREADABLE:
        return None, None
    named = authority.key_identifier if authority else None
    return named, own.digest if own else None


def named_issuers(
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate]
) -> Sequence[x509.Certificate]:
    """Return the candidates that have the name of `certificate`'s issuer, each once."""
    if not candidates:
        return []
    try:
        name = certificate.issuer
    except ValueError:
        return []
    return _once([each for each in candidates if _subject(each) == name])


def _once(certificates: Sequence[x509.Certificate]) -> Sequence[x509.Certificate]:
    if len(certificates) < 2:
        return certificates
    once: list[x509.Certificate] = []
    for each in certificates:
        if each not in once:
            once.append(each)
    return once


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
    if len(candidates) > 1:
        key = candidates[0].public_key()
        if any(each.public_key() != key for each in candidates[1:]):
            return search.issuer_among(candidates, certificate)
    return candidates[0]


def _subject(certificate: x509.Certificate) -> x509.Name | None:
    """Return the subject; None: it can't be read."""
    try:
        return certificate.subject
    except ValueError:
        return None
