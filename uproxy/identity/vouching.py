"""Whose signatures may be checked at all: certificates that a trust anchor's keys lead to.

A stranger chooses the certificates and keys it presents.  A path builder that starts at the
leaf would check signatures with those keys, up to a hundred of them, and keys can be made
that cost milliseconds each.  So intermediates are found from the anchors downward: no key is
used that wasn't signed for.  Being vouched for isn't being valid: that is path validation's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

MISSES: Final = 3
"""Signatures that may turn out wrong in one search where there is one root.  A way that exists is
missed only where several signers share a name."""
MISSES_PER_ROOT: Final = 6
"""More of them for each further root, which may share the first one's name."""
MAX_MISSES: Final = 24
"""In one search, however many roots there are."""


class Search:
    """Checks signatures until too many were wrong, as only a stranger's certificates are."""

    def __init__(self, roots: int = 1) -> None:
        self._left = min(MISSES + MISSES_PER_ROOT * (roots - 1), MAX_MISSES)

    @property
    def is_over(self) -> bool:
        """Too many were wrong."""
        return self._left == 0

    def issuer_among(
        self, candidates: Iterable[x509.Certificate], certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """The first of `candidates` whose name and key `certificate` is signed with; None too when
        the search is over."""
        for candidate in candidates:
            if not self._left:
                return None
            try:
                certificate.verify_directly_issued_by(candidate)
            except InvalidSignature:
                self._left -= 1
            except (ValueError, TypeError, UnsupportedAlgorithm):
                continue  # names or kinds of keys that don't fit cost nothing
            else:
                return candidate
        return None

    def vouched_for(
        self, strangers: Iterable[x509.Certificate], anchors: Iterable[x509.Certificate]
    ) -> list[x509.Certificate]:
        """Those of `strangers` that an anchor signed, or somebody whom it vouches for."""
        vouched: list[x509.Certificate] = []
        rest, signers = list(dict.fromkeys(strangers)), list(anchors)
        while rest and signers:
            signed = [each for each in rest if self.issuer_among(signers, each) is not None]
            rest = [each for each in rest if each not in signed]
            vouched += signed
            signers = signed
        return vouched


def climb(
    presented: list[x509.Certificate], roots: Iterable[x509.Certificate]
) -> list[x509.Certificate]:
    """From the leaf as far up as names and signatures lead; a root is the last one.

    A stranger's certificates are followed by their names only: checking signatures with its keys
    is what it may want.
    """
    roots = [*roots]
    search = Search(len(roots))
    path, rest = presented[:1], presented[1:]
    vouched = search.vouched_for(rest, roots)
    while True:
        root = search.issuer_among(roots, path[-1])
        issuer = root or search.issuer_among((each for each in vouched if each in rest), path[-1])
        issuer = issuer or _named(path[-1].issuer, [each for each in rest if each not in vouched])
        if issuer is None or search.is_over:
            return path
        path.append(issuer)
        if root is not None:
            return path
        rest.remove(issuer)


def _named(name: x509.Name, candidates: list[x509.Certificate]) -> x509.Certificate | None:
    return next((each for each in candidates if _subject(each) == name), None)


def _subject(certificate: x509.Certificate) -> x509.Name | None:
    """None: it can't be read."""
    try:
        return certificate.subject
    except ValueError:
        return None
