"""An outbound door whose destination is reached through an L7 proxy."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from tests.helpers.connections import FakeConnection, ending
from tests.helpers.outbound import admitted, app, current, refused
from tests.helpers.world import World, credentials, peer, settings
from uproxy.addresses import Addresses
from uproxy.config.settings import (
    DestinationSettings,
    L7EndpointSettings,
    L7ProxySettings,
    MatchSettings,
    OutboundSettings,
)
from uproxy.contract import Candidate, OnClosed, Refusal, Route, Tunnel
from uproxy.destinations import L7, Endpoints
from uproxy.lab.pki import Authority
from uproxy.lifecycle import State
from uproxy.model import Direction, Outcome, Role, TcpAddress, Transport
from uproxy.proxy.outbound import OutboundDoor
from uproxy.proxy.services import PER_ORIGINAL, PER_PEER

CA = Authority("example.org")
OURS = CA.issue("/ns/web/sa/frontend")
ENVOY = CA.issue("/ns/mesh/sa/l7")
REVIEWS = CA.issue("/ns/shop/sa/reviews")
LISTEN = TcpAddress("127.0.0.1", 8080)
ONE, OTHER = (TcpAddress(f"10.0.0.{n}", 15008) for n in (9, 10))
A, B = (TcpAddress(f"10.1.0.{n}", 8080) for n in (1, 2))
NAME = TcpAddress("l7.internal", 15008)
Ways = list[tuple[TcpAddress, TcpAddress | None]]


def make(
    *ends: TcpAddress,
    apps: tuple[TcpAddress, ...] = (A,),
    draining: frozenset[TcpAddress] = frozenset(),
    bypass: bool = False,
    identity: bool = True,
) -> tuple[World, OutboundDoor]:
    endpoints = tuple(L7EndpointSettings(each, each in draining) for each in ends)
    when = "bypass" if bypass else "refuse"
    proxy = L7ProxySettings("l7", endpoints, (ENVOY.spiffe_id,), when)
    to = DestinationSettings("reviews", apps, Transport.HBONE, (REVIEWS.spiffe_id,), via="l7")
    config = settings(
        outbound=(OutboundSettings(LISTEN, "reviews"),),
        destinations={"reviews": to},
        l7_proxies={"l7": proxy},
    )
    here = World(config, credentials(OURS if identity else None, CA), now=CA.now)
    return here, current(here)


def end_of(route: Route, candidate: Candidate) -> TcpAddress | None:
    """The L7 proxy's address; None: straight there."""
    upstream = route.upstream_of(candidate)
    assert isinstance(upstream, Tunnel)
    return upstream.end if isinstance(upstream.end, TcpAddress) else None


def ways(route: Route) -> Ways:
    """Each candidate's application, and the address of the L7 proxy."""
    return [
        (address, end_of(route, each))
        for each in route.candidates
        for address in each.addresses
        if isinstance(address, TcpAddress)
    ]


def live(door: OutboundDoor, number: int = 1, at: int = 0) -> tuple[FakeConnection, OnClosed]:
    """Open, at a candidate of the route."""
    route = admitted(door, number)
    candidate = route.candidates[at]
    end = end_of(route, candidate)
    made = FakeConnection(
        app(number),
        route=route,
        peer=peer(REVIEWS if end is None else ENVOY, CA, Role.SERVER),
        dialled=candidate.addresses[0],
        tunnel_end=end or replace(A, port=15008),
        via=None if end is None else "l7",
    )
    door.attempted(route, candidate, None)
    return made, door.opened(made)


def fail(door: OutboundDoor, outcome: Outcome, at: int = 0, number: int = 1) -> None:
    route = admitted(door, number)
    door.attempted(route, route.candidates[at], Refusal(outcome, "for this reason"))


def l7(here: World) -> Endpoints:
    return here.all_endpoints[L7, "l7"]


def addresses(here: World) -> Addresses:
    return here.snapshot.destinations["reviews"].addresses


def behind(here: World) -> Endpoints:
    return here.endpoints(Direction.OUTBOUND, "reviews")


async def test_the_least_loaded_address_comes_first() -> None:
    here, door = make(ONE, OTHER)
    assert ways(admitted(door)) == [(A, ONE), (A, OTHER)]
    _made, closed = live(door, 2)
    before = {**l7(here).connections}
    assert len(before) == 1
    [busy] = before
    for number in range(3, 7):
        assert ways(admitted(door, number))[-1][1] == busy
    closed(_made, ending())
    assert l7(here).connections == {}


async def test_it_is_counted_by_the_address_as_configured() -> None:
    here, _door = make(NAME)
    here.resolve(NAME, ONE)
    live(current(here))
    labels = {"l7_proxy": "l7", "endpoint": str(NAME)}
    assert here.metric("uproxy_l7_streams_total", **labels) == 1


def test_an_address_that_is_unavailable_is_passed_over_for_every_destination() -> None:
    here, door = make(ONE, OTHER)
    failed = end_of(route := admitted(door), route.candidates[0])
    door.attempted(route, route.candidates[0], Refusal(Outcome.L7_UNAVAILABLE, "no answer"))
    assert failed is not None
    assert l7(here).failing(failed, here.at)
    assert not behind(here).failing(A, here.at)
    assert [end for _app, end in ways(admitted(door, 2))] == [{ONE: OTHER, OTHER: ONE}[failed]]
    labels = {"l7_proxy": "l7", "outcome": "l7_unavailable"}
    assert here.metric("uproxy_l7_failures_total", **labels) == 1


def test_an_address_is_said_to_be_passed_over_once_for_all_who_meet_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, door = make(ONE)
    for number in range(3):
        fail(door, Outcome.L7_UNAVAILABLE, number=number + 1)
    assert caplog.messages == ["for this reason; it is passed over for a while"]
    kind = caplog.records[0].uproxy_kind  # type: ignore[attr-defined]  # of `alike`
    assert kind[1:] == ("l7", "l7", str(ONE))
    here.at += 2.0
    fail(door, Outcome.L7_UNAVAILABLE, number=4)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("outcome", [Outcome.PEER_UNEXPECTED, Outcome.PEER_UNTRUSTED])
def test_an_address_with_another_identity_is_passed_over_and_its_handshake_counted(
    outcome: Outcome,
) -> None:
    here, door = make(ONE)
    fail(door, outcome)
    assert l7(here).failing(ONE, here.at)
    assert here.metric("uproxy_handshake_failures_total", reason=outcome.value) == 1
    here, door = make(ONE)
    fail(door, Outcome.L7_UNAVAILABLE)
    assert here.metric("uproxy_handshake_failures_total") == 0


def test_an_application_that_is_refused_is_passed_over_and_not_the_l7_proxy() -> None:
    here, door = make(ONE, apps=(A, B))
    route = admitted(door)
    [refusing, other] = [address for address, _end in ways(route)]
    door.attempted(route, route.candidates[0], Refusal(Outcome.L7_REFUSED, "403"))
    assert not l7(here).failing(ONE, here.at)
    assert behind(here).failing(refusing, here.at)
    assert ways(admitted(door, 2)) == [(other, ONE)]


async def test_who_is_cut_off_behind_the_l7_proxy_makes_the_application_be_passed_over() -> None:
    here, door = make(ONE, apps=(A, B))
    made, closed = live(door)
    assert isinstance(made.dialled, TcpAddress)
    closed(made, ending(Outcome.L7_REFUSED, reason="reset before the first byte"))
    assert behind(here).failing(made.dialled, here.at)
    reasons = {each.reason for each in behind(here).status(addresses(here), here.at)}
    assert reasons == {None, "reset before the first byte"}
    assert not l7(here).failing(ONE, here.at)
    assert here.metric("uproxy_l7_failures_total", outcome="l7_refused") == 1


LOST = ending(
    Outcome.L7_UNAVAILABLE, State.RELAYING, reason="lost before a byte had passed", goes_on=True
)


async def test_one_that_is_lost_before_a_byte_is_passed_over_and_what_was_open_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, door = make(ONE, OTHER)
    made, closed = live(door)
    closed(made, LOST)
    assert l7(here).failing(ONE, here.at)
    assert here.metric("uproxy_l7_failures_total", outcome="l7_unavailable") == 1
    assert "lost before a byte had passed; it is passed over for a while" in caplog.text
    assert (len(here.connections), here.connections.active) == (0, 1)
    again, closed = live(door)
    assert again.tunnel_end == OTHER
    assert (len(here.connections), here.connections.active) == (1, 1)
    closed(again, ending())
    assert (len(here.connections), here.connections.active) == (0, 0)
    assert here.connections.outcomes == {Outcome.CLOSED: 1}
    for name in ("opened", "closed"):
        assert here.metric(f"istio_tcp_connections_{name}_total") == 2
    for each in l7(here).status(here.snapshot.l7_proxies["l7"].addresses, here.at):
        assert each.connections == 0


async def test_one_that_finds_no_other_way_ends_as_one_that_never_opened() -> None:
    here, door = make(ONE)
    made, closed = live(door)
    closed(made, LOST)
    door.admit(made.arrival)
    door.closed(made, ending(Outcome.L7_UNAVAILABLE, State.CONNECTING, reason="refused"))
    assert (len(here.connections), here.connections.active) == (0, 0)
    assert here.connections.outcomes == {Outcome.L7_UNAVAILABLE: 1}


async def test_who_ends_in_order_or_is_reset_later_makes_nobody_be_passed_over() -> None:
    here, door = make(ONE)
    for number, outcome in enumerate((Outcome.CLOSED, Outcome.RESET), start=1):
        made, closed = live(door, number)
        closed(made, ending(outcome, reason="reset by the peer"))
    assert not behind(here).failing(A, here.at)
    assert here.metric("uproxy_l7_failures_total") == 0


def test_if_all_addresses_fail_they_are_tried_all_the_same() -> None:
    _here, door = make(ONE, OTHER)
    for number in range(2):
        fail(door, Outcome.L7_UNAVAILABLE, number=number + 1)
    assert {end for _app, end in ways(admitted(door, 3))} == {ONE, OTHER}


def test_a_draining_address_gets_no_connection() -> None:
    _here, door = make(ONE, OTHER, draining=frozenset({ONE}))
    assert ways(admitted(door)) == [(A, OTHER)]


def test_where_all_drain_connections_are_refused_with_the_way_out() -> None:
    _here, door = make(ONE, draining=frozenset({ONE}))
    refusal = refused(door)
    assert refusal.outcome is Outcome.L7_UNAVAILABLE
    assert refusal.reason == "L7 proxy l7: each of its addresses is draining: add one that isn't"


def test_a_name_that_isnt_resolved_is_said() -> None:
    here, door = make(NAME)
    assert refused(door).reason == f"L7 proxy l7: {NAME} has not been resolved yet"
    here.failing[NAME] = "no such host"
    refusal = refused(current(here))
    assert refusal.outcome is Outcome.L7_UNAVAILABLE
    assert "no such host" in refusal.reason


def test_without_an_identity_nothing_leaves() -> None:
    _here, door = make(ONE, identity=False, bypass=True)
    assert refused(door).outcome is Outcome.NO_IDENTITY


def test_a_route_is_repeatable_where_there_is_one_way_alone() -> None:
    assert admitted(make(ONE)[1]).cache_scope == PER_PEER
    assert admitted(make(ONE, OTHER)[1]).cache_scope is None
    assert admitted(make(ONE, apps=(A, B))[1]).cache_scope is None
    assert admitted(make(ONE, bypass=True)[1]).cache_scope is None


# Past it.


def test_an_attempt_past_it_is_the_destinations_own() -> None:
    here, door = make(ONE, bypass=True)
    fail(door, Outcome.CONNECT_FAILED, at=1)
    assert behind(here).failing(A, here.at)
    assert not l7(here).failing(ONE, here.at)
    assert here.metric("uproxy_l7_failures_total") == 0


def test_past_it_is_the_last_way_where_the_configuration_says_so() -> None:
    _here, door = make(ONE, bypass=True)
    assert ways(admitted(door)) == [(A, ONE), (A, None)]


def test_while_every_address_fails_nobody_waits_for_them_before_going_past() -> None:
    here, door = make(ONE, OTHER, bypass=True)
    for number in range(2):
        fail(door, Outcome.L7_UNAVAILABLE, number=number + 1)
    assert ways(admitted(door, 3)) == [(A, None)]
    here.at += 2.0
    assert {end for _app, end in ways(admitted(door, 4))} == {ONE, OTHER, None}


@pytest.mark.parametrize("outcome", [Outcome.PEER_UNEXPECTED, Outcome.PEER_UNTRUSTED])
def test_nobody_goes_past_while_somebody_else_is_in_its_place(outcome: Outcome) -> None:
    here, door = make(ONE, OTHER, bypass=True)
    before = admitted(door).candidates
    refusals = {ONE: outcome, OTHER: Outcome.L7_UNAVAILABLE}
    for candidate in before[:2]:
        end = end_of(route := admitted(door, 2), candidate)
        assert end is not None
        door.attempted(route, candidate, Refusal(refusals[end], "for this reason"))
    assert {end for _app, end in ways(admitted(door, 3))} == {ONE, OTHER}
    live(door, 4)
    here.at += 2.0
    assert (A, None) in ways(admitted(door, 5))


def test_an_address_that_was_down_and_is_somebody_else_by_now_is_not_gone_past() -> None:
    here, door = make(ONE, bypass=True)
    route = admitted(door)
    door.attempted(route, route.candidates[0], Refusal(Outcome.L7_UNAVAILABLE, "no answer"))
    assert ways(admitted(door, 2)) == [(A, None)]
    door.attempted(route, route.candidates[0], Refusal(Outcome.PEER_UNEXPECTED, "not Envoy"))
    assert ways(admitted(door, 3)) == [(A, ONE)]
    here.at += 2.0
    assert ways(admitted(door, 4)) == [(A, ONE), (A, None)]
    door.attempted(route, route.candidates[0], Refusal(Outcome.L7_UNAVAILABLE, "no answer"))
    assert ways(admitted(door, 5)) == [(A, None)]


def test_a_health_check_that_fails_lets_nobody_past_before_an_attempt_has_failed_too() -> None:
    here, door = make(ONE, OTHER, bypass=True)
    l7(here).checked(ONE, "no answer")
    assert ways(admitted(door)) == [(A, OTHER), (A, ONE), (A, None)]
    l7(here).checked(OTHER, "no answer")
    assert {end for _app, end in ways(admitted(door, 2))[:2]} == {ONE, OTHER}
    before = admitted(door, 3)
    first = end_of(before, before.candidates[0])
    door.attempted(before, before.candidates[0], Refusal(Outcome.L7_UNAVAILABLE, "no answer"))
    left = {ONE: OTHER, OTHER: ONE}[first] if first else None
    assert ways(admitted(door, 4)) == [(A, left), (A, None)]


def test_where_all_drain_connections_go_past() -> None:
    _here, door = make(ONE, draining=frozenset({ONE}), bypass=True)
    assert ways(admitted(door)) == [(A, None)]


async def test_going_past_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    here, door = make(ONE, bypass=True)
    with caplog.at_level(logging.WARNING):
        made, closed = live(door, at=1)
    [line] = caplog.messages
    assert "connection 1 to reviews goes past L7 proxy l7" in line
    labels = {"l7_proxy": "l7", "destination": "reviews"}
    assert here.metric("uproxy_l7_bypassed_total", **labels) == 1
    assert here.metric("uproxy_l7_streams_total") == 0
    assert caplog.records[0].uproxy_kind[1:] == ("bypass", "l7")  # type: ignore[attr-defined]  # of `alike`
    closed(made, ending())
    assert dict(here.records[0].fields)["via"] == "direct"


@pytest.mark.parametrize(
    ("identities", "cut"),
    [
        ((REVIEWS.spiffe_id, OURS.spiffe_id), []),
        ((OURS.spiffe_id,), [f"L7 proxy l7 may have connected it to {REVIEWS.spiffe_id}"]),
    ],
)
async def test_who_may_have_been_connected_to_somebody_not_expected_any_more_is_cut(
    identities: tuple[str, ...], cut: list[str]
) -> None:
    here, before = make(ONE)
    reviews = replace(here.settings.destinations["reviews"], identities=identities)
    here.configure(replace(here.settings, destinations={"reviews": reviews}))
    made, _closed = live(before)
    assert [each.reason.partition(",")[0] for each in made.refusals] == cut


@pytest.mark.parametrize("bypass", [False, True])
def test_nobody_waits_for_the_address_of_the_way_past_it(bypass: bool) -> None:
    here, _door = make(ONE, bypass=bypass)
    reviews = replace(
        here.settings.destinations["reviews"], hbone_address=TcpAddress("reviews.internal", 15008)
    )
    here.configure(replace(here.settings, destinations={"reviews": reviews}))
    assert ways(admitted(current(here))) == [(A, ONE)]


async def test_who_went_through_it_is_logged_with_its_name_and_address() -> None:
    here, door = make(ONE)
    made, closed = live(door)
    closed(made, ending())
    fields = dict(here.records[0].fields)
    assert (fields["via"], fields["dst.addr"], fields["dst.hbone_addr"]) == (
        "l7", str(ONE), str(A),
    )  # fmt: skip


@pytest.mark.parametrize("bypass", [False, True])
def test_a_captured_connection_goes_to_its_original_destination_through_an_l7_proxy(
    bypass: bool,
) -> None:
    here, _ = make(ONE, apps=(), bypass=bypass)
    reviews = replace(here.settings.destinations["reviews"], match=MatchSettings())
    door = OutboundSettings(TcpAddress("::", 15001), captured=True)
    here.configure(replace(here.settings, outbound=(door,), destinations={"reviews": reviews}))
    captured = replace(app(), local=TcpAddress("127.0.0.1", 15001))
    for target in (A, B):
        route = current(here).admit(replace(captured, target=target))
        assert isinstance(route, Route), route
        assert ways(route) == [(target, ONE), *([(target, None)] if bypass else [])]
        assert route.cache_scope == (None if bypass else PER_ORIGINAL)
