"""Each new bundle and CRL has a line in the log."""

from __future__ import annotations

from dataclasses import replace

from uproxy.identity.changes import MAX_LINES, trust_changes
from uproxy.lab.pki import Authority
from uproxy.spiffe.bundles import Bundle

OURS = Authority("example.org")
NEXT = Authority("example.org")
PARTNER = Authority("partner.test")


def by_name(*bundles: Bundle) -> dict[str, Bundle]:
    return {bundle.trust_domain: bundle for bundle in bundles}


def test_bundles_that_come_and_go_are_told_by_their_roots() -> None:
    both = Bundle("example.org", (OURS.root, NEXT.root))
    assert trust_changes({}, by_name(OURS.bundle, PARTNER.bundle)) == [
        "the bundle of example.org has 1 root: 1 new, 0 gone",
        "the bundle of partner.test has 1 root: 1 new, 0 gone",
    ]
    assert trust_changes(by_name(OURS.bundle), by_name(both)) == [
        "the bundle of example.org has 2 roots: 1 new, 0 gone"
    ]
    assert trust_changes(by_name(OURS.bundle), by_name(NEXT.bundle)) == [
        "the bundle of example.org has 1 root: 1 new, 1 gone"
    ]
    assert trust_changes(by_name(OURS.bundle, PARTNER.bundle), by_name(OURS.bundle)) == [
        "the bundle of partner.test is gone: nobody of it is trusted"
    ]
    empty = Bundle("example.org", ())
    assert trust_changes({}, by_name(empty)) == [
        "the bundle of example.org has 0 roots: 0 new, 0 gone"
    ]


def test_a_new_crl_is_told_with_how_many_it_revokes_and_until_when_it_holds() -> None:
    crl, later = OURS.crl([OURS.issue(), OURS.issue()]), OURS.crl([OURS.issue()])
    before, after = replace(OURS.bundle, crls=(crl,)), replace(OURS.bundle, crls=(later,))
    assert crl.next_update_utc is not None
    issuer = repr(OURS.root.subject.rfc4514_string())
    assert trust_changes(by_name(OURS.bundle), by_name(before)) == [
        f"a new CRL of example.org: {issuer} revokes 2, next update "
        f"{crl.next_update_utc.isoformat()}"
    ]
    [line] = trust_changes(by_name(before), by_name(after))
    assert line.startswith(f"a new CRL of example.org: {issuer} revokes 1, ")
    assert trust_changes(by_name(after), by_name(OURS.bundle)) == [
        f"a CRL of example.org is gone, that of {issuer}"
    ]
    assert trust_changes(by_name(after), by_name(after)) == []


def test_very_many_changes_are_a_bounded_number_of_lines() -> None:
    many = by_name(*(Bundle(f"d{number}.test", (OURS.root,)) for number in range(MAX_LINES + 5)))
    lines = trust_changes({}, many)
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == "and more bundles and CRLs, which /certs has"
    exactly = dict([*many.items()][:MAX_LINES])
    assert len(trust_changes({}, exactly)) == MAX_LINES
