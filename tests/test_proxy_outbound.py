from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import cast

import pytest

from tests.helpers.connections import FakeConnection, ending
from tests.helpers.outbound import APPLICATION, admitted, app, current, refused
from tests.helpers.world import World, credentials, peer, settings, with_crl
from uproxy.config.settings import DestinationSettings, MatchSettings, OutboundSettings
from uproxy.contract import (
    PLAIN,
    Arrival,
    Door,
    OnClosed,
    Refusal,
    RefusedError,
    Route,
    TlsPlan,
    Tunnel,
)
from uproxy.lab.pki import Authority
from uproxy.lifecycle import ENDINGS, State
from uproxy.model import Address, Direction, Outcome, Role, TcpAddress, Timeouts, Transport
from uproxy.proxy.outbound import MAX_PORTS, DestinationRoutes, OutboundDoor
from uproxy.proxy.services import PER_ORIGINAL, PER_PEER

CA = Authority("example.org")
OURS = CA.issue("/ns/web/sa/frontend")
DB = CA.issue("/ns/db/sa/orders")
LISTEN = TcpAddress("127.0.0.1", 5432)
A, B = TcpAddress("10.0.0.7", 5432), TcpAddress("10.0.0.8", 5432)
NAME = TcpAddress("db.internal", 5432)


def make(
    *addresses: Address,
    transport: Transport = Transport.MTLS,
    identities: tuple[str, ...] = (DB.spiffe_id,),
    idle: float | None = None,
    identity: bool = True,
) -> tuple[World, OutboundDoor]:
    to = DestinationSettings("db", addresses or (A, B), transport, identities, ("h2",), idle)
    door = OutboundSettings(LISTEN, "db")
    config = settings(outbound=(door,), destinations={"db": to}, timeouts=Timeouts(idle=7))
    here = World(config, credentials(OURS if identity else None, CA), now=CA.now)
    return here, current(here)


def live(door: OutboundDoor, number: int = 1) -> tuple[FakeConnection, OnClosed]:
    """Open, to the candidate preferred."""
    route = admitted(door, number)
    dialled = route.candidates[0].addresses[0]
    found = peer(DB, CA, Role.SERVER) if route.upstream.plan else None
    made = FakeConnection(app(number), route=route, peer=found, dialled=dialled)
    door.attempted(route, route.candidates[0], None)
    return made, door.opened(made)


def test_it_is_a_door_for_engines_and_speaks_in_clear_with_the_application() -> None:
    _, made = make()
    door: Door = made
    assert (door.name, door.direction) == ("127.0.0.1:5432", Direction.OUTBOUND)
    assert door.timeouts == Timeouts(idle=7)
    assert door.tls() is None


def test_a_connection_goes_to_the_destination_under_our_identity() -> None:
    _, door = make()
    route = admitted(door)
    assert route.destination == "db"
    assert [candidate.addresses for candidate in route.candidates] == [(A,), (B,)]
    assert route.upstream.plan is not None
    assert (route.upstream.plan.role, route.upstream.plan.own.chain) == (Role.CLIENT, OURS.der)
    assert route.upstream.plan.alpn == ("h2",)
    assert admitted(door, 2).upstream.plan is route.upstream.plan


def test_only_the_identities_expected_may_answer() -> None:
    _, door = make()
    plan = admitted(door).upstream.plan
    assert plan is not None
    assert plan.verify(DB.der).spiffe_id == DB.spiffe_id
    with pytest.raises(RefusedError, match=f"wanted {DB.spiffe_id}, found"):
        plan.verify(CA.issue("/ns/db/sa/impostor").der)


def test_a_destination_that_expects_nobody_accepts_nobody() -> None:
    _, door = make(identities=())
    plan = admitted(door).upstream.plan
    assert plan is not None
    with pytest.raises(RefusedError):
        plan.verify(DB.der)


def test_without_an_identity_nothing_leaves_in_clear_instead() -> None:
    here, door = make(identity=False)
    assert refused(door).outcome is Outcome.NO_IDENTITY
    here.believe(credentials(OURS, CA, generation=2))
    assert admitted(current(here)).upstream.plan is not None


def test_a_plaintext_destination_needs_no_identity() -> None:
    _, door = make(transport=Transport.PLAINTEXT, identities=(), identity=False)
    assert admitted(door).upstream.plan is None


def test_a_rotation_is_shown_to_the_next_connection() -> None:
    here, door = make()
    before = admitted(door).upstream.plan
    newer = CA.issue("/ns/web/sa/frontend")
    here.believe(credentials(newer, CA))
    after = admitted(current(here), 2).upstream.plan
    assert before is not None
    assert after is not None
    assert before is not after
    assert after.own.chain == newer.der


def test_a_destinations_own_idle_time_stands_before_the_general_one() -> None:
    _, door = make(idle=0.0)
    assert admitted(door).timeouts.idle == 0.0
    _, door = make()
    assert admitted(door).timeouts.idle == 7


def test_a_destination_without_an_address_yet_is_said_so() -> None:
    here, door = make(NAME)
    refusal = refused(door)
    assert refusal.outcome is Outcome.CONNECT_FAILED
    assert refusal.reason == "db.internal:5432 has not been resolved yet"
    here.failing[NAME] = "nobody knows it"
    assert refused(door).reason == "db.internal:5432 can't be resolved: nobody knows it"
    here.resolve(NAME, B)
    assert admitted(current(here)).candidates[0].addresses == (B,)


async def test_the_least_loaded_endpoint_comes_first_until_its_connection_ends() -> None:
    here, door = make()
    endpoints = here.endpoints(Direction.OUTBOUND, "db")
    (first, end_first), (second, _), (third, end_third) = (
        live(door, number) for number in range(3)
    )
    assert sorted(endpoints.connections.values()) == [1, 2]
    assert {first.dialled, second.dialled} == {A, B}
    end_third(third, ending())
    end_first(first, ending())
    assert endpoints.connections == {second.dialled: 1}
    assert admitted(door, 4).candidates[0].addresses == (first.dialled,)


async def test_a_failing_endpoint_is_passed_over_by_the_next_connection() -> None:
    _, door = make()
    route = admitted(door)
    door.attempted(route, route.candidates[0], Refusal(Outcome.PEER_UNTRUSTED, "no bundle"))
    assert [each.addresses for each in admitted(door, 2).candidates] == [(B,)]


async def test_the_log_and_the_metrics_know_who_answered() -> None:
    here, door = make()
    made, closed = live(door)
    made.bytes_sent = 9
    labels = {
        "reporter": "source", "source_principal": OURS.spiffe_id,
        "destination_principal": DB.spiffe_id, "destination_port": "5432",
    }  # fmt: skip
    assert here.metric("istio_tcp_received_bytes_total", **labels) == 9
    closed(made, ending(bytes_sent=9))
    fields = dict(here.records[0].fields)
    assert fields["src.addr"] == str(APPLICATION)
    assert fields["dst.identity"] == DB.spiffe_id
    assert fields["direction"] == "outbound"


async def test_a_connection_is_known_by_the_svid_it_showed() -> None:
    here, door = make()
    made, _ = live(door)
    here.believe(credentials(CA.issue("/ns/web/sa/frontend"), CA))
    [entry] = here.connections
    assert entry.connection is made
    assert entry.info.own is not None
    assert entry.info.own.chain == OURS.der


def test_a_plan_stays_while_nothing_changes_that_it_is_made_of() -> None:
    here, door = make()
    plan = admitted(door).upstream.plan
    here.configure(replace(here.settings, timeouts=Timeouts(idle=8)))
    assert admitted(current(here), 2).upstream.plan is plan


def test_a_door_leads_where_its_own_snapshot_says_and_in_no_other_way() -> None:
    here, door = make(A)
    before = here.snapshot.revision
    to = replace(here.settings.destinations["db"], addresses=(B,), identities=())
    clear = replace(to, transport=Transport.PLAINTEXT, alpn=())
    here.configure(replace(here.settings, destinations={"db": clear}))
    route = admitted(door)
    assert ([each.addresses for each in route.candidates], route.revision) == ([(A,)], before)
    assert isinstance(route.upstream.plan, TlsPlan)
    route = admitted(current(here), 2)
    assert ([each.addresses for each in route.candidates], route.upstream.plan) == ([(B,)], None)


def test_an_arrival_that_shook_hands_is_nothing_to_an_outbound_door() -> None:
    _, door = make()
    plan = admitted(door).upstream.plan
    refusal = door.admit(replace(app(), tls=plan))
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.POLICY_CHANGED


async def test_a_failed_connection_is_logged_with_the_identity_it_showed() -> None:
    here, door = make()
    route = admitted(door)
    here.believe(credentials(CA.issue("/ns/web/sa/renamed"), CA))
    end = ending(Outcome.HANDSHAKE_FAILED, State.HANDSHAKING_UPSTREAM)
    for number, reporting in enumerate((door, current(here)), start=2):
        reporting.closed(FakeConnection(app(number), route=route, dialled=A), end)
    shown = [dict(record.fields)["src.identity"] for record in here.records]
    assert shown == [OURS.spiffe_id] * 2


async def test_a_refused_connection_occupies_nothing() -> None:
    here, door = make(identity=False)
    refusal = refused(door)
    end = ending(refusal.outcome, State.ADMITTING, reason=refusal.reason)
    door.closed(FakeConnection(app(), dialled=None), end)
    assert here.metric("uproxy_connections") == 0
    assert here.metric("istio_tcp_connections_failed_total", destination_port="5432") == 1


def repeated(door: OutboundDoor, route: Route, number: int) -> tuple[FakeConnection, OnClosed]:
    """Sent on its way by the engine alone, and open."""
    door.admitted_from_cache(app(number), route)
    found = peer(DB, CA, Role.SERVER) if route.upstream.plan else None
    made = FakeConnection(app(number), route=route, peer=found, dialled=A)
    return made, door.opened(made)


def test_a_route_stands_for_everybody_if_there_is_nothing_to_choose() -> None:
    _, door = make(A)
    assert admitted(door).cache_scope == PER_PEER
    _, door = make(A, transport=Transport.PLAINTEXT, identities=(), identity=False)
    assert admitted(door).cache_scope == PER_PEER
    _, door = make(A, B)
    assert admitted(door).cache_scope is None


def test_one_usable_endpoint_of_two_is_a_choice_that_may_soon_be_another() -> None:
    _, door = make(A, B)
    route = admitted(door)
    door.attempted(route, route.candidates[0], Refusal(Outcome.CONNECT_FAILED, "refused"))
    again = admitted(door, 2)
    assert len(again.candidates) == 1
    assert again.cache_scope is None


async def test_a_repeated_route_is_registered_as_if_it_had_been_asked_for() -> None:
    here, door = make(A)
    first, _ = live(door)
    assert first.route is not None
    made, closed = repeated(door, first.route, 2)
    assert not made.refusals
    assert here.metric("uproxy_connections", direction="outbound") == 2
    assert here.endpoints(Direction.OUTBOUND, "db").connections == {A: 2}
    live(door, 3)
    # one for all of a destination's: it counts in what a connection costs
    newest, between, oldest = (entry.info for entry in here.connections)
    assert newest is between is oldest
    closed(made, ending())
    assert dict(here.records[0].fields)["src.identity"] == OURS.spiffe_id
    assert here.endpoints(Direction.OUTBOUND, "db").connections == {A: 2}


async def test_a_repeat_that_is_told_after_the_trust_changed_is_judged_when_it_is_open() -> None:
    here, door = make(A)
    route = admitted(door)
    here.believe(with_crl(here.credentials, CA, DB))
    made, _ = repeated(door, route, 2)
    assert [refusal.outcome for refusal in made.refusals] == [Outcome.IDENTITY_DISTRUSTED]


async def test_a_handshake_under_an_earlier_svid_is_known_by_it_and_judged_once_more() -> None:
    here, door = make(A)
    before = admitted(door).upstream
    here.believe(with_crl(credentials(CA.issue("/ns/web/sa/frontend"), CA), CA, OURS))
    route = replace(admitted(current(here), 2), upstream=before)
    made = FakeConnection(app(2), route=route, peer=peer(DB, CA, Role.SERVER), dialled=A)
    current(here).opened(made)
    [refusal] = made.refusals
    assert refusal.outcome is Outcome.IDENTITY_DISTRUSTED
    assert refusal.reason.startswith("our own ")


# Destinations chosen by what a connection was meant for.

MEANT = TcpAddress("10.9.0.7", 5433)


async def test_a_door_that_leads_to_one_destination_refuses_what_was_meant_for_an_address() -> None:
    here, door = make()
    refusal = door.admit(replace(app(), target=MEANT))
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.NO_DESTINATION
    assert refusal.outcome in ENDINGS[State.ADMITTING]
    assert refusal.reason == (
        "door 127.0.0.1:5432 leads to db alone, and this was meant for 10.9.0.7:5433"
    )
    end = ending(refusal.outcome, State.ADMITTING, reason=refusal.reason)
    door.closed(FakeConnection(replace(app(), target=MEANT), dialled=None), end)
    assert here.metric("uproxy_connections") == 0
    assert here.metric("istio_tcp_connections_failed_total", destination_port="5433") == 1
    fields = dict(here.records[0].fields)
    assert (fields["direction"], fields["transport"]) == ("outbound", "plaintext")


# What capture brings.

REST = MatchSettings((ip_network("0.0.0.0/0"), ip_network("::/0")))


def make_captured(*destinations: DestinationSettings, expose: bool = False) -> World:
    door = OutboundSettings(CAPTURE, expose=expose, captured=True)
    named = {each.name: each for each in destinations}
    config = settings(outbound=(door,), destinations=named)
    return World(config, credentials(OURS, CA), now=CA.now)


CAPTURE = TcpAddress("::", 15001)
DB_TO = DestinationSettings(
    "db", (A,), Transport.MTLS, (DB.spiffe_id,), match=MatchSettings((ip_network("10.9.0.0/16"),))
)
CLEAR_TO = DestinationSettings("clear", (), Transport.PLAINTEXT, match=REST)


def captured(target: TcpAddress, number: int = 1, **how: object) -> Arrival:
    """As netfilter redirects it."""
    made = replace(app(number), target=target, local=TcpAddress("127.0.0.1", 15001))
    return replace(made, **how)  # type: ignore[arg-type]  # the caller's


async def test_one_door_can_lead_to_many_destinations() -> None:
    """Each has its own endpoints, identity and labels."""
    here = make_captured(DB_TO, CLEAR_TO)
    door = current(here)
    elsewhere = TcpAddress("192.0.2.7", 5433)
    ways = {MEANT: ("db", A), elsewhere: ("clear", elsewhere)}
    for number, (target, (name, address)) in enumerate(ways.items(), start=1):
        arrived = captured(target, number)
        route = door.admit(arrived)
        assert isinstance(route, Route)
        assert (route.destination, route.candidates[0].addresses) == (name, (address,))
        assert (route.upstream == PLAIN) is (name == "clear")
        found = None if name == "clear" else peer(DB, CA, Role.SERVER)
        made = FakeConnection(arrived, route=route, peer=found, dialled=address)
        door.opened(made)
        assert here.endpoints(Direction.OUTBOUND, name).connections == {address: 1}
    newest, oldest = here.connections
    assert (newest.info.destination, newest.info.own) == ("clear", None)
    assert (oldest.info.destination, oldest.info.own is not None) == ("db", True)
    assert (newest.info.port, oldest.info.port) == (5433, 5432)


async def test_a_failure_is_told_of_the_destination_that_it_happened_at() -> None:
    other = replace(DB_TO, name="other", match=MatchSettings((ip_network("10.8.0.0/16"),)))
    here = make_captured(DB_TO, other)
    door = current(here)
    route = door.admit(captured(TcpAddress("10.8.0.1", 1)))
    assert isinstance(route, Route)
    door.attempted(route, route.candidates[0], Refusal(Outcome.CONNECT_FAILED, "no"))
    assert here.endpoints(Direction.OUTBOUND, "other").failing(A, here.at)
    assert not here.endpoints(Direction.OUTBOUND, "db").failing(A, here.at)


@pytest.mark.parametrize("transport", [Transport.MTLS, Transport.HBONE])
def test_without_addresses_a_captured_connection_goes_where_it_was_made_to(
    transport: Transport,
) -> None:
    to = replace(DB_TO, addresses=(), transport=transport)
    door = current(make_captured(to))
    for target in (MEANT, replace(MEANT, port=99)):
        route = door.admit(captured(target))
        assert isinstance(route, Route)
        assert [each.addresses for each in route.candidates] == [(target,)]
        assert route.candidates[0].server_name is None
        if transport is Transport.HBONE:
            assert isinstance(route.upstream, Tunnel)
            assert route.upstream.end == 15008
        assert route.cache_scope == PER_ORIGINAL


def test_a_server_name_is_sent_to_original_destinations_too() -> None:
    door = current(make_captured(replace(DB_TO, addresses=(), server_name="db.example")))
    route = door.admit(captured(MEANT))
    assert isinstance(route, Route)
    assert route.candidates[0].server_name == "db.example"


def test_the_labels_of_original_destinations_are_shared_and_bounded() -> None:
    here = make_captured(CLEAR_TO)
    door = current(here)
    infos = []
    most = 0
    for number, port in enumerate((*range(1, 2 * MAX_PORTS - 9), 1, 2, 1), start=1):
        arrived = captured(TcpAddress("192.0.2.7", port), number)
        route = door.admit(arrived)
        assert isinstance(route, Route)
        door.opened(FakeConnection(arrived, route=route, dialled=arrived.target))
        [newest, *_] = here.connections
        infos.append(newest.info)
        routes = cast("DestinationRoutes", route.door_data)
        most = max(most, len(routes._by_port))
    assert [each.port for each in infos[:3]] == [1, 2, 3]
    assert infos[-1] is infos[-3]
    assert door.migrating_ports == frozenset()
    assert infos[-1] is not infos[0]
    assert most == MAX_PORTS


async def test_a_captured_connection_that_goes_nowhere_is_logged_as_refused() -> None:
    here = make_captured(DB_TO)
    door = current(here)
    arrived = captured(TcpAddress("192.0.2.7", 80))
    refusal = door.admit(arrived)
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.NO_DESTINATION
    assert refusal.reason == "no destination has a `match` for 192.0.2.7:80"
    end = ending(refusal.outcome, State.ADMITTING, reason=refusal.reason)
    door.closed(FakeConnection(arrived, dialled=None), end)
    fields = dict(here.records[0].fields)
    assert (fields["destination"], fields["outcome"]) == (None, "no_destination")


# Through tunnels.


def make_hbone(**how: object) -> tuple[World, OutboundDoor]:
    to = DestinationSettings("db", (A, B), Transport.HBONE, (DB.spiffe_id,), **how)  # type: ignore[arg-type]  # the caller's
    config = settings(outbound=(OutboundSettings(LISTEN, "db"),), destinations={"db": to})
    here = World(config, credentials(OURS, CA), now=CA.now)
    return here, current(here)


def tunnelled(door: OutboundDoor, end: TcpAddress) -> tuple[FakeConnection, OnClosed]:
    made, _closed = live(door)
    made.tunnel_end = end
    return made, _closed


def test_a_route_through_tunnels_names_the_applications_addresses() -> None:
    _, door = make_hbone()
    route = admitted(door)
    assert isinstance(route.upstream, Tunnel)
    assert route.upstream.end == 15008
    assert [each.addresses for each in route.candidates] == [(A,), (B,)]
    assert door.tunnels is None


def test_who_may_answer_is_checked_in_the_tunnels_handshake() -> None:
    _, door = make_hbone()
    plan = admitted(door).upstream.plan
    assert plan is not None
    assert plan.verify(DB.der).spiffe_id == DB.spiffe_id
    with pytest.raises(RefusedError, match="wanted"):
        plan.verify(OURS.der)


async def test_a_stream_is_logged_with_the_end_of_its_tunnel_and_counted_by_its_port() -> None:
    here, door = make_hbone()
    end = TcpAddress("10.0.0.7", 15008)
    made, closed = tunnelled(door, end)
    assert here.metric("uproxy_hbone_streams", direction="outbound") == 1
    closed(made, ending())
    fields = dict(here.records[0].fields)
    assert (fields["dst.addr"], fields["dst.hbone_addr"]) == ("10.0.0.7:15008", "10.0.0.7:5432")
    assert (fields["transport"], fields["dst.identity"]) == ("hbone", DB.spiffe_id)
    opened = "istio_tcp_connections_opened_total"
    labels = {"destination_port": "5432", "connection_security_policy": "mutual_tls"}
    assert here.metric(opened, reporter="source", **labels) == 1
    assert here.endpoints(Direction.OUTBOUND, "db").connections == {}


async def test_an_address_whose_tunnel_fails_is_passed_over_like_any_other() -> None:
    _, door = make_hbone()
    route = admitted(door)
    door.attempted(route, route.candidates[0], Refusal(Outcome.CONNECT_FAILED, "refused"))
    assert [each.addresses for each in admitted(door, 2).candidates] == [(B,)]


async def test_an_outbound_door_is_never_told_of_tunnels() -> None:
    _, door = make_hbone()
    with pytest.raises(AssertionError, match="can't carry streams"):
        door.carrying(FakeConnection())
