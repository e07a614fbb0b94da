"""Which way from a leaf to a trust anchor is worth validating: found from the anchors downward.

A stranger chooses the certificates and keys it presents.  A path builder that starts at the
leaf would check signatures with those keys, up to a hundred of them, and keys can be made
that cost milliseconds each.  So no key is used that wasn't signed for, and few signatures may be
wrong.  Where names and key identifiers leave one way, it is taken without checking a signature:
path validation does that, once.  Being vouched for isn't being valid.
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
"""Signatures that may turn out wrong in one search where every root has a name of its own.  A way
that exists is missed only where signers share a name and have no key identifiers, or where
somebody else's certificate with the issuer's name is presented before the issuer's."""
MAX_MISSES: Final = 3
"""Each further root of the most frequent name allows one more, up to so many."""


class Vouched(NamedTuple):
    """Who leads to a root."""

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
        """Too many were wrong."""
        return self._missed >= MISSES and self._missed >= self._most()

    def _most(self) -> int:
        namesakes = max(Counter(root.subject for root in self._roots).values(), default=1)
        return min(MISSES + namesakes - 1, MAX_MISSES)

    def issuer_among(
        self, candidates: Iterable[x509.Certificate], certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """The first of `candidates` whose name and key `certificate` is signed with; None too when
        the search is over."""
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

    def vouched_for(
        self, strangers: Sequence[x509.Certificate], anchors: Iterable[x509.Certificate]
    ) -> list[Vouched]:
        """Those of `strangers` that an anchor signed, or somebody whom it vouches for."""
        vouched: list[Vouched] = []
        rest, signers = [*_once(strangers)], [*anchors]
        while rest and signers:
            signed = [(each, self._signer(each, signers)) for each in rest]
            found = [Vouched(each, signer) for each, signer in signed if signer is not None]
            vouched += found
            signers = [each.certificate for each in found]
            rest = [each for each in rest if each not in signers]
        return vouched

    def _signer(
        self, certificate: x509.Certificate, among: Sequence[x509.Certificate]
    ) -> x509.Certificate | None:
        if self.is_over:
            return None
        if len(among) > 1:
            among = fitting(certificate, among)
        return self.issuer_among(among, certificate)


def climb(
    presented: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    known: Sequence[Vouched] = (),
) -> list[x509.Certificate]:
    """From the leaf as far up as names, key identifiers and signatures lead; a root is the last
    one.  `known` are those of the presented for whom a root vouches, as was seen before.

    A stranger's certificates are followed by their names only, and to no root: checking signatures
    with its keys is what it may want.  Where there is no choice, the leaf's signature may be wrong.
    """
    search, leaf = Search(roots), presented[0]
    rest = [each for each in presented[1:] if each not in roots]
    anchors, others = fitting(leaf, roots), named_issuers(leaf, rest)
    vouched = [*known]
    if names_key_of(leaf, anchors):
        others = []
    elif any(each not in _whom(vouched) for each in others):
        # in the order in which RFC 8446 section 4.4.2 wants them
        unknown = [each for each in rest if each not in _whom(vouched)]
        vouched += search.vouched_for(unknown, [*roots, *_whom(vouched)])
    candidates = [each for each in others if each in _whom(vouched)]
    if search.is_over and not candidates:
        return [leaf]
    issuer = _choose(search, fitting(leaf, [*anchors, *candidates]), leaf)
    if issuer is not None:
        return [leaf, *_up(issuer, vouched)]
    return [leaf, *_follow(others[0], rest)] if others else [leaf]


def _whom(vouched: Iterable[Vouched]) -> list[x509.Certificate]:
    return [each.certificate for each in vouched]


def _up(issuer: x509.Certificate, vouched: Sequence[Vouched]) -> Iterator[x509.Certificate]:
    """To the root."""
    above: x509.Certificate | None = issuer
    while above is not None:
        yield above
        above = next((each.signer for each in vouched if each.certificate == above), None)


def fitting(
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate]
) -> Sequence[x509.Certificate]:
    """Those that have the name of `certificate`'s issuer; of several, those that have its key
    identifier too, where any has."""
    named = named_issuers(certificate, candidates)
    if len(named) < 2:
        return named
    return [each for each in named if names_key_of(certificate, [each])] or named


def names_key_of(certificate: x509.Certificate, signers: Sequence[x509.Certificate]) -> bool:
    """Whether `certificate` says that it is signed with the key of these, of which there are
    any."""
    if not signers:
        return False
    try:
        authority = extension(certificate, x509.AuthorityKeyIdentifier)
        keys = [extension(each, x509.SubjectKeyIdentifier) for each in signers]
    except UNREADABLE:
        return False
    named = authority and authority.key_identifier
    return named is not None and all(key is not None and key.digest == named for key in keys)


def named_issuers(
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate]
) -> Sequence[x509.Certificate]:
    """Those that have the name of `certificate`'s issuer, each once."""
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


def _follow(
    first: x509.Certificate, rest: Sequence[x509.Certificate]
) -> Iterator[x509.Certificate]:
    """From a stranger's certificate on, by names."""
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
    """Whose signature it is; the only one that it can be, or the first of those that have one key,
    isn't asked."""
    if not candidates:
        return None
    if len(candidates) > 1:
        key = candidates[0].public_key()
        if any(each.public_key() != key for each in candidates[1:]):
            return search.issuer_among(candidates, certificate)
    return candidates[0]


def _subject(certificate: x509.Certificate) -> x509.Name | None:
    """None: it can't be read."""
    try:
        return certificate.subject
    except ValueError:
        return None
