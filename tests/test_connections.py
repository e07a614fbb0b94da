from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest

from tests.helpers.connections import FakeConnection, arrival, ending
from tests.helpers.world import ANYBODY, World, credentials, peer, settings, with_crl
from uproxy.accesslog import AccessRecord
from uproxy.config.settings import (
    DestinationSettings,
    IdentitySettings,
    InboundSettings,
    RuleFrom,
    RuleSettings,
    Settings,
)
from uproxy.connections import ConnectionInfo, Connections
from uproxy.connections.checking import SLICE
from uproxy.connections.denials import KEPT_DENIALS
from uproxy.contract import Ending, Refusal, TlsFacts
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.metrics import Totals
from uproxy.model import Claim, Direction, Outcome, Role, TcpAddress, Timeouts, Transport
from uproxy.policy import Target
from uproxy.snapshot.plans import own_svid

CA = Authority("example.org")
PARTNER = Authority("partner.test")
OURS = CA.issue("/ns/db/sa/orders")
WEB = CA.issue("/ns/web/sa/frontend")
CART = PARTNER.issue("/ns/shop/sa/cart")
TARGET = Target(8080, ip_address("127.0.0.1"), "api")
ON = RuleSettings("no-web", "deny", RuleFrom(namespaces=("web",)))
FACTS = TlsFacts("TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519MLKEM768", 0.003)


def info_of(direction: Direction = Direction.INBOUND, ours: Issued = OURS) -> ConnectionInfo:
    target = TARGET if direction is Direction.INBOUND else None
    return ConnectionInfo(direction, "api", Transport.MTLS, own_svid(ours.svid), target, 8080)


INBOUND = info_of()


def plaintext() -> ConnectionInfo:
    return ConnectionInfo(Direction.INBOUND, "api", Transport.PLAINTEXT, None, TARGET, 8080)


def world(*rules: RuleSettings, **identity: str) -> World:
    switches = IdentitySettings(**identity)  # type: ignore[arg-type]  # on_… only
    believed = credentials(OURS, CA, PARTNER)
    return World(settings(*(rules or (ANYBODY,)), identity=switches), believed, now=CA.now)


def connect(
    here: World,
    who: Issued = WEB,
    number: int = 1,
    by: Authority = CA,
    info: ConnectionInfo = INBOUND,
) -> FakeConnection:
    """Admitted and open."""
    role = Role.CLIENT if info.direction is Direction.INBOUND else Role.SERVER
    proven = peer(who, by, role)
    inbound = info.direction is Direction.INBOUND
    made = FakeConnection(arrival(proven if inbound else None, number=number), peer=proven)
    made.tls = FACTS
    here.connections.admitted(info, made.arrival, here.snapshot.revision)
    here.connections.opened(made)
    return made


def close(here: World, connection: FakeConnection, outcome: Outcome = Outcome.CLOSED) -> None:
    end = ending(
        outcome,
        bytes_received=connection.bytes_received,
        bytes_sent=connection.bytes_sent,
    )
    here.connections.closed(connection, end)


@asynccontextmanager
async def judging(here: World) -> AsyncIterator[World]:
    await here.connections.start()
    try:
        yield here
    finally:
        await here.connections.stop()


async def first_cut(made: FakeConnection) -> None:
    """Go on, one turn of the loop at a time, until `made` has been cut."""
    for _ in range(1000):
        if made.refusals:
            return
        await asyncio.sleep(0)
    raise AssertionError("it was never cut")


async def settle() -> None:
    """Let everything that is ready run; nothing here waits for time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_open_connection_is_listed_counted_and_forgotten() -> None:
    here = world()
    first, second = connect(here, number=1), connect(here, number=2)
    assert len(here.connections) == 2
    assert [entry.connection for entry in here.connections.newest(1)] == [second]
    assert here.metric("uproxy_connections", direction="inbound") == 2
    close(here, first)
    assert [entry.connection for entry in here.connections] == [second]
    assert here.metric("istio_tcp_connections_opened_total", response_flags="-") == 2
    assert here.metric("istio_tcp_connections_closed_total", response_flags="-") == 1
    assert here.metric("uproxy_handshakes_total", cipher=FACTS.cipher) == 2
    assert here.connections.outcomes == {Outcome.CLOSED: 1}
    assert [record.outcome for record in here.records] == [Outcome.CLOSED]


async def test_bytes_are_counted_while_the_connection_lives_and_once_only() -> None:
    here = world()
    made = connect(here)
    made.bytes_received, made.bytes_sent = 100, 10
    assert here.metric("istio_tcp_received_bytes_total", source_principal=WEB.spiffe_id) == 100
    made.bytes_received = 150
    assert here.metric("istio_tcp_received_bytes_total") == 150
    close(here, made)
    assert here.metric("istio_tcp_received_bytes_total") == 150
    assert here.metric("istio_tcp_sent_bytes_total") == 10


async def test_totals_count_from_the_peer_to_us_in_both_directions() -> None:
    here = world()
    called, caller = (
        connect(here, number=1),
        connect(here, number=2, info=info_of(Direction.OUTBOUND)),
    )
    called.bytes_received, caller.bytes_received = 100, 10
    called.bytes_sent, caller.bytes_sent = 7, 70
    assert here.connections.totals() == Totals(opened=2, received=110, sent=77)


async def test_totals_are_current_and_count_refusals_apart_from_ordinary_ends() -> None:
    here = world()
    assert here.connections.totals() == Totals()
    first, second = connect(here, number=1), connect(here, number=2)
    first.bytes_received, second.bytes_sent = 100, 7
    assert here.connections.totals() == Totals(opened=2, received=100, sent=7)
    assert here.connections.active == 2
    close(here, first)
    close(here, second, Outcome.POLICY_CHANGED)
    for number, outcome in enumerate((Outcome.RESET, Outcome.PROBED, Outcome.DENIED)):
        refused = FakeConnection(arrival(number=10 + number))
        here.connections.never_opened(refused, ending(outcome), INBOUND)
    assert here.connections.totals() == Totals(opened=2, failed=2, received=100, sent=7)
    assert here.connections.active == 0


async def test_who_was_waited_for_in_vain_was_not_reached_but_silence_is_an_ordinary_end() -> None:
    here = world()
    close(here, connect(here, number=1), Outcome.TIMED_OUT)
    for state in (State.HANDSHAKING_DOWNSTREAM, State.CONNECTING, State.HANDSHAKING_UPSTREAM):
        waited = FakeConnection(arrival(number=10))
        here.connections.never_opened(waited, ending(Outcome.TIMED_OUT, state), INBOUND)
    assert here.connections.totals() == Totals(opened=1, failed=3)


async def test_a_connection_that_never_opened_is_a_failed_one() -> None:
    here = world()
    refused = FakeConnection(arrival(number=5))
    end = ending(
        Outcome.PEER_UNTRUSTED, State.HANDSHAKING_DOWNSTREAM, rule="X5-17", reason="no bundle"
    )
    here.connections.never_opened(refused, end, INBOUND)
    failed = here.metric("istio_tcp_connections_failed_total", response_flags="TLS_FAILURE")
    assert failed == 1
    assert here.metric("uproxy_handshake_failures_total", rule="X5-17") == 1
    [denial] = here.connections.denials
    assert (denial.door, denial.ending.reason, denial.identity) == ("api", "no bundle", None)


async def test_an_upstream_handshake_is_counted_here_only_if_it_took_too_long() -> None:
    here = world()
    for number, outcome in enumerate((Outcome.TIMED_OUT, Outcome.PEER_UNEXPECTED)):
        failed = FakeConnection(arrival(number=number))
        end = ending(outcome, State.HANDSHAKING_UPSTREAM)
        here.connections.never_opened(failed, end, info_of(Direction.OUTBOUND))
    assert here.metric("uproxy_handshake_failures_total", reason="timed_out") == 1
    assert here.metric("uproxy_handshake_failures_total") == 1


async def test_a_denied_callers_handshake_has_succeeded_all_the_same() -> None:
    here = world()
    denied = FakeConnection(arrival(peer(WEB, CA)), peer=peer(WEB, CA), tls=FACTS)
    here.connections.never_opened(denied, ending(Outcome.DENIED, State.ADMITTING), INBOUND)
    assert here.metric("uproxy_handshakes_total") == 1
    assert here.metric("uproxy_handshake_failures_total") == 0
    assert here.connections.denials[0].identity == WEB.spiffe_id


async def test_only_the_last_denials_are_kept_and_ordinary_ends_are_none() -> None:
    here = world()
    for number in range(KEPT_DENIALS + 3):
        refused = FakeConnection(arrival(number=number))
        end = ending(Outcome.NO_IDENTITY, State.ACCEPTED, reason=str(number))
        here.connections.never_opened(refused, end, INBOUND)
    close(here, connect(here, number=1000))
    reasons = [denial.ending.reason for denial in here.connections.denials]
    assert reasons == [str(number) for number in range(KEPT_DENIALS + 2, 2, -1)]


async def test_denials_that_are_alike_are_one_with_a_count_and_push_nobody_out() -> None:
    here = world()
    end = ending(Outcome.HANDSHAKE_FAILED, State.HANDSHAKING_DOWNSTREAM, reason="plain HTTP")
    other = replace(end, reason="signed by nobody")
    here.connections.never_opened(FakeConnection(arrival(number=0)), other, INBOUND)
    for number in range(1, KEPT_DENIALS + 3):
        source = TcpAddress("10.0.0.9", number)
        again = FakeConnection(replace(arrival(number=number), source=source))
        here.connections.never_opened(again, end, INBOUND)
    last, first = here.connections.denials
    assert (last.source, last.count) == (f"10.0.0.9:{KEPT_DENIALS + 2}", KEPT_DENIALS + 2)
    assert (first.ending.reason, first.count, first.since) == ("signed by nobody", 1, None)
    assert last.since is not None
    assert last.since <= last.at


@pytest.mark.parametrize(
    ("outcome", "state", "listed"),
    [
        (Outcome.CONNECT_FAILED, State.CONNECTING, True),
        (Outcome.TIMED_OUT, State.CONNECTING, True),
        (Outcome.NO_DESTINATION, State.ADMITTING, True),
        (Outcome.TIMED_OUT, State.HANDSHAKING_DOWNSTREAM, False),
        (Outcome.LIMIT, State.ACCEPTED, False),
    ],
)
async def test_what_is_not_reached_is_listed(outcome: Outcome, state: State, listed: bool) -> None:
    here = world()
    here.connections.never_opened(FakeConnection(arrival()), ending(outcome, state), INBOUND)
    assert [denial.ending.outcome for denial in here.connections.denials] == [outcome] * listed


async def test_who_was_probably_refused_there_is_listed_with_whom_it_called() -> None:
    here = world()
    info = info_of(Direction.OUTBOUND)
    close(here, connect(here, info=info), Outcome.RESET)
    close(here, connect(here, number=2, info=info), Outcome.PEER_REFUSED)
    [denial] = here.connections.denials
    assert (denial.direction, denial.identity) == (Direction.OUTBOUND, WEB.spiffe_id)
    flags = {"response_flags": "PEER_REFUSED", "reporter": "source"}
    assert here.metric("istio_tcp_connections_closed_total", **flags) == 1


async def test_what_a_stranger_claims_is_told_and_new_serial_numbers_make_no_new_rows() -> None:
    here = world()
    end = ending(Outcome.PEER_UNTRUSTED, State.HANDSHAKING_DOWNSTREAM, reason="no bundle")
    for name in ("a", "b"):
        for number in range(3):
            claim = Claim(f"spiffe://stranger.test/{name}", str(number))
            again = FakeConnection(arrival(number=number))
            here.connections.never_opened(again, replace(end, claim=claim), INBOUND)
    assert [(denial.ending.claim, denial.count) for denial in here.connections.denials] == [
        (Claim("spiffe://stranger.test/b", "2"), 3),
        (Claim("spiffe://stranger.test/a", "2"), 3),
    ]


async def test_a_host_that_is_refused_differently_each_time_pushes_only_itself_out() -> None:
    here = world()
    other = ending(
        Outcome.HANDSHAKE_FAILED, State.HANDSHAKING_DOWNSTREAM, reason="signed by nobody"
    )
    here.connections.never_opened(FakeConnection(arrival()), other, INBOUND)
    for number in range(KEPT_DENIALS + 3):
        source = TcpAddress("10.0.0.9", number)
        again = FakeConnection(replace(arrival(number=number), source=source))
        here.connections.never_opened(again, replace(other, reason=str(number)), INBOUND)
    reasons = [denial.ending.reason for denial in here.connections.denials]
    assert (len(reasons), reasons[-1]) == (KEPT_DENIALS, "signed by nobody")


async def test_callers_who_had_to_go_from_the_list_are_not_forgotten_altogether() -> None:
    here = world()
    denied = ending(Outcome.DENIED, State.ADMITTING)
    for number in range(KEPT_DENIALS):
        refuse(here, f"10.0.0.{number}", denied)
    assert here.connections.denials_lost == {}
    refuse(here, "10.0.0.99", replace(denied, reason="otherwise"))
    kind = Direction.INBOUND, Outcome.DENIED
    [first] = here.connections.denials_lost.items()
    assert first == (kind, here.now)
    here.pass_time(minutes=1)
    refuse(here, "10.0.0.98", denied)
    # when that one was refused, not when it had to go
    assert here.connections.denials_lost == dict([first])
    for number in range(KEPT_DENIALS):
        refuse(here, f"10.0.1.{number}", denied)
    assert here.connections.denials_lost == {kind: here.now}


async def test_whose_other_denials_are_in_the_list_is_not_lost() -> None:
    here = world()
    denied = ending(Outcome.DENIED, State.ADMITTING)
    for number in range(KEPT_DENIALS + 3):
        refuse(here, "10.0.0.9", replace(denied, reason=str(number)))
        failed = FakeConnection(arrival(number=number))
        end = replace(denied, outcome=Outcome.PEER_REFUSED, reason=str(number))
        info = replace(info_of(Direction.OUTBOUND), destination="db")
        here.connections.never_opened(failed, end, info)
    assert len(here.connections.denials) == KEPT_DENIALS
    assert here.connections.denials_lost == {}


def refuse(here: World, host: str, end: Ending) -> None:
    came = FakeConnection(replace(arrival(), source=TcpAddress(host, 1)))
    here.connections.never_opened(came, end, INBOUND)


async def test_debug_tells_each_accept_dial_and_handshake_by_the_connections_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "uproxy")
    here = world()
    connect(here)
    assert caplog.records == []
    caplog.set_level("DEBUG", "uproxy")
    connect(here, number=7)
    assert [record.getMessage() for record in caplog.records] == [
        "connection 7: accepted from 10.0.0.1:40000 at door api",
        f"connection 7: handshake with {WEB.spiffe_id} in 3.0 ms: {FACTS}",
        "connection 7: dialled 127.0.0.1:8080 from None",
    ]


async def test_a_probe_is_counted_apart_and_is_nobodys_failure() -> None:
    here = world()
    probe = FakeConnection(arrival())
    end = ending(
        Outcome.PROBED, State.HANDSHAKING_DOWNSTREAM, reason="closed without a ClientHello"
    )
    here.connections.never_opened(probe, end, INBOUND)
    assert here.metric("uproxy_probes_total", direction="inbound") == 1
    assert here.metric("uproxy_handshake_failures_total") == 0
    assert here.metric("istio_tcp_connections_failed_total") == 0
    assert here.connections.denials == ()
    assert here.connections.outcomes[Outcome.PROBED] == 1


async def test_a_defect_with_one_connection_cuts_that_one_and_the_others_are_still_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with judging(world()) as here:
        odd, web, late = connect(here), connect(here, number=2), connect(here, CART, 3, PARTNER)
        odd.peer = replace(peer(WEB, CA), chain=None)  # type: ignore[arg-type]  # no check is possible
        here.configure(settings(ANYBODY, ON))
        await eventually(lambda: web.refusals, "the caller behind it to be cut")
        assert [each.outcome for each in odd.refusals] == [Outcome.RESET]
        assert "a defect: connection 1 is cut unchecked" in caplog.text
        assert late.refusals == []
        close(here, odd)
        here.configure(settings(ANYBODY, RuleSettings("nobody", "deny", RuleFrom())))
        await eventually(lambda: late.refusals, "another reload to be obeyed")


async def test_a_connection_that_cannot_be_cut_keeps_no_other_from_being_checked(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_refusal: Refusal) -> None:
        raise ValueError("it can't be cut")

    async with judging(world()) as here:
        odd, web = connect(here), connect(here, number=2)
        monkeypatch.setattr(odd, "close", fail)
        here.configure(settings(ANYBODY, ON))
        await eventually(lambda: web.refusals, "the caller behind it to be cut")
        assert "it can't be cut" in caplog.text


async def test_a_connection_that_cannot_be_checked_when_it_opens_is_cut() -> None:
    here = world()
    odd = replace(peer(WEB, CA), chain=None)  # type: ignore[arg-type]  # no check is possible
    made = FakeConnection(arrival(odd), peer=odd, tls=FACTS)
    here.connections.admitted(INBOUND, made.arrival, here.snapshot.revision - 1)
    here.connections.opened(made)
    assert [each.outcome for each in made.refusals] == [Outcome.RESET]


async def test_a_new_policy_closes_whom_it_no_longer_allows() -> None:
    async with judging(world()) as here:
        web, cart = connect(here), connect(here, CART, 2, PARTNER)
        here.configure(settings(ANYBODY, ON))
        await eventually(lambda: web.refusals, "the caller to be cut")
        [refusal] = web.refusals
        assert refusal.outcome is Outcome.POLICY_CHANGED
        assert refusal.rule == "no-web"
        assert "denies spiffe://example.org/ns/web/sa/frontend" in refusal.reason
        assert not cart.refusals


async def test_on_policy_change_keep_keeps() -> None:
    async with judging(world()) as here:
        web = connect(here)
        here.configure(settings(on_policy_change="keep"))
        await settle()
        assert not web.refusals


async def test_a_policy_does_not_concern_outbound_connections() -> None:
    async with judging(world()) as here:
        made = connect(here, info=info_of(Direction.OUTBOUND))
        here.configure(settings())
        await settle()
        assert not made.refusals


async def test_what_changed_while_a_connection_was_connecting_counts() -> None:
    here = world()
    made = FakeConnection(arrival(peer(WEB, CA)), peer=peer(WEB, CA))
    here.connections.admitted(info_of(), made.arrival, here.snapshot.revision)
    here.configure(settings())
    here.connections.opened(made)
    assert [refusal.outcome for refusal in made.refusals] == [Outcome.POLICY_CHANGED]


@pytest.mark.parametrize("known", [True, False])
async def test_only_what_was_decided_under_what_is_in_force_is_not_judged_again(
    known: bool,
) -> None:
    """The policy refuses this caller, so that judging it would be seen."""
    here = world(ON)
    made = FakeConnection(arrival(peer(WEB, CA)), peer=peer(WEB, CA))
    revision = here.snapshot.revision if known else 0
    here.connections.admitted(info_of(), made.arrival, revision)
    here.connections.opened(made)
    assert bool(made.refusals) is not known


@pytest.mark.parametrize("direction", Direction)
async def test_a_bundle_that_is_gone_closes_its_domains_peers(direction: Direction) -> None:
    async with judging(world()) as here:
        cart = connect(here, CART, 1, PARTNER, info_of(direction))
        web = connect(here, WEB, 2, CA, info_of(direction))
        here.believe(credentials(OURS, CA, generation=2))
        await eventually(lambda: cart.refusals, "the peer to be cut")
        assert cart.refusals[0].outcome is Outcome.IDENTITY_DISTRUSTED
        assert cart.refusals[0].rule == "X5-17"
        assert not web.refusals


async def test_a_revoked_peer_is_cut_and_nobody_else() -> None:
    async with judging(world()) as here:
        web = connect(here, WEB, 1)
        other = connect(here, CA.issue("/ns/web/sa/other"), 2)
        here.believe(with_crl(here.credentials, CA, WEB))
        await eventually(lambda: web.refusals, "the revoked peer to be cut")
        assert web.refusals[0].rule == "UP-2"
        assert not other.refusals


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("revoked", [WEB, OURS], ids=["the peer", "we"])
async def test_whoever_was_judged_good_before_is_judged_anew_when_trust_changes(
    direction: Direction, revoked: Issued
) -> None:
    """A reload has open connections judged, and what was found is remembered for the next one."""
    async with judging(world()) as here:
        made = connect(here, info=info_of(direction))
        for idle in (1.0, 2.0):
            here.configure(replace(here.settings, timeouts=Timeouts(idle=idle)))
            await eventually(lambda: here.snapshot.verdicts, "it to be judged")
        assert not made.refusals
        here.believe(with_crl(here.credentials, CA, revoked))
        await eventually(lambda: made.refusals, "it to be cut")
        assert made.refusals[0].rule == "UP-2"


async def test_whoever_was_judged_bad_before_is_judged_anew_when_trust_changes() -> None:
    async with judging(world(on_distrust="keep")) as here:
        here.believe(with_crl(here.credentials, CA, WEB))
        made = connect(here)
        here.configure(replace(here.settings, timeouts=Timeouts(idle=1.0)))
        await eventually(lambda: here.snapshot.verdicts, "it to be judged")
        here.believe(with_crl(here.credentials, CA))
        here.configure(replace(here.settings, identity=IdentitySettings(on_distrust="close")))
        await settle()
        assert not made.refusals


async def test_on_distrust_keep_keeps() -> None:
    async with judging(world(on_distrust="keep")) as here:
        cart = connect(here, CART, 1, PARTNER)
        here.believe(credentials(OURS, CA, generation=2))
        here.believe(credentials(None, CA, generation=3))
        await settle()
        assert not cart.refusals


async def test_our_own_svid_withdrawn_closes_everything_under_it() -> None:
    async with judging(world()) as here:
        web, out = connect(here), connect(here, number=2, info=info_of(Direction.OUTBOUND))
        clear = FakeConnection(arrival(number=3))
        here.connections.admitted(plaintext(), clear.arrival, 0)
        here.connections.opened(clear)
        clear.refusals.clear()
        here.believe(credentials(None, CA, PARTNER, reason="the agent says: no identity issued"))
        await eventually(lambda: web.refusals and out.refusals, "both to be cut")
        assert web.refusals[0].outcome is Outcome.IDENTITY_DISTRUSTED
        assert "no identity issued" in web.refusals[0].reason
        assert all(each.outcome is Outcome.POLICY_CHANGED for each in clear.refusals)


async def test_our_own_certificate_revoked_closes_everything_under_it() -> None:
    async with judging(world()) as here:
        web = connect(here)
        here.believe(with_crl(here.credentials, CA, OURS))
        await eventually(lambda: web.refusals, "the connection to be cut")
        assert web.refusals[0].reason.startswith("our own the certificate")


async def test_a_bundle_of_our_own_domain_need_not_be_there() -> None:
    """Files may name only the domains of peers; then nothing can be said of our own chain."""
    async with judging(world()) as here:
        cart = connect(here, CART, 1, PARTNER)
        here.believe(credentials(OURS, PARTNER, generation=2))
        await settle()
        assert not cart.refusals


async def test_a_rotation_of_our_svid_closes_nothing() -> None:
    async with judging(world()) as here:
        web = connect(here)
        here.believe(credentials(CA.issue("/ns/db/sa/orders"), CA, PARTNER))
        await settle()
        assert not web.refusals


async def test_an_svid_that_expired_is_not_distrust_and_leaves_the_policy_as_it_was() -> None:
    rule = RuleSettings("web", "allow", RuleFrom(namespaces=("web",)))
    async with judging(world(rule)) as here:
        web = connect(here)
        here.now = OURS.svid.not_after + timedelta(seconds=1)
        here.believe(credentials(None, CA, PARTNER, generation=2, reason="our SVID expired"))
        await settle()
        assert not web.refusals


async def test_expiry_closes_only_if_told_to() -> None:
    for switch, outcomes in (("keep", []), ("close", [Outcome.IDENTITY_EXPIRED])):
        async with judging(world(on_expiry=switch)) as here:
            soon = CA.issue("/ns/web/sa/short", not_after=CA.now + timedelta(seconds=30))
            short, long = connect(here, soon, 1), connect(here, WEB, 2)
            await settle()
            assert not short.refusals
            here.pass_time(seconds=31)
            here.believe(credentials(OURS, CA, PARTNER, generation=2))
            await settle()
            assert [refusal.outcome for refusal in short.refusals] == outcomes
            assert not long.refusals


async def test_expiry_is_noticed_without_any_other_change() -> None:
    async with judging(world(on_expiry="close")) as here:
        soon = CA.issue("/ns/web/sa/short", not_after=CA.now + timedelta(seconds=1))
        short = connect(here, soon, 1)
        here.pass_time(seconds=0.95)
        connect(here, WEB, 2)
        here.configure(here.settings)
        await settle()
        assert not short.refusals
        here.pass_time(seconds=1)
        await eventually(lambda: short.refusals, "the expired connection to be cut")
        assert short.refusals[0].outcome is Outcome.IDENTITY_EXPIRED


async def test_judging_many_lets_the_loop_breathe_and_cuts_each_once() -> None:
    async with judging(world()) as here:
        many = [connect(here, number=number) for number in range(5 * SLICE)]
        here.configure(settings())
        await first_cut(many[0])
        assert not many[-1].refusals
        here.configure(settings(ON))
        await eventually(lambda: many[-1].refusals, "the last to be cut")
        await settle()
        assert all(len(made.refusals) == 1 for made in many)


async def test_a_connection_that_ends_during_the_pass_is_left_alone() -> None:
    async with judging(world()) as here:
        many = [connect(here, number=number) for number in range(2 * SLICE)]
        here.configure(settings())
        await first_cut(many[0])
        close(here, many[-1])
        await settle()
        assert not many[-1].refusals
        assert many[-2].refusals


async def test_stopping_in_the_moment_of_a_change_stops() -> None:
    here = world()
    await here.connections.start()
    await settle()
    here.configure(settings())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await here.connections.stop()


async def test_everything_is_cut_at_once_when_the_drain_is_over() -> None:
    here = world()
    made = [connect(here, number=number) for number in range(3)]
    refusal = Refusal(Outcome.DRAINED, "still open")
    assert here.connections.close_all(refusal) == 3
    here.connections.close_all(Refusal(Outcome.RESET, "once more"))
    assert [each.refusals for each in made] == [[refusal]] * 3


async def test_waiting_for_idle_waits_for_the_last_one_even_while_it_connects() -> None:
    here = world()
    made = connect(here, number=1)
    connecting = FakeConnection(arrival(peer(WEB, CA), number=2))
    here.connections.admitted(info_of(), connecting.arrival, 0)
    idle = here.connections.wait_until_idle(Direction.INBOUND, for_seconds=0)
    waiting = asyncio.create_task(idle)
    close(here, made)
    await settle()
    assert not waiting.done()
    end = ending(Outcome.CONNECT_FAILED, State.CONNECTING)
    here.connections.never_opened(connecting, end, INBOUND)
    await waiting


async def test_the_other_direction_is_not_waited_for() -> None:
    here = world()
    connect(here, number=1)
    await here.connections.wait_until_idle(Direction.OUTBOUND, for_seconds=0)


async def test_idle_for_a_while_begins_anew_with_every_connection() -> None:
    here = world()
    loop = asyncio.get_running_loop()
    idle = here.connections.wait_until_idle(Direction.INBOUND, for_seconds=0.1)
    waiting = asyncio.create_task(idle)
    await settle()
    made = connect(here, number=1)
    await settle()
    close(here, made)
    closed_at = loop.time()
    await waiting
    # the loop's timers may fire a clock's tick early
    assert loop.time() - closed_at >= 0.095


class Unwilling:
    """An access log that wants denials only."""

    def __init__(self) -> None:
        self.taken: list[Outcome] = []

    def wants(self, outcome: Outcome) -> bool:
        return outcome is Outcome.DENIED

    def access(self, record: AccessRecord) -> None:
        self.taken.append(record.outcome)


async def test_only_what_the_access_log_wants_is_made_a_record() -> None:
    here, log = world(), Unwilling()
    here.connections = Connections(here.snapshot, here.metrics, log)
    for number, outcome in enumerate((Outcome.CLOSED, Outcome.DENIED, Outcome.RESET)):
        close(here, connect(here, number=number), outcome)
    assert log.taken == [Outcome.DENIED]
    assert sum(here.connections.outcomes.values()) == 3


def calling(identities: tuple[str, ...], transport: Transport = Transport.MTLS) -> Settings:
    to = DestinationSettings("db", (TcpAddress("10.0.0.7", 5432),), transport, identities)
    return settings(ANYBODY, destinations={"db": to})


def dialling(here: World, *, clear: bool = False) -> FakeConnection:
    """Open, to the destination `db`."""
    info = replace(info_of(Direction.OUTBOUND), destination="db")
    if not clear:
        return connect(here, info=info)
    made = FakeConnection(arrival(number=7))
    info = replace(info, transport=Transport.PLAINTEXT, own=None)
    here.connections.admitted(info, made.arrival, here.snapshot.revision)
    here.connections.opened(made)
    return made


async def test_a_peer_that_identities_name_no_longer_is_cut_as_a_change_of_policy() -> None:
    async with judging(world()) as here:
        here.configure(calling((WEB.spiffe_id,)))
        made = dialling(here)
        here.configure(calling((WEB.spiffe_id, OURS.spiffe_id)))
        await settle()
        assert not made.refusals
        here.configure(calling((OURS.spiffe_id,)))
        await eventually(lambda: made.refusals, "the connection to be cut")
        [refusal] = made.refusals
        assert refusal.outcome is Outcome.POLICY_CHANGED
        assert refusal.reason.startswith(f"wanted {OURS.spiffe_id}, found {WEB.spiffe_id}")


async def test_identities_that_change_are_a_matter_of_on_policy_change() -> None:
    async with judging(world()) as here:
        here.configure(calling((WEB.spiffe_id,)))
        made = dialling(here)
        here.configure(replace(calling((OURS.spiffe_id,)), on_policy_change="keep"))
        await settle()
        assert not made.refusals


async def test_a_connection_in_clear_goes_when_its_destination_becomes_mtls_and_not_otherwise() -> (
    None
):
    async with judging(world()) as here:
        here.configure(calling((), Transport.PLAINTEXT))
        clear = dialling(here, clear=True)
        here.configure(replace(calling((), Transport.PLAINTEXT), authorization=()))
        await settle()
        assert not clear.refusals
        here.configure(calling((WEB.spiffe_id,)))
        await eventually(lambda: clear.refusals, "the connection to be cut")
        assert clear.refusals[0].reason == (
            "destination db is mtls now, and this connection is in clear"
        )


async def test_a_connection_in_clear_goes_when_its_door_becomes_mtls() -> None:
    in_clear = RuleSettings("in-clear", "allow", RuleFrom(unauthenticated=True))

    def door(transport: Transport, name: str = "api") -> InboundSettings:
        here, application = TcpAddress("127.0.0.1", 8443), TcpAddress("127.0.0.1", 8080)
        return InboundSettings(name, here, transport, application)

    async with judging(world(in_clear)) as here:
        here.configure(settings(in_clear, inbound=(door(Transport.PLAINTEXT),)))
        clear = FakeConnection(arrival())
        here.connections.admitted(plaintext(), clear.arrival, here.snapshot.revision)
        here.connections.opened(clear)
        here.configure(settings(in_clear, inbound=(door(Transport.MTLS, "another"),)))
        await settle()
        assert not clear.refusals
        mutual = settings(in_clear, inbound=(door(Transport.MTLS),))
        here.configure(replace(mutual, on_policy_change="keep"))
        await settle()
        assert not clear.refusals
        here.configure(mutual)
        await eventually(lambda: clear.refusals, "the connection to be cut")
        assert clear.refusals[0].outcome is Outcome.POLICY_CHANGED
        assert clear.refusals[0].reason == "door api is mtls now, and this connection is in clear"


@pytest.mark.parametrize("then", ["gone", "plaintext"])
async def test_a_destination_that_is_gone_or_in_clear_expects_nobody_and_cuts_nobody(
    then: str,
) -> None:
    async with judging(world()) as here:
        here.configure(calling((WEB.spiffe_id,)))
        made = dialling(here)
        gone = settings(ANYBODY)
        here.configure(gone if then == "gone" else calling((), Transport.PLAINTEXT))
        await settle()
        assert not made.refusals


async def test_who_is_admitted_again_is_counted_once_and_judged_by_the_last_decision() -> None:
    here = world()
    made = FakeConnection(arrival(peer(WEB, CA)), peer=peer(WEB, CA))
    here.connections.admitted(INBOUND, made.arrival, here.snapshot.revision)
    here.configure(settings(ANYBODY, ON))
    here.connections.admitted(INBOUND, made.arrival, here.snapshot.revision)
    assert here.metric("uproxy_connections", direction="inbound") == 1
    here.connections.opened(made)
    assert not made.refusals  # the door that admitted it last had looked
    close(here, made)
    assert here.metric("uproxy_connections", direction="inbound") == 0
