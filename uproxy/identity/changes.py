"""What has changed about whom we trust, in lines for the log: pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Final

from cryptography import x509

from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.crls import why_unusable

MAX_LINES: Final = 50
"""Lines about one change; a set of bundles may have any number of CRLs."""

_SHOWN: Final = 160  # characters of a name


def trust_changes(before: Mapping[str, Bundle], after: Mapping[str, Bundle]) -> list[str]:
    """Return a line for each bundle that has come, changed its roots or gone, and for each CRL
    that has come or gone; `before` and `after` are by trust domain."""
    lines = [*itertools.islice(_changes(before, after), MAX_LINES + 1)]
    if len(lines) > MAX_LINES:
        lines[-1] = "and more bundles and CRLs, which /certs has"
    return lines


def _changes(before: Mapping[str, Bundle], after: Mapping[str, Bundle]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old = before.get(name, Bundle(name, ()))
        new = after.get(name)
        if new is None:
            yield f"the bundle of {name} is gone: nobody of it is trusted"
            continue
        if name not in before or old.roots != new.roots:
            yield _roots_line(name, {*old.roots}, {*new.roots})
        yield from _crl_lines(name, old, new)


def _roots_line(name: str, old: set[x509.Certificate], new: set[x509.Certificate]) -> str:
    count = f"{len(new)} {'root' if len(new) == 1 else 'roots'}"
    return f"the bundle of {name} has {count}: {len(new - old)} new, {len(old - new)} gone"


def _crl_lines(name: str, old: Bundle, new: Bundle) -> Iterator[str]:
    for crl in new.crls:
        if crl not in old.crls:
            yield f"a new CRL of {name}: {_describe(crl)}"
    issuers = {crl.issuer for crl in new.crls}
    for crl in old.crls:
        if crl.issuer not in issuers:
            yield f"a CRL of {name} is gone, that of {_issuer(crl)}"


def _describe(crl: x509.CertificateRevocationList) -> str:
    problem = why_unusable(crl)
    if problem:
        return f"it can't be applied: {problem}"
    # what is usable has a nextUpdate
    ends = "" if crl.next_update_utc is None else f", next update {crl.next_update_utc.isoformat()}"
    return f"{_issuer(crl)} revokes {len(crl)}{ends}"


def _issuer(crl: x509.CertificateRevocationList) -> str:
    return repr(crl.issuer.rfc4514_string()[:_SHOWN])
