from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.helpers.world import credentials, settings, with_crl
from uproxy.connections import InForce, Party, Shown
from uproxy.contract import RefusedError
from uproxy.errors import UntrustedError
from uproxy.identity.credentials import Credentials
from uproxy.lab.pki import Authority
from uproxy.model import Direction, Outcome, Role, TlsSettings, Transport
from uproxy.proxy.handshakes import Handshake, Handshakes, Terms
from uproxy.spiffe.ids import IdentityPattern

CA = Authority("example.org")
OURS = CA.issue("/ns/web/sa/frontend")
DB = CA.issue("/ns/db/sa/orders")
TLS = TlsSettings(groups=("X25519",))


def in_force(believed: Credentials) -> InForce:
    return InForce.first(settings(), believed)


def handshakes(role: Role = Role.SERVER, *expected: str, any_peer: bool = False) -> Handshakes:
    patterns = None if any_peer else tuple(map(IdentityPattern.parse, expected))
    return Handshakes(Terms(role, TLS, ("h2",), patterns), lambda: CA.now, party)


def party(ours: Shown | None) -> Party:
    return Party(Direction.INBOUND, "api", Transport.MTLS, ours, None, None)


def shown(handshake: Handshake) -> Shown:
    assert handshake.party.ours is not None
    return handshake.party.ours


def plan(made: Handshakes, now: InForce) -> Handshake:
    found = made.now(now)
    assert isinstance(found, Handshake)
    return found


def test_a_plan_shows_our_svid_with_the_configurations_terms() -> None:
    made = plan(handshakes(any_peer=True), in_force(credentials(OURS, CA)))
    assert made.plan.chain == OURS.der
    assert made.plan.key is OURS.key
    assert made.plan.role is Role.SERVER
    assert made.plan.settings is TLS
    assert made.plan.alpn == ("h2",)
    assert shown(made).spiffe_id == OURS.spiffe_id
    assert shown(made).chain == OURS.der


def test_a_plan_is_made_once_per_snapshot_and_anew_when_svid_or_trust_change() -> None:
    made = handshakes(any_peer=True)
    now = in_force(credentials(OURS, CA))
    first = plan(made, now)
    assert plan(made, now) is first
    assert plan(made, now.with_settings(settings())) is first
    revoking = now.with_credentials(with_crl(now.credentials, CA, DB))
    second = plan(made, revoking)
    assert second is not first
    rotated = replace(revoking.credentials, svid=CA.issue("/ns/web/sa/frontend").svid)
    third = plan(made, revoking.with_credentials(rotated))
    assert third.plan.chain != second.plan.chain


def test_what_a_plan_showed_is_known_as_long_as_the_plan() -> None:
    made = handshakes(any_peer=True)
    now = in_force(credentials(OURS, CA))
    first = plan(made, now)
    later = now.with_credentials(credentials(CA.issue("/ns/web/sa/frontend"), CA))
    assert plan(made, later).plan is not first.plan
    assert made.party(first.plan) is first.party
    assert made.party(None).ours is None


def test_without_an_svid_there_is_no_handshake_and_the_sources_reason_is_told() -> None:
    refusal = handshakes().now(in_force(credentials(None, CA, reason="agent socket /x: refused")))
    assert not isinstance(refusal, Handshake)
    assert refusal.outcome is Outcome.NO_IDENTITY
    assert refusal.reason == "agent socket /x: refused"


def test_an_old_plan_is_not_kept_when_the_identity_goes() -> None:
    made = handshakes(any_peer=True)
    now = in_force(credentials(OURS, CA))
    plan(made, now)
    assert not isinstance(made.now(now.with_credentials(credentials(None, CA))), Handshake)


def test_a_peer_is_judged_by_the_snapshot_of_its_handshake() -> None:
    made = handshakes(any_peer=True)
    now = in_force(credentials(OURS, CA))
    before = plan(made, now).plan
    after = plan(made, now.with_credentials(with_crl(now.credentials, CA, DB))).plan
    assert before.verify(DB.der).spiffe_id == DB.spiffe_id
    with pytest.raises(UntrustedError, match="revoked"):
        after.verify(DB.der)


def test_the_time_of_the_handshake_counts() -> None:
    clock = [CA.now]
    made = Handshakes(Terms(Role.SERVER, TLS, ()), lambda: clock[0], party)
    verify = plan(made, in_force(credentials(OURS, CA))).plan.verify
    assert verify(DB.der).not_after == DB.certificate.not_valid_after_utc
    clock[0] += timedelta(days=1)
    with pytest.raises(UntrustedError, match="expired"):
        verify(DB.der)


@pytest.mark.parametrize("pattern", [DB.spiffe_id, "spiffe://example.org/ns/db/**"])
def test_a_peer_among_those_expected_is_accepted(pattern: str) -> None:
    made = handshakes(Role.CLIENT, "spiffe://example.org/other", pattern)
    assert plan(made, in_force(credentials(OURS, CA))).plan.verify(DB.der)


@pytest.mark.parametrize("expected", [(), ("spiffe://example.org/ns/db/sa/other",)])
def test_a_trusted_peer_that_is_not_expected_is_refused_naming_both(
    expected: tuple[str, ...],
) -> None:
    verify = plan(handshakes(Role.CLIENT, *expected), in_force(credentials(OURS, CA))).plan.verify
    with pytest.raises(RefusedError) as caught:
        verify(DB.der)
    refusal = caught.value.refusal
    assert refusal.outcome is Outcome.PEER_UNEXPECTED
    assert DB.spiffe_id in refusal.reason
    assert all(wanted in refusal.reason for wanted in expected)


def test_an_untrusted_peer_is_untrusted_before_it_is_unexpected() -> None:
    stranger = Authority("example.org").issue("/ns/db/sa/orders")
    verify = plan(handshakes(Role.CLIENT), in_force(credentials(OURS, CA))).plan.verify
    with pytest.raises(UntrustedError):
        verify(stranger.der)


def test_who_judges_alike_has_the_same_number_whatever_we_show() -> None:
    made = handshakes(Role.CLIENT, DB.spiffe_id)
    now = in_force(credentials(OURS, CA))
    first = plan(made, now).plan
    rotated = now.with_credentials(credentials(CA.issue("/ns/web/sa/frontend"), CA))
    second = plan(made, rotated).plan
    assert second is not first
    assert second.trust == first.trust


def test_a_reloads_new_door_judges_as_the_old_one_did() -> None:
    now = in_force(credentials(OURS, CA))
    before = plan(handshakes(Role.CLIENT, DB.spiffe_id), now).plan
    reloaded = now.with_settings(settings())
    assert plan(handshakes(Role.CLIENT, DB.spiffe_id), reloaded).plan.trust == before.trust


def test_who_judges_otherwise_has_another_number() -> None:
    now = in_force(credentials(OURS, CA))
    made = handshakes(Role.CLIENT, DB.spiffe_id)
    revoking = now.with_credentials(with_crl(now.credentials, CA, DB))
    plans = [
        plan(made, now),
        plan(made, revoking),
        plan(handshakes(Role.CLIENT, OURS.spiffe_id), now),
        plan(handshakes(Role.SERVER, any_peer=True), now),
        plan(handshakes(Role.CLIENT, DB.spiffe_id), in_force(credentials(OURS, CA))),
    ]
    assert len({each.plan.trust for each in plans}) == len(plans)
