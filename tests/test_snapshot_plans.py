from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509

from tests.helpers.world import credentials, with_crl
from uproxy.contract import Refusal, RefusedError, TlsPlan
from uproxy.errors import UntrustedError
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import CLIENT_AUTH, SERVER_AUTH, Authority
from uproxy.model import Outcome, Role, TlsSettings
from uproxy.snapshot.plans import HandshakeKind, Plans
from uproxy.spiffe.ids import IdentityPattern

CA = Authority("example.org")
OURS = CA.issue("/ns/web/sa/frontend")
DB = CA.issue("/ns/db/sa/orders")
TLS = TlsSettings(groups=("X25519",))


def kind(role: Role = Role.SERVER, *expected: str, any_peer: bool = False) -> HandshakeKind:
    patterns = None if any_peer else tuple(map(IdentityPattern.parse, expected))
    return HandshakeKind(role, TLS, ("h2",), patterns)


ANY = kind(any_peer=True)


def plans(
    *kinds: HandshakeKind,
    believed: Credentials | None = None,
    before: Plans | None = None,
    clock: Callable[[], datetime] = lambda: CA.now,
) -> Plans:
    """Under `believed`: with a verifier of its own unless `before` has the same trust."""
    found = credentials(OURS, CA) if believed is None else believed
    kept = None if before is None or found.generation > 1 else before.verifier
    return Plans.of(kinds, found, kept or Verifier(found), clock, before)


def plan(made: Plans, of: HandshakeKind) -> TlsPlan:
    found = made[of]
    assert isinstance(found, TlsPlan)
    return found


def test_a_plan_shows_our_svid_and_negotiates_as_configured() -> None:
    made = plan(plans(ANY), ANY)
    assert (made.own.spiffe_id, made.own.chain) == (OURS.spiffe_id, OURS.der)
    assert made.own.not_after == OURS.certificate.not_valid_after_utc
    assert made.key is OURS.key
    assert (made.role, made.settings, made.alpn) == (Role.SERVER, TLS, ("h2",))


def test_a_plan_is_taken_over_and_made_anew_when_svid_or_trust_change() -> None:
    first = plans(ANY)
    assert plan(plans(ANY, kind(Role.CLIENT), believed=credentials(OURS, CA), before=first), ANY)
    believed = Credentials(first.svid, "", {CA.trust_domain: CA.bundle}, 1)
    same = plans(ANY, kind(Role.CLIENT), believed=believed, before=first)
    assert plan(same, ANY) is plan(first, ANY)
    revoking = with_crl(believed, CA, DB)
    second = plans(ANY, believed=revoking, before=same)
    assert plan(second, ANY) is not plan(first, ANY)
    rotated = credentials(CA.issue("/ns/web/sa/frontend"), CA)
    third = plans(ANY, believed=rotated, before=first)
    assert plan(third, ANY).own.chain != plan(first, ANY).own.chain


def test_without_an_svid_there_is_no_handshake_and_the_sources_reason_is_told() -> None:
    nobody = credentials(None, CA, reason="agent socket /x: refused")
    refusal = plans(ANY, believed=nobody, before=plans(ANY))[ANY]
    assert refusal == Refusal(Outcome.NO_IDENTITY, "agent socket /x: refused")


def test_a_peer_is_judged_by_the_snapshot_of_its_handshake() -> None:
    first = plans(ANY)
    after = plans(ANY, believed=with_crl(credentials(OURS, CA), CA, DB), before=first)
    assert plan(first, ANY).verify(DB.der).spiffe_id == DB.spiffe_id
    with pytest.raises(UntrustedError, match="revoked"):
        plan(after, ANY).verify(DB.der)


def test_the_time_of_the_handshake_counts() -> None:
    clock = [CA.now]
    verify = plan(plans(ANY, clock=lambda: clock[0]), ANY).verify
    assert verify(DB.der).not_after == DB.certificate.not_valid_after_utc
    clock[0] += timedelta(days=1)
    with pytest.raises(UntrustedError, match="expired"):
        verify(DB.der)


@pytest.mark.parametrize("pattern", [DB.spiffe_id, "spiffe://example.org/ns/db/**"])
def test_a_peer_among_those_expected_is_accepted(pattern: str) -> None:
    of = kind(Role.CLIENT, "spiffe://example.org/other", pattern)
    assert plan(plans(of), of).verify(DB.der)


@pytest.mark.parametrize("expected", [(), ("spiffe://example.org/ns/db/sa/other",)])
def test_a_trusted_peer_that_is_not_expected_is_refused_naming_both(
    expected: tuple[str, ...],
) -> None:
    of = kind(Role.CLIENT, *expected)
    with pytest.raises(RefusedError) as caught:
        plan(plans(of), of).verify(DB.der)
    refusal = caught.value.refusal
    assert refusal.outcome is Outcome.PEER_UNEXPECTED
    assert DB.spiffe_id in refusal.reason
    assert all(wanted in refusal.reason for wanted in expected)


def test_an_untrusted_peer_is_untrusted_before_it_is_unexpected() -> None:
    stranger = Authority("example.org").issue("/ns/db/sa/orders")
    of = kind(Role.CLIENT)
    with pytest.raises(UntrustedError):
        plan(plans(of), of).verify(stranger.der)


def test_who_judges_alike_has_the_same_number_whatever_we_show() -> None:
    of = kind(Role.CLIENT, DB.spiffe_id)
    first = plans(of)
    nobody = plans(of, believed=credentials(None, CA), before=first)
    rotated = credentials(CA.issue("/ns/web/sa/frontend"), CA)
    second = plans(of, believed=rotated, before=nobody)
    assert plan(second, of) is not plan(first, of)
    assert plan(second, of).trust_id == plan(first, of).trust_id


def test_what_is_negotiated_changes_nothing_in_who_judges() -> None:
    other = replace(ANY, settings=TlsSettings(), alpn=())
    made = plans(ANY, other)
    assert plan(made, other) is not plan(made, ANY)
    assert plan(made, other).trust_id == plan(made, ANY).trust_id


def test_who_judges_otherwise_has_another_number() -> None:
    one, other = kind(Role.CLIENT, DB.spiffe_id), kind(Role.CLIENT, OURS.spiffe_id)
    first = plans(one, other, ANY)
    revoking = plans(one, believed=with_crl(credentials(OURS, CA), CA, DB), before=first)
    elsewhere = plans(one)
    numbers = [plan(first, each).trust_id for each in (one, other, ANY)]
    numbers += [plan(each, one).trust_id for each in (revoking, elsewhere)]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("role", "usage"), [(Role.SERVER, CLIENT_AUTH), (Role.CLIENT, SERVER_AUTH)]
)
def test_a_peer_plays_the_other_role(role: Role, usage: x509.ObjectIdentifier) -> None:
    """Who is shaken hands with by a server is a client."""
    of = kind(role, any_peer=True)
    verify = plan(plans(of), of).verify
    assert verify(CA.issue(eku=(usage,)).der)
    [other] = {CLIENT_AUTH, SERVER_AUTH} - {usage}
    with pytest.raises(UntrustedError, match="extended key usage doesn't allow"):
        verify(CA.issue(eku=(other,)).der)


def test_what_others_see_of_an_svid_is_one_object_as_long_as_we_have_it() -> None:
    first = plans(ANY)
    believed = Credentials(first.svid, "", {CA.trust_domain: CA.bundle}, 1)
    same = plans(ANY, believed=with_crl(believed, CA, DB), before=first)
    assert same.own is first.own
    rotated = plans(ANY, believed=credentials(CA.issue("/ns/web/sa/frontend"), CA), before=first)
    assert rotated.own is not first.own
    assert first.reason == ""
