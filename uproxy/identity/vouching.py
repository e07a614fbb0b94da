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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from uproxy.spiffe.authorities import check_issued
from uproxy.spiffe.outline import Outline

MAX_MISSES: Final = 3
"""How many signatures may be wrong in one search: as many as roots share the most frequent name,
and no more than this.  A path that exists is missed only where more signers share a name and have
no key identifiers, or where somebody else's certificate with the issuer's name is presented before
the issuer's."""

Signers = dict[Outline, Outline]
"""Certificates that are reachable from a root, and the one that signed each: a root, or another."""


class Search:
    """Checks signatures until too many were wrong, as only a stranger's certificates are."""

    def __init__(self, roots: Sequence[Outline] = ()) -> None:
        """`roots` are those that may have signed something."""
        self._roots = roots
        self._missed = 0
        self.is_over = False
        """Whether too many signatures were wrong."""

    def issuer_among(self, candidates: Iterable[Outline], certificate: Outline) -> Outline | None:
        """Return the first of `candidates` that signed `certificate`, by name and key; None: none
        did, or the search is over."""
        for candidate in candidates:
            if self.is_over:
                return None
            if not candidate.may_have_signed(certificate):
                continue  # an exception would cost as much as a signature
            try:
                check_issued(certificate.certificate, candidate.certificate)
            except InvalidSignature:
                self._miss()
            except (ValueError, TypeError, UnsupportedAlgorithm):
                pass  # names or signatures that don't fit cost little
            else:
                return candidate
        return None

    def _miss(self) -> None:
        namesakes = Counter(root.subject for root in self._roots)
        self._missed += 1
        self.is_over = self._missed >= min(max(namesakes.values(), default=1), MAX_MISSES)

    def reachable_from_roots(
        self, strangers: Iterable[Outline], anchors: Iterable[Outline]
    ) -> Signers:
        """Return those of `strangers` that an anchor signed, or another one that is reachable.  No
        path leads through what isn't a CA, and such keys are in the hands of strangers."""
        reachable: Signers = {}
        rest, signers = [*strangers], [*anchors]
        while signers:
            signed = [(each, self._signer(each, signers)) for each in rest]
            found = {each: signer for each, signer in signed if signer is not None}
            reachable |= found
            signers = [each for each in found if each.is_ca]
            rest = [each for each in rest if each not in found]
        return reachable

    def _signer(self, certificate: Outline, among: Iterable[Outline]) -> Outline | None:
        if self.is_over:
            return None
        return self.issuer_among(fitting(certificate, among), certificate)


def find_way_up(
    leaf: Outline, others: Sequence[Outline], roots: Sequence[Outline], known: Signers
) -> list[Outline]:
    """Return the path from the leaf as far up as names, key identifiers and signatures lead; if it
    leads to a root, that is the last one.  `others` were presented beside the leaf; `known` has
    those of them that are known to be reachable from a root, and is given those that are found to
    be.

    Certificates that aren't reachable are followed by their names only, and to no root: checking
    signatures with a stranger's keys is what it may want.  Where there is only one possible signer
    the leaf's signature isn't checked, and may be wrong.
    """
    search = Search(roots)
    anchors, named = fitting(leaf, roots), fitting(leaf, others)
    if anchors and names_key_of(leaf, anchors[0]):
        named = []
    if any(each not in known for each in named):
        first = _likely_issuers(leaf, anchors, named, known)
        issuer = search.issuer_among(first, leaf)
        if issuer is not None:
            return [leaf, *_up(issuer, known)]
        unknown = [each for each in others if each not in known]
        known |= search.reachable_from_roots(unknown, [*roots, *known])
        if search.is_over and (first or named[0] not in known):
            return [leaf]
    candidates = [*anchors, *(each for each in named if each in known)]
    issuer = _choose(search, fitting(leaf, candidates), leaf)
    if issuer is not None:
        return [leaf, *_up(issuer, known)]
    named = named_issuers(leaf, others)
    return [leaf, *_follow_names(named[0], others)] if named else [leaf]


def _likely_issuers(
    leaf: Outline, anchors: Sequence[Outline], named: Sequence[Outline], known: Signers
) -> list[Outline]:
    """Return the signers with which the leaf's signature is tried before anybody else's is."""
    # a root whose key isn't known to be named is tried after those whose key is
    before = [] if names_key_of(leaf, named[0]) else anchors
    # they should come in the order of RFC 8446 section 4.4.2: the leaf's issuer first
    return [*before, *(each for each in named[:1] if each in known)]


def _up(issuer: Outline, signers: Mapping[Outline, Outline]) -> Iterator[Outline]:
    """Yield `issuer` and its signers up to the root."""
    above: Outline | None = issuer
    while above is not None:
        yield above
        above = signers.get(above)


def fitting(certificate: Outline, candidates: Iterable[Outline]) -> list[Outline]:
    """Return the candidates that have the name of `certificate`'s issuer: those that have its key
    identifier too; where none has, those of which it isn't known.

    OpenSSL doesn't accept a signer with another key identifier.
    """
    named = [
        (each, names_key_of(certificate, each)) for each in named_issuers(certificate, candidates)
    ]
    return [each for each, fits in named if fits] or [each for each, fits in named if fits is None]


def names_key_of(certificate: Outline, signer: Outline) -> bool | None:
    """Return whether the key identifier that `certificate` gives for its signer is that of
    `signer`; None: one of them has none."""
    named, own = certificate.signer_key, signer.own_key
    return None if named is None or own is None else named == own


def named_issuers(certificate: Outline, candidates: Iterable[Outline]) -> list[Outline]:
    """Return the candidates that have the name of `certificate`'s issuer."""
    name = certificate.issuer
    return [each for each in candidates if each.subject == name]


def _follow_names(first: Outline, rest: Sequence[Outline]) -> Iterator[Outline]:
    """Yield a stranger's certificate and what follows above it, by names alone."""
    certificate, left = first, [*rest]
    while True:
        yield certificate
        left.remove(certificate)
        above = named_issuers(certificate, left)
        if not above:
            return
        certificate = above[0]


def _choose(search: Search, candidates: Sequence[Outline], certificate: Outline) -> Outline | None:
    """Return the candidate that signed `certificate`; None: none did.  If all candidates have one
    key, the first is returned without checking the signature."""
    if not candidates:
        return None
    first, *more = candidates
    if any(each.key != first.key for each in more):
        return search.issuer_among(candidates, certificate)
    return first
