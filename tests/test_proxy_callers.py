"""Streams that L7 proxies make for callers, at an inbound door."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers.connections import FakeConnection, ending
from tests.helpers.world import ANYBODY, World, credentials, peer, settings
from uproxy.app.tables import connection_row, denial_row
from uproxy.config.settings import InboundSettings, InboundTrustSettings, RuleFrom, RuleSettings
from uproxy.contract import SILENT, Arrival, CacheScope, Refusal, Route, Spoken, TlsPlan
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.tokens import TokenAuthority
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Outcome, TcpAddress, Transport
from uproxy.policy import Caller, Target
from uproxy.proxy.caller_proofs import CallerProofs
from uproxy.proxy.callers import Callers, ignored
from uproxy.proxy.inbound import InboundDoor
from uproxy.speaking import Disbelief, Doubt

CA = Authority("example.org")
OURS = CA.issue("/ns/db/sa/orders")
WEB = CA.issue("/ns/web/sa/frontend")
L7 = CA.issue("/ns/mesh/sa/l7")
AT = TcpAddress("10.0.0.7", 15008)
NAMED = TcpAddress("10.0.0.7", 8080)
SOURCE = TcpAddress("10.0.0.9", 40000)
SPEAKS = InboundTrustSettings("l7", (L7.spiffe_id,), ("spiffe://example.org/**",))
VIA = RuleSettings("via", "allow", RuleFrom(identities=(WEB.spiffe_id,), via=("l7",)))
FOR_WEB = Spoken((WEB.spiffe_id,))
TO = Target(8080, NAMED.ip, "api")


def make(
    *rules: RuleSettings,
    trusted: tuple[InboundTrustSettings, ...] = (SPEAKS,),
    transport: Transport = Transport.HBONE,
    proxy_protocol: str | None = None,
) -> World:
    is_hbone = transport is Transport.HBONE
    to, ports = (None, (8080,)) if is_hbone else (NAMED, ())
    door = InboundSettings("api", AT, transport, to, ports, proxy_protocol=proxy_protocol)
    config = settings(
        *rules or (VIA,), inbound=(door,), inbound_trust={each.name: each for each in trusted}
    )
    return World(config, credentials(OURS, CA), now=CA.now)


def door_of(here: World) -> InboundDoor:
    door = here.door()
    assert isinstance(door, InboundDoor)
    return door


def stream(
    door: InboundDoor, spoken: Spoken = FOR_WEB, made_by: Issued = L7, number: int = 2
) -> Arrival:
    """A stream of a tunnel whose plan, which has a key, is there."""
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    return Arrival(number, SOURCE, AT, peer(made_by, CA), plan, NAMED, spoken, tunnel=1)


def refused(door: InboundDoor, who: Arrival) -> Refusal:
    found = door.admit(who)
    assert isinstance(found, Refusal)
    return found


def opened(door: InboundDoor, who: Arrival) -> FakeConnection:
    route = door.admit(who)
    assert isinstance(route, Route)
    made = FakeConnection(who, route=route, peer=who.peer, dialled=NAMED, shares_tls=True)
    door.opened(made)
    made.arrival = replace(who, tls=None, spoken=SILENT)  # as engines do
    return made


async def test_whom_a_proxy_names_is_the_caller_and_its_route_is_for_nobody_else() -> None:
    here = make()
    door = door_of(here)
    route = door.admit(stream(door))
    assert isinstance(route, Route)
    assert (route.rule, route.cache_scope) == ("via", None)
    assert here.metric("uproxy_l7_headers_ignored_total") == 0


async def test_a_direct_callers_route_is_cached_as_ever() -> None:
    door = door_of(make(ANYBODY))
    direct = door.admit(stream(door, SILENT, WEB))
    assert isinstance(direct, Route)
    assert direct.cache_scope is not None
    assert CacheScope.PEER in direct.cache_scope


async def test_a_direct_connection_is_refused_where_a_rule_wants_an_l7_proxy() -> None:
    door = door_of(make())
    refusal = refused(door, stream(door, SILENT, WEB))
    assert refusal.outcome is Outcome.DENIED
    assert refusal.reason == (
        f"no rule allows {WEB.spiffe_id} to port 8080 at door api: rule via allows it via l7 only"
    )


async def test_a_call_via_a_proxy_is_refused_where_no_rule_says_so() -> None:
    door = door_of(make(ANYBODY))
    refusal = refused(door, stream(door))
    assert refusal.reason == (
        f"no rule allows {WEB.spiffe_id} via l7 to port 8080 at door api: "
        "rule anybody allows it direct only"
    )


async def test_the_headers_of_any_other_peer_are_ignored_counted_and_told_of() -> None:
    here = make()
    door = door_of(here)
    attacker = CA.issue("/ns/web/sa/attacker")
    for said in (FOR_WEB, Spoken((), ("token",))):
        refusal = refused(door, stream(door, said, attacker))
        assert attacker.spiffe_id in refusal.reason
        assert WEB.spiffe_id not in refusal.reason
        assert refusal.reason.endswith(
            "it sent an L7 proxy's headers, which are ignored: it isn't in inbound_trust"
        )
    refused(door, stream(door, SILENT, attacker))
    assert here.metric("uproxy_l7_headers_ignored_total") == 2
    assert here.metric("uproxy_l7_refused_total") == 0


async def test_a_trusted_callers_headers_make_it_nobody_else_either() -> None:
    only_web = RuleSettings("web", "allow", RuleFrom(identities=(WEB.spiffe_id,)))
    here = make(only_web)
    door = door_of(here)
    assert isinstance(door.admit(stream(door, Spoken((L7.spiffe_id,)), WEB)), Route)
    assert here.metric("uproxy_l7_headers_ignored_total") == 1


@pytest.mark.parametrize(
    ("spoken", "reason"),
    [
        (SILENT, "missing"),
        (Spoken((WEB.spiffe_id, WEB.spiffe_id)), "several"),
        (Spoken(("-",)), "malformed"),
        (Spoken((L7.spiffe_id,)), "l7_proxy"),
        (Spoken(("spiffe://partner.test/a",)), "not_for"),
    ],
)
async def test_a_proxy_that_isnt_believed_is_refused_and_counted(
    spoken: Spoken, reason: str
) -> None:
    everything = RuleFrom(any=True, via=("l7", "direct"))
    here = make(RuleSettings("all", "allow", everything))
    door = door_of(here)
    refusal = refused(door, stream(door, spoken))
    assert (refusal.outcome, refusal.rule) == (Outcome.DENIED, "inbound_trust.l7")
    assert here.metric("uproxy_l7_refused_total", reason=reason) == 1
    assert here.metric("uproxy_authorization_decisions_total") == 0


async def test_a_proxys_own_connection_needs_a_rule_with_its_exact_name() -> None:
    wildcard = RuleSettings("all", "allow", RuleFrom(identities=("spiffe://example.org/**",)))
    door = door_of(make(ANYBODY, wildcard, transport=Transport.MTLS))
    own = replace(stream(door, SILENT), target=None, tunnel=None)
    assert refused(door, own).rule is None
    exact = RuleSettings("exact", "allow", RuleFrom(identities=(L7.spiffe_id,)))
    door = door_of(make(exact, transport=Transport.MTLS))
    route = door.admit(replace(stream(door, SILENT), target=None, tunnel=None))
    assert isinstance(route, Route)
    assert route.rule == "exact"


async def test_what_is_told_of_an_open_stream_names_the_caller_and_the_way() -> None:
    here = make()
    door = door_of(here)
    made = opened(door, stream(door))
    [entry] = here.connections
    row = connection_row(entry, here.now)
    assert (row.identity, row.via, row.via_identity) == (WEB.spiffe_id, "l7", L7.spiffe_id)
    assert here.metric("istio_tcp_connections_opened_total", source_principal=WEB.spiffe_id) == 1
    here.connections.closed(made, ending())
    fields = dict(here.records[-1].fields)
    assert (fields["src.identity"], fields["src.addr"]) == (WEB.spiffe_id, str(SOURCE))
    assert (fields["via"], fields["via.identity"]) == ("l7", L7.spiffe_id)
    assert door._spoken_for == {}


async def test_what_is_told_of_a_refused_stream_names_the_caller_and_the_way() -> None:
    here = make(RuleSettings("no", "deny", RuleFrom(any=True)))
    door = door_of(here)
    who = stream(door)
    refusal = refused(door, who)
    end = ending(refusal.outcome, State.ADMITTING, reason=refusal.reason, rule=refusal.rule)
    door.closed(FakeConnection(who, peer=who.peer, dialled=None), end)
    fields = dict(here.records[-1].fields)
    assert (fields["src.identity"], fields["via"]) == (WEB.spiffe_id, "l7")
    [denial] = map(denial_row, here.connections.denials)
    assert (denial.identity, denial.via) == (WEB.spiffe_id, "l7")
    assert door._spoken_for == {}


async def test_whom_a_proxy_that_isnt_believed_names_is_nobodys_identity() -> None:
    here = make()
    door = door_of(here)
    who = stream(door, Spoken((WEB.spiffe_id, WEB.spiffe_id)))
    refusal = refused(door, who)
    end = ending(refusal.outcome, State.ADMITTING, reason=refusal.reason, rule=refusal.rule)
    door.closed(FakeConnection(who, peer=who.peer, dialled=None), end)
    fields = dict(here.records[-1].fields)
    assert (fields["src.identity"], fields["via"]) == (L7.spiffe_id, "direct")
    [denial] = map(denial_row, here.connections.denials)
    assert (denial.identity, denial.via, denial.rule) == (L7.spiffe_id, None, "inbound_trust.l7")


async def test_the_application_is_told_the_callers_identity() -> None:
    door = door_of(make(proxy_protocol="v2"))
    route = door.admit(stream(door))
    assert isinstance(route, Route)
    assert WEB.spiffe_id.encode() in route.preface
    assert L7.spiffe_id.encode() not in route.preface


async def test_open_streams_are_cut_when_their_proxy_may_not_speak_any_more() -> None:
    here = make()
    made = opened(door_of(here), stream(door_of(here)))
    await here.connections.start()
    here.configure(replace(here.settings, inbound_trust={}))
    await eventually(lambda: made.refusals, "it was checked again")
    await here.connections.stop()
    [refusal] = made.refusals
    assert (refusal.outcome, refusal.rule) == (Outcome.POLICY_CHANGED, "inbound_trust.l7")


# Proofs.

SIGNER = TokenAuthority("example.org")
PROVING = replace(SPEAKS, require_proof=True)


def make_proving() -> World:
    here = make(trusted=(PROVING,))
    here.now = SIGNER.now
    here.believe(replace(here.credentials, jwt_bundles={"example.org": SIGNER.bundle}))
    return here


def proving(token: str) -> Spoken:
    return replace(FOR_WEB, proofs=(token,))


async def test_where_a_proof_is_required_a_proxys_word_is_not_enough() -> None:
    here = make_proving()
    refusal = refused(door_of(here), stream(door_of(here)))
    assert (refusal.outcome, refusal.rule) == (Outcome.DENIED, "inbound_trust.l7")
    assert f"sent no proof of {WEB.spiffe_id}" in refusal.reason
    assert here.metric("uproxy_l7_refused_total", reason="no_proof") == 1
    bad = proving(SIGNER.token("/ns/web/sa/frontend", "spiffe://example.org/other"))
    assert "(JW-6)" in refused(door_of(here), stream(door_of(here), bad)).reason
    assert here.metric("uproxy_l7_refused_total", reason="bad_proof") == 1


async def test_without_an_identity_of_our_own_no_proof_is_for_us() -> None:
    here = make_proving()
    spoken = proving(SIGNER.token("/ns/web/sa/frontend", OURS.spiffe_id))
    who = stream(door_of(here), spoken)
    here.believe(replace(here.credentials, svid=None, reason="withdrawn"))
    found = Callers(here.snapshot, here.services).of(who, TO)
    assert isinstance(found, Disbelief)
    assert (found.doubt, found.name) == (Doubt.BAD_PROOF, "l7")


async def test_the_callers_token_for_us_is_a_proof() -> None:
    here = make_proving()
    spoken = proving(SIGNER.token("/ns/web/sa/frontend", OURS.spiffe_id))
    opened(door_of(here), stream(door_of(here), spoken))
    [entry] = here.connections
    assert entry.info.caller is not None
    assert entry.info.caller.is_proved


async def test_a_token_that_has_come_through_another_proxy_is_refused_also_after_a_reload() -> None:
    here = make_proving()
    services = replace(here.services, proofs=CallerProofs())

    def door() -> InboundDoor:
        return InboundDoor(here.snapshot.applications["api"], here.snapshot, services)

    second = CA.issue("/ns/mesh/sa/second")
    here.configure(replace(
        here.settings, inbound_trust={"l7": replace(PROVING, identities=(
            L7.spiffe_id, second.spiffe_id))},
    ))  # fmt: skip
    spoken = proving(SIGNER.token("/ns/web/sa/frontend", OURS.spiffe_id))
    assert isinstance(door().admit(stream(door(), spoken)), Route)
    here.configure(replace(here.settings, on_policy_change="keep"))
    refusal = refused(door(), stream(door(), spoken, second))
    assert "it is good for one L7 proxy only" in refusal.reason
    assert here.metric("uproxy_l7_refused_total", reason="replayed") == 1


async def test_streams_that_were_not_proved_are_cut_when_a_proof_becomes_required() -> None:
    here = make()
    made = opened(door_of(here), stream(door_of(here)))
    await here.connections.start()
    here.configure(replace(here.settings, inbound_trust={"l7": PROVING}))
    await eventually(lambda: made.refusals, "it was checked again")
    await here.connections.stop()
    [refusal] = made.refusals
    assert refusal.outcome is Outcome.POLICY_CHANGED
    assert f"has sent no proof of {WEB.spiffe_id}, which is required" in refusal.reason


async def test_the_proof_of_whom_the_rules_refuse_takes_no_room() -> None:
    here, proofs = make_proving(), CallerProofs()
    services = replace(here.services, proofs=proofs)
    door = InboundDoor(here.snapshot.applications["api"], here.snapshot, services)
    other = CA.issue("/ns/web/sa/other").spiffe_id
    token = SIGNER.token("/ns/web/sa/other", OURS.spiffe_id)
    refusal = refused(door, stream(door, Spoken((other,), (token,))))
    assert refusal.reason == f"no rule allows {other} via l7 to port 8080 at door api"
    assert len(proofs) == 0
    opened(door, stream(door, proving(SIGNER.token("/ns/web/sa/frontend", OURS.spiffe_id))))
    assert len(proofs) == 1


async def test_a_direct_caller_needs_no_proof() -> None:
    here = make(ANYBODY, trusted=(PROVING,))
    assert isinstance(door_of(here).admit(stream(door_of(here), SILENT, WEB)), Route)


def test_nothing_is_said_of_headers_that_are_not_there_or_were_believed() -> None:
    here = make()
    callers, door = Callers(here.snapshot, here.services), door_of(here)
    for who in (stream(door), stream(door, SILENT, WEB)):
        caller = callers.of(who, TO)
        assert isinstance(caller, Caller)
        assert ignored(who, caller) == ""
