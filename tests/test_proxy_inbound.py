from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.helpers.connections import APP, PEER, FakeConnection, arrival, ending
from tests.helpers.world import ANYBODY, World, credentials, peer, settings, with_crl
from uproxy.config.settings import InboundSettings, RuleFrom, RuleSettings, RuleTo
from uproxy.contract import (
    PLAIN,
    SILENT,
    Arrival,
    CacheScope,
    Connection,
    Door,
    OnClosed,
    Refusal,
    Route,
    Spoken,
    TlsFacts,
    TlsPlan,
)
from uproxy.lab.pki import Authority
from uproxy.lifecycle import ENDINGS, State
from uproxy.log import alike
from uproxy.model import (
    Address,
    Direction,
    Host,
    ListenAddress,
    Outcome,
    Role,
    SystemdAddress,
    TcpAddress,
    Timeouts,
    TlsSettings,
    Transport,
    TunnelSettings,
    UnixAddress,
)
from uproxy.policy import Target
from uproxy.proxy.inbound import MAX_WAYS, InboundDoor
from uproxy.proxy.services import PER_PEER, PER_PEER_AND_SOURCE

CA = Authority("example.org")
OURS = CA.issue("/ns/db/sa/orders")
WEB = CA.issue("/ns/web/sa/frontend")
LISTEN = TcpAddress("0.0.0.0", 8443)
TIMEOUTS = Timeouts(idle=7)
NAME = TcpAddress("app.internal", 8080)
NETWORK = ip_network("10.0.0.0/24")
FACTS = TlsFacts("TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519MLKEM768", 0.003)


def make(
    *rules: RuleSettings,
    to: Address = APP,
    transport: Transport = Transport.MTLS,
    proxy_protocol: str | None = None,
    identity: bool = True,
) -> tuple[World, InboundDoor]:
    door = InboundSettings(
        "api", LISTEN, transport, to, alpn=("h2",), proxy_protocol=proxy_protocol
    )
    config = settings(*rules, inbound=(door,), timeouts=TIMEOUTS)
    here = World(config, credentials(OURS if identity else None, CA), now=CA.now)
    return here, current(here)


def current(here: World) -> InboundDoor:
    """Its only door, of the snapshot in force."""
    door = here.door()
    assert isinstance(door, InboundDoor)
    return door


def web(number: int = 1) -> Arrival:
    return arrival(peer(WEB, CA), number=number)


def admitted(door: InboundDoor, who: Arrival | None = None) -> Route:
    route = door.admit(known(door) if who is None else who)
    assert isinstance(route, Route)
    return route


def refused(door: InboundDoor, who: Arrival | None = None) -> Refusal:
    refusal = door.admit(known(door) if who is None else who)
    assert isinstance(refusal, Refusal)
    assert refusal.outcome in ENDINGS[State.ADMITTING]
    return refusal


def live(door: InboundDoor, who: Arrival | None = None) -> tuple[FakeConnection, OnClosed]:
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    who = replace(web() if who is None else who, tls=plan)
    route = admitted(door, who)
    made = FakeConnection(who, route=route, peer=who.peer, dialled=APP)
    door.attempted(route, route.candidates[0], None)
    return made, door.opened(made)


def test_it_is_a_door_for_engines() -> None:
    _, made = make()
    door: Door = made
    connection: Connection = FakeConnection()
    assert connection.route is None
    assert (door.name, door.direction, door.timeouts) == ("api", Direction.INBOUND, TIMEOUTS)


def test_mtls_shows_our_svid_as_server() -> None:
    _, door = make()
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    assert (plan.role, plan.own.chain, plan.alpn) == (Role.SERVER, OURS.der, ("h2",))
    assert plan.verify(WEB.der).spiffe_id == WEB.spiffe_id
    assert door.tls() is plan


def test_without_an_identity_nobody_is_even_shaken_hands_with() -> None:
    here, door = make(ANYBODY, identity=False)
    refusal = door.tls()
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.NO_IDENTITY
    here.believe(credentials(OURS, CA, generation=2))
    assert isinstance(current(here).tls(), TlsPlan)


def test_a_plaintext_door_has_no_handshake_and_its_callers_no_identity() -> None:
    _, door = make(ANYBODY, transport=Transport.PLAINTEXT, identity=False)
    assert door.tls() is None
    assert "a caller without an identity" in refused(door, arrival()).reason
    nobody = RuleSettings("open", "allow", RuleFrom(unauthenticated=True))
    _, door = make(nobody, transport=Transport.PLAINTEXT, identity=False)
    assert admitted(door, arrival()).rule == "open"


def test_an_allowed_caller_is_shown_the_way_to_the_application() -> None:
    _, door = make(ANYBODY)
    route = admitted(door)
    assert [candidate.addresses for candidate in route.candidates] == [(APP,)]
    assert (route.destination, route.rule, route.upstream, route.preface) == (
        "api",
        "anybody",
        PLAIN,
        b"",
    )
    assert route.timeouts == TIMEOUTS


def test_without_a_rule_the_refusal_says_what_would_be_needed() -> None:
    here, door = make()
    refusal = refused(door)
    assert refusal.outcome is Outcome.DENIED
    assert refusal.reason == f"no rule allows {WEB.spiffe_id} to port 8080 at door api"
    decision = {"rule": "-", "decision": "deny", "mode": "enforce"}
    assert here.metric("uproxy_authorization_decisions_total", **decision) == 1


def test_a_deny_is_told_by_its_name_and_shadow_rules_are_only_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "uproxy")
    deny = RuleSettings("no", "deny", RuleFrom(namespaces=("web",)))
    shadow = RuleSettings("maybe", "allow", RuleFrom(any=True), mode="shadow")
    here, door = make(ANYBODY, deny, shadow)
    assert refused(door).rule == "no"
    name = "uproxy_authorization_decisions_total"
    assert here.metric(name, rule="no", decision="deny", mode="enforce") == 1
    assert here.metric(name, rule="maybe", decision="allow", mode="shadow") == 1
    assert caplog.messages[0].startswith("shadow rule maybe would allow: rule ")


def test_rules_see_the_applications_port_address_and_the_doors_name() -> None:
    for to in (RuleTo(ports=(8080,)), RuleTo(inbound=("api",))):
        _, door = make(RuleSettings("r", "allow", RuleFrom(any=True), to))
        assert admitted(door)
    _, door = make(RuleSettings("r", "allow", RuleFrom(any=True), RuleTo(ports=(8443,))))
    refused(door)
    _, door = make(
        RuleSettings("r", "allow", RuleFrom(any=True), RuleTo(ports=(8080,))),
        to=UnixAddress("/run/app.sock"),
    )
    refused(door)


def test_a_policy_that_arrives_later_decides_at_once() -> None:
    here, door = make()
    refused(door)
    here.configure(replace(here.settings, authorization=(ANYBODY,)))
    assert admitted(current(here))
    refused(door)


def test_rules_about_our_namespaces_work_once_we_know_our_trust_domain() -> None:
    here, door = make(RuleSettings("r", "allow", RuleFrom(namespaces=("web",))), identity=False)
    assert refused(door, web()).outcome is Outcome.NO_IDENTITY
    here.believe(credentials(OURS, CA, generation=2))
    assert admitted(current(here))


def test_an_application_that_has_no_address_yet_is_said_so() -> None:
    here, door = make(ANYBODY, to=NAME)
    refusal = refused(door)
    assert refusal.outcome is Outcome.CONNECT_FAILED
    assert str(NAME) in refusal.reason
    here.resolve(NAME, APP)
    assert admitted(current(here)).candidates[0].addresses == (APP,)


def test_the_application_is_told_who_called_if_it_wants_to_know() -> None:
    _, door = make(ANYBODY, proxy_protocol="v2")
    preface = admitted(door).preface
    assert preface.startswith(b"\r\n\r\n\x00\r\nQUIT\n")
    assert preface.endswith(WEB.spiffe_id.encode())
    assert preface[16:20] == bytes(map(int, PEER.host.split(".")))


async def test_a_connection_is_registered_while_it_is_open_and_logged_at_its_end() -> None:
    here, door = make(ANYBODY)
    made, closed = live(door)
    assert [entry.connection for entry in here.connections] == [made]
    application = here.endpoints(Direction.INBOUND, "api")
    assert application.connections == {APP: 1}
    closed(made, ending())
    assert len(here.connections) == 0
    assert application.connections == {}
    [record] = here.records
    fields = dict(record.fields)
    assert (fields["src.identity"], fields["dst.identity"]) == (WEB.spiffe_id, OURS.spiffe_id)
    assert fields["rule"] == "anybody"


async def test_a_rotation_during_the_handshake_does_not_change_what_was_shown() -> None:
    here, door = make(ANYBODY)
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    who = replace(web(), tls=plan)
    here.believe(credentials(CA.issue("/ns/db/sa/orders"), CA))
    newer = current(here)
    newer.opened(FakeConnection(who, route=admitted(newer, who), peer=who.peer, dialled=APP))
    [entry] = here.connections
    assert entry.info.own is not None
    assert entry.info.own.chain == OURS.der


async def test_a_failed_handshake_is_logged_with_the_identity_it_showed() -> None:
    here, door = make()
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    here.believe(credentials(None, CA))
    end = ending(Outcome.PEER_UNTRUSTED, State.HANDSHAKING_DOWNSTREAM)
    door.closed(FakeConnection(replace(arrival(), tls=plan), dialled=None), end)
    assert dict(here.records[0].fields)["dst.identity"] == OURS.spiffe_id


async def test_a_refused_connection_is_logged_and_occupies_nothing() -> None:
    here, door = make()
    who = web()
    refusal = refused(door, who)
    end = ending(Outcome.DENIED, State.ADMITTING, reason=refusal.reason)
    door.closed(FakeConnection(who, peer=who.peer, dialled=None), end)
    assert dict(here.records[0].fields)["error"] == refusal.reason
    assert here.metric("istio_tcp_connections_failed_total", response_flags="DENY") == 1
    assert here.metric("uproxy_connections") == 0


async def test_an_application_that_fails_is_passed_over_and_a_failed_dial_counts_nothing() -> None:
    here, door = make(ANYBODY, to=NAME)
    other = TcpAddress("127.0.0.2", 8080)
    here.resolve(NAME, APP, other)
    door = current(here)
    who = known(door)
    route = admitted(door, who)
    door.attempted(route, route.candidates[0], Refusal(Outcome.CONNECT_FAILED, "refused"))
    made = FakeConnection(who, route=route, peer=who.peer, dialled=APP)
    door.closed(made, ending(Outcome.CONNECT_FAILED, State.CONNECTING))
    application = here.endpoints(Direction.INBOUND, "api")
    assert application.connections == {}
    assert [each.addresses[0] for each in admitted(door, known(door, 2)).candidates] == [other]
    here.at = 1.0
    assert len(admitted(door, known(door, 3)).candidates) == 2
    assert here.metric("uproxy_connections", direction="inbound") == 2


@pytest.mark.parametrize("again", [1, 2])
async def test_a_reloads_new_door_keeps_the_applications_counts(again: int) -> None:
    here, door = make(ANYBODY)
    first, closed_first = live(door)
    for _ in range(again):
        here.configure(here.settings)
    second, closed_second = live(current(here), web(2))
    application = here.endpoints(Direction.INBOUND, "api")
    assert application.connections == {APP: 2}
    closed_first(first, ending())
    closed_second(second, ending())
    assert application.connections == {}


EVERYWHERE = (ip_network("0.0.0.0/0"),)
WATCHING = RuleSettings("watching", "deny", RuleFrom(cidrs=EVERYWHERE), mode="shadow")


def known(door: InboundDoor, number: int = 1) -> Arrival:
    """A caller that has shaken hands with the plan of the moment."""
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    return replace(web(number), tls=plan)


def repeated(door: InboundDoor, route: Route, who: Arrival) -> tuple[FakeConnection, OnClosed]:
    """Let in by the engine alone, and open."""
    door.admitted_from_cache(who, route)
    made = FakeConnection(who, route=route, peer=who.peer, dialled=APP)
    return made, door.opened(made)


def test_a_route_stands_for_the_caller_or_where_a_rule_asks_for_it_its_address() -> None:
    _, door = make(ANYBODY)
    assert admitted(door).cache_scope == PER_PEER
    _, door = make(ANYBODY, WATCHING)
    assert admitted(door).cache_scope == PER_PEER_AND_SOURCE
    _, door = make(ANYBODY, proxy_protocol="v2")
    assert admitted(door).cache_scope is None
    nobody = RuleSettings("open", "allow", RuleFrom(unauthenticated=True))
    _, door = make(nobody, transport=Transport.PLAINTEXT, identity=False)
    assert admitted(door, arrival()).cache_scope == PER_PEER


def test_a_route_that_is_one_of_several_stands_for_nobody() -> None:
    here, _ = make(ANYBODY, to=NAME)
    here.resolve(NAME, APP)
    assert admitted(current(here)).cache_scope == PER_PEER
    here.resolve(NAME, APP, TcpAddress("127.0.0.2", 8080))
    assert admitted(current(here)).cache_scope is None


async def test_a_repeated_route_is_told_as_if_it_had_been_decided_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "uproxy")
    here, door = make(ANYBODY, WATCHING)
    first = known(door)
    route = admitted(door, first)
    door.opened(FakeConnection(first, route=route, peer=first.peer, dialled=APP))
    made, closed = repeated(door, route, known(door, 2))
    assert not made.refusals
    name = "uproxy_authorization_decisions_total"
    assert here.metric(name, rule="anybody", decision="allow", mode="enforce") == 2
    assert here.metric(name, rule="watching", decision="deny", mode="shadow") == 2
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == caplog.messages[1]
    # callers can cause them at will, so the log limits each rule's
    kinds = {getattr(record, "uproxy_kind", None) for record in caplog.records}
    assert kinds == {alike("shadow rule", "watching")["uproxy_kind"]}
    assert here.metric("uproxy_connections", direction="inbound") == 2
    one, other = here.connections
    assert one.info is other.info  # one for all of a door's: it counts in what a connection costs
    assert one.info.own is not None
    closed(made, ending())
    assert here.endpoints(Direction.INBOUND, "api").connections == {APP: 1}
    assert dict(here.records[0].fields)["rule"] == "anybody"


async def test_a_repeated_route_that_does_not_open_frees_its_place() -> None:
    here, door = make(ANYBODY)
    route, who = admitted(door, known(door)), known(door, 2)
    door.admitted_from_cache(who, route)
    assert here.metric("uproxy_connections", direction="inbound") == 2
    failed = FakeConnection(who, route=route, peer=who.peer, dialled=None)
    door.closed(failed, ending(Outcome.CONNECT_FAILED, State.CONNECTING))
    assert here.metric("uproxy_connections", direction="inbound") == 1


async def test_a_repeat_that_is_told_after_a_change_is_judged_when_it_is_open() -> None:
    here, door = make(ANYBODY)
    route, who = admitted(door, known(door)), known(door, 2)
    here.configure(replace(here.settings, authorization=()))
    made, _closed = repeated(door, route, who)
    assert [refusal.outcome for refusal in made.refusals] == [Outcome.POLICY_CHANGED]


def test_a_handshake_under_an_older_trust_is_judged_by_the_newer() -> None:
    here, door = make(ANYBODY)
    before = known(door)
    here.believe(with_crl(here.credentials, CA))
    assert admitted(current(here), before)
    here.believe(with_crl(here.credentials, CA, WEB))
    refusal = refused(current(here), before)
    assert (refusal.outcome, refusal.rule) == (Outcome.IDENTITY_DISTRUSTED, "UP-2")


def test_a_handshake_under_an_svid_that_is_gone_or_was_another_identity_is_good_for_nothing() -> (
    None
):
    here, door = make(ANYBODY)
    who = known(door)
    here.believe(credentials(None, CA, reason="the agent says: no identity issued"))
    refusal = refused(current(here), who)
    assert refusal.outcome is Outcome.NO_IDENTITY
    here.believe(credentials(CA.issue("/ns/db/sa/other"), CA))
    refusal = refused(current(here), who)
    assert refusal.outcome is Outcome.IDENTITY_DISTRUSTED
    assert "we are spiffe://example.org/ns/db/sa/other now" in refusal.reason


def test_an_arrival_in_clear_is_nothing_to_a_door_that_became_mtls_nor_the_other_way_round() -> (
    None
):
    nobody = RuleSettings("open", "allow", RuleFrom(unauthenticated=True))
    here, door = make(ANYBODY, nobody)
    shaken = known(door)
    refusal = refused(door, arrival())
    assert refusal.outcome is Outcome.POLICY_CHANGED
    assert refusal.reason == "while it was arriving, door api became mtls: dial again"
    [inbound] = here.settings.inbound
    clear = replace(inbound, transport=Transport.PLAINTEXT, alpn=())
    here.configure(replace(here.settings, inbound=(clear,)))
    assert "door api became plaintext" in refused(current(here), shaken).reason
    assert admitted(current(here), arrival()).rule == "open"


@pytest.mark.parametrize("what", ["settings", "alpn"])
def test_a_handshake_that_the_doors_settings_would_not_make_is_nothing_to_it(what: str) -> None:
    here, door = make(ANYBODY)
    who = known(door)
    [inbound] = here.settings.inbound
    if what == "alpn":
        here.configure(replace(here.settings, inbound=(replace(inbound, alpn=("http/1.1",)),)))
    else:
        here.configure(replace(here.settings, tls=TlsSettings(groups=("X25519",))))
    refusal = refused(current(here), who)
    assert (
        refusal.reason == "while it was arriving, the TLS settings of door api changed: dial again"
    )


def test_a_door_decides_by_its_own_snapshot_whatever_is_in_force() -> None:
    here, door = make(ANYBODY)
    other = TcpAddress("127.0.0.9", 9)
    [inbound] = here.settings.inbound
    moved = replace(here.settings, inbound=(replace(inbound, to=other),), authorization=())
    before = here.snapshot.revision
    here.configure(moved)
    route = admitted(door, known(door))
    assert (route.rule, route.revision) == ("anybody", before)
    assert [each.addresses for each in route.candidates] == [(APP,)]
    refused(current(here), known(door))


async def test_who_is_admitted_again_is_one_connection() -> None:
    here, door = make(ANYBODY)
    who = known(door)
    admitted(door, who)
    here.configure(here.settings)
    route = admitted(current(here), who)
    assert here.metric("uproxy_connections", direction="inbound") == 1
    made = FakeConnection(who, route=route, peer=who.peer, dialled=APP)
    current(here).opened(made)
    assert here.metric("uproxy_connections", direction="inbound") == 1
    assert not made.refusals


# What a connection was meant for, and who speaks for its caller.


def test_a_door_lets_in_only_what_was_meant_for_its_application() -> None:
    _, door = make(ANYBODY)
    caller = known(door)
    assert admitted(door, replace(caller, target=APP)).rule == "anybody"
    refusal = refused(door, replace(caller, target=TcpAddress("10.0.0.2", 22)))
    assert refusal.outcome is Outcome.NO_DESTINATION
    assert refusal.reason == (
        "door api leads to 127.0.0.1:8080 alone, and this was meant for 10.0.0.2:22"
    )


# Tunnels: a connection that carries streams, each meant for an address of this workload.

TUNNEL = TcpAddress("10.0.0.7", 15008)
"""Where tunnels arrive."""
NAMED = TcpAddress("10.0.0.7", 8080)


def make_hbone(
    *rules: RuleSettings,
    to: Host | None = None,
    ports: tuple[int, ...] | str = (8080, 5432),
    listen: str = "::",
    proxy_protocol: str | None = None,
    listed: tuple[str, ...] = (),
) -> tuple[World, InboundDoor]:
    addresses = tuple(ip_address(each) for each in listed)
    at = TcpAddress(listen, 15008)
    door = InboundSettings(
        "api", at, Transport.HBONE, to, ports, addresses, proxy_protocol=proxy_protocol
    )
    config = settings(*rules or (ANYBODY,), inbound=(door,), timeouts=TIMEOUTS)
    here = World(config, credentials(OURS, CA), now=CA.now)
    return here, current(here)


def shaken(door: InboundDoor, number: int = 1) -> Arrival:
    """A caller whose handshake is over."""
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    return Arrival(number, PEER, TUNNEL, peer(WEB, CA), plan)


def carried(door: InboundDoor, number: int = 1) -> tuple[FakeConnection, OnClosed]:
    """A tunnel that carries streams; its plan, which has a key, is dropped."""
    who = shaken(door, number)
    made = FakeConnection(who, peer=who.peer, tls=FACTS, dialled=None)
    closed = door.carrying(made)
    made.arrival = replace(who, tls=None)
    return made, closed


def stream(
    of: FakeConnection, target: TcpAddress = NAMED, number: int = 2, *, spoken: Spoken = SILENT
) -> Arrival:
    return replace(of.arrival, id=number, tunnel=of.arrival.id, target=target, spoken=spoken)


def open_stream(door: InboundDoor, who: Arrival) -> tuple[FakeConnection, OnClosed]:
    route = admitted(door, who)
    [dialled] = route.candidates[0].addresses
    made = FakeConnection(who, route=route, peer=who.peer, tls=FACTS, shares_tls=True)
    made.dialled = dialled
    door.attempted(route, route.candidates[0], None)
    return made, door.opened(made)


def test_only_a_door_for_tunnels_has_connections_that_carry_streams() -> None:
    here, door = make_hbone()
    assert door.tunnels == here.settings.hbone == TunnelSettings()
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    assert (plan.role, plan.alpn, plan.settings.min_version) == (Role.SERVER, ("h2",), "1.3")
    assert make(ANYBODY)[1].tunnels is None


async def test_a_stream_is_let_in_to_the_address_that_its_tunnel_named() -> None:
    _, door = make_hbone()
    tunnel, _ = carried(door)
    route = admitted(door, stream(tunnel))
    assert [each.addresses for each in route.candidates] == [(NAMED,)]
    assert (route.destination, route.upstream, route.rule) == ("api", PLAIN, "anybody")
    mapped = stream(tunnel, TcpAddress("::ffff:10.0.0.7", 5432))
    route = admitted(door, mapped)
    assert [each.addresses for each in route.candidates] == [(TcpAddress("10.0.0.7", 5432),)]


async def test_a_host_in_to_is_dialled_instead_of_the_one_that_was_named() -> None:
    _, door = make_hbone(to=Host("127.0.0.1"))
    tunnel, _ = carried(door)
    route = admitted(door, stream(tunnel, TcpAddress("10.0.0.7", 5432)))
    assert [each.addresses for each in route.candidates] == [(TcpAddress("127.0.0.1", 5432),)]


async def test_a_host_that_is_a_name_is_dialled_at_its_addresses_and_the_named_port() -> None:
    here, door = make_hbone(to=Host("localhost"))
    tunnel, _ = carried(door)
    refusal = refused(door, stream(tunnel))
    assert refusal.reason == "localhost:0 has not been resolved yet"
    name = TcpAddress("localhost", 0)
    assert here.snapshot.names == {name}
    here.resolve(name, TcpAddress("127.0.0.1", 0), TcpAddress("::1", 0))
    route = admitted(current(here), stream(tunnel))
    assert route.candidates[0].endpoint == "localhost:8080"
    assert set(route.candidates[0].addresses) == {
        TcpAddress("127.0.0.1", 8080),
        TcpAddress("::1", 8080),
    }
    assert route.cache_scope is None


@pytest.mark.parametrize(
    ("target", "outcome"),
    [
        (TcpAddress("10.0.0.8", 8080), Outcome.NO_DESTINATION),
        (TcpAddress("127.0.0.1", 8080), Outcome.NO_DESTINATION),
        (TcpAddress("10.0.0.7", 22), Outcome.NO_DESTINATION),
        (TcpAddress("app.internal", 8080), Outcome.NO_DESTINATION),
        (TcpAddress("10.0.0.7", 15008), Outcome.CONNECT_FAILED),
        (TcpAddress("10.0.0.7", 15021), Outcome.CONNECT_FAILED),
        (None, Outcome.NO_DESTINATION),
    ],
)
async def test_what_a_tunnel_may_not_name_is_refused_whatever_the_rules_say(
    target: TcpAddress | None, outcome: Outcome
) -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    refusal = refused(door, replace(stream(tunnel), target=target))
    assert refusal.outcome is outcome
    assert here.metric("uproxy_connections") == 0


def test_a_connection_that_is_no_stream_is_not_let_in_at_a_door_for_tunnels() -> None:
    _, door = make_hbone()
    refusal = refused(door, shaken(door))
    assert refusal.outcome is Outcome.NO_DESTINATION
    assert refusal.reason == "door api is for tunnels, and this is no stream of one"


def test_a_systemd_sockets_port_is_uproxys_too() -> None:
    here, _ = make_hbone(ports="all")
    services = replace(here.services, passed_ports=frozenset({9443}))
    door = InboundDoor(here.snapshot.applications["api"], here.snapshot, services)
    refusal = refused(door, replace(shaken(door), target=TcpAddress("10.0.0.7", 9443)))
    assert refusal.outcome is Outcome.CONNECT_FAILED


async def test_rules_see_the_port_and_the_address_that_a_tunnel_named() -> None:
    seen = RuleSettings(
        "seen", "allow", RuleFrom(any=True), RuleTo(ports=(5432,), addresses=(NETWORK,))
    )
    _, door = make_hbone(seen, to=Host("127.0.0.1"))
    tunnel, _ = carried(door)
    assert admitted(door, stream(tunnel, TcpAddress("10.0.0.7", 5432))).rule == "seen"
    refusal = refused(door, stream(tunnel))
    assert refusal.outcome is Outcome.DENIED
    assert refusal.reason == f"no rule allows {WEB.spiffe_id} to port 8080 at door api"


async def test_the_route_of_a_stream_is_for_streams_to_the_same_target_alone() -> None:
    _, door = make_hbone()
    tunnel, _ = carried(door)
    everything = frozenset({CacheScope.PEER, CacheScope.TARGET, CacheScope.LOCAL})
    assert admitted(door, stream(tunnel)).cache_scope == everything
    _, door = make_hbone(listen="10.0.0.7")  # all tunnels arrive at the same address
    tunnel, _ = carried(door)
    assert admitted(door, stream(tunnel)).cache_scope == everything - {CacheScope.LOCAL}
    _, door = make_hbone(ANYBODY, WATCHING, listen="0.0.0.0")
    tunnel, _ = carried(door)
    assert admitted(door, stream(tunnel)).cache_scope == everything | {CacheScope.SOURCE}
    _, door = make_hbone(proxy_protocol="v2")
    tunnel, _ = carried(door)
    assert admitted(door, stream(tunnel)).cache_scope is None


async def test_what_one_tunnel_may_name_another_that_arrived_elsewhere_may_not() -> None:
    _, door = make_hbone()
    tunnel, _ = carried(door)
    admitted(door, stream(tunnel))
    elsewhere = replace(stream(tunnel), local=TcpAddress("10.0.0.9", 15008))
    assert refused(door, elsewhere).outcome is Outcome.NO_DESTINATION


async def test_the_application_is_told_the_address_that_the_tunnel_named() -> None:
    _, door = make_hbone(proxy_protocol="v2")
    tunnel, _ = carried(door)
    header = admitted(door, stream(tunnel, TcpAddress("::ffff:10.0.0.7", 5432))).preface
    assert header[13] == 0x11  # TCP over IPv4
    assert header[20:24] == bytes((10, 0, 0, 7))
    assert int.from_bytes(header[26:28], "big") == 5432


async def test_streams_are_connections_and_their_tunnel_is_none() -> None:
    here, door = make_hbone()
    tunnel, tunnel_closed = carried(door)
    assert (len(here.connections), here.connections.active) == (0, 0)
    made, closed = open_stream(door, stream(tunnel))
    assert [entry.connection for entry in here.connections] == [made]
    assert here.metric("uproxy_connections", direction="inbound") == 1
    assert here.metric("uproxy_hbone_streams", direction="inbound") == 1
    [entry] = here.connections
    assert (entry.info.transport, entry.info.port) == (Transport.HBONE, 8080)
    assert entry.info.target == Target(8080, ip_address("10.0.0.7"), "api")
    closed(made, ending())
    tunnel_closed(tunnel, ending(state=State.CLOSING))
    [record] = here.records
    fields = dict(record.fields)
    assert (fields["dst.addr"], fields["dst.hbone_addr"]) == ("10.0.0.7:15008", "10.0.0.7:8080")
    assert (fields["transport"], fields["dst.identity"]) == ("hbone", OURS.spiffe_id)
    assert here.metric("uproxy_hbone_streams", direction="inbound") == 0
    assert (
        here.metric(
            "istio_tcp_connections_opened_total",
            connection_security_policy="mutual_tls",
            destination_port="8080",
        )
        == 1
    )


async def test_a_handshake_is_counted_for_its_tunnel_and_for_no_stream() -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    made, closed = open_stream(door, stream(tunnel))
    closed(made, ending())
    who = stream(tunnel, TcpAddress("10.0.0.7", 22), 3)
    failed = FakeConnection(who, peer=who.peer, tls=FACTS, shares_tls=True, dialled=None)
    door.closed(failed, ending(Outcome.NO_DESTINATION, State.ADMITTING))
    assert here.metric("uproxy_handshakes_total", direction="inbound") == 1


async def test_a_handshake_that_fails_before_it_carries_is_logged_as_any_other() -> None:
    here, door = make_hbone()
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    stranger = FakeConnection(Arrival(1, PEER, TUNNEL, None, plan), dialled=None)
    door.closed(stranger, ending(Outcome.PEER_UNTRUSTED, State.HANDSHAKING_DOWNSTREAM))
    fields = dict(here.records[0].fields)
    assert (fields["dst.addr"], fields["dst.hbone_addr"]) == ("10.0.0.7:15008", None)
    assert (fields["outcome"], fields["dst.identity"]) == ("peer_untrusted", OURS.spiffe_id)
    assert here.metric("uproxy_handshake_failures_total", reason="peer_untrusted") == 1


async def test_a_refused_stream_is_listed_with_the_port_it_was_meant_for() -> None:
    here, door = make_hbone(RuleSettings("nobody", "deny", RuleFrom(any=True)))
    tunnel, _ = carried(door)
    who = stream(tunnel)
    refusal = refused(door, who)
    made = FakeConnection(who, peer=who.peer, tls=FACTS, shares_tls=True, dialled=None)
    end = ending(Outcome.DENIED, State.ADMITTING, reason=refusal.reason, rule=refusal.rule)
    door.closed(made, end)
    [denial] = here.connections.denials
    assert (denial.identity, denial.port) == (WEB.spiffe_id, 8080)
    assert dict(here.records[0].fields)["dst.hbone_addr"] == "10.0.0.7:8080"


async def test_ports_that_lead_nowhere_make_no_time_series() -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    for port in (1, 2, 3):
        who = stream(tunnel, TcpAddress("10.0.0.7", port), port + 1)
        made = FakeConnection(who, peer=who.peer, shares_tls=True, dialled=None)
        door.closed(made, ending(Outcome.NO_DESTINATION, State.ADMITTING))
    failed = "istio_tcp_connections_failed_total"
    assert here.metric(failed, destination_port="unknown") == 3


async def test_ports_that_a_refused_caller_makes_up_make_no_time_series() -> None:
    here, door = make_hbone(RuleSettings("nobody", "deny", RuleFrom(any=True)), ports="all")
    tunnel, _ = carried(door)
    for port in (1, 2, 3):
        who = stream(tunnel, TcpAddress("10.0.0.7", port), port + 1)
        made = FakeConnection(who, peer=who.peer, shares_tls=True, dialled=None)
        door.closed(made, ending(Outcome.DENIED, State.ADMITTING))
    failed = "istio_tcp_connections_failed_total"
    assert here.metric(failed, destination_port="unknown") == 3


@pytest.mark.parametrize(
    ("ports", "outcome"), [((8080,), Outcome.DENIED), ("all", Outcome.CONNECT_FAILED)]
)
async def test_ports_that_are_listed_or_that_a_caller_was_let_in_to_make_one(
    ports: tuple[int, ...] | str, outcome: Outcome
) -> None:
    here, door = make_hbone(ports=ports)
    who = stream(carried(door)[0], TcpAddress("10.0.0.7", 8080))
    made = FakeConnection(who, peer=who.peer, tls=FACTS, shares_tls=True, dialled=None)
    door.closed(made, ending(outcome, State.ADMITTING))
    failed = "istio_tcp_connections_failed_total"
    assert here.metric(failed, destination_port="8080") == 1


async def test_a_tunnel_of_an_earlier_svid_stays_and_its_streams_show_that_one() -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    here.believe(credentials(CA.issue("/ns/db/sa/orders"), CA))
    made, _ = open_stream(current(here), stream(tunnel))
    [entry] = here.connections
    assert entry.info.own is not None
    assert entry.info.own.chain == OURS.der
    assert not made.refusals
    assert not tunnel.refusals


async def test_other_tls_settings_are_for_the_next_tunnel() -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    here.configure(replace(here.settings, tls=TlsSettings(groups=("X25519",))))
    assert admitted(current(here), stream(tunnel)).rule == "anybody"


async def test_a_stream_whose_tunnel_is_not_trusted_any_more_is_refused() -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    here.believe(with_crl(here.credentials, CA, WEB))
    refusal = refused(current(here), stream(tunnel))
    assert (refusal.outcome, refusal.rule) == (Outcome.IDENTITY_DISTRUSTED, "UP-2")
    here.believe(credentials(None, CA, generation=9))
    assert refused(current(here), stream(tunnel)).outcome is Outcome.NO_IDENTITY


async def test_a_stream_is_nothing_to_a_door_that_is_for_tunnels_no_longer() -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    [inbound] = here.settings.inbound
    mtls = replace(inbound, transport=Transport.MTLS, to=APP, ports=())
    here.configure(replace(here.settings, inbound=(mtls,)))
    refusal = refused(current(here), stream(tunnel))
    assert refusal.reason == "while it was arriving, door api became mtls: dial again"


async def test_a_tunnel_is_known_by_the_svid_that_it_was_shown_at_an_earlier_door() -> None:
    here, door = make_hbone()
    who = shaken(door)
    here.believe(credentials(CA.issue("/ns/db/sa/orders"), CA))
    made = FakeConnection(who, peer=who.peer, tls=FACTS, dialled=None)
    current(here).carrying(made)
    [entry] = here.connections.tunnels
    assert entry.info.own is not None
    assert entry.info.own.chain == OURS.der
    assert not made.refusals


async def test_no_rule_is_about_a_tunnel_itself() -> None:
    here, door = make_hbone()
    tunnel, _ = carried(door)
    await here.connections.start()
    here.configure(replace(here.settings, authorization=()))
    made, _ = carried(current(here), 2)
    for _ in range(20):
        await asyncio.sleep(0)
    await here.connections.stop()
    assert not tunnel.refusals
    assert not made.refusals


@pytest.mark.parametrize("listen", [SystemdAddress("in"), UnixAddress("/run/in.sock")])
async def test_where_a_tunnel_arrives_counts_at_sockets_whose_address_is_not_configured(
    listen: ListenAddress,
) -> None:
    here, _ = make_hbone()
    [inbound] = here.settings.inbound
    here.configure(replace(here.settings, inbound=(replace(inbound, listen=listen),)))
    tunnel, _ = carried(current(here))
    scope = admitted(current(here), stream(tunnel)).cache_scope
    assert scope is not None
    assert CacheScope.LOCAL in scope


async def test_a_handshake_that_the_new_door_would_not_make_carries_nothing() -> None:
    here, door = make_hbone()
    who = shaken(door)
    here.configure(replace(here.settings, tls=TlsSettings(groups=("X25519",))))
    made = FakeConnection(who, peer=who.peer, tls=FACTS, dialled=None)
    closed = current(here).carrying(made)
    assert [each.outcome for each in made.refusals] == [Outcome.POLICY_CHANGED]
    closed(made, ending(Outcome.POLICY_CHANGED))
    assert len(here.connections.tunnels) == 0


async def test_streams_to_the_same_target_share_what_is_known_of_them_and_memory_is_bounded() -> (
    None
):
    here, door = make_hbone(ports="all")
    tunnel, _ = carried(door)
    for number in (2, 3):
        open_stream(door, stream(tunnel, number=number))
    infos = [entry.info for entry in here.connections]
    assert infos[0].target is infos[1].target
    before = infos[0].target
    most = 0
    for port in range(20_000, 20_000 + 3 * MAX_WAYS):
        admitted(door, stream(tunnel, TcpAddress("10.0.0.7", port), port))
        if port == 20_001:
            open_stream(door, stream(tunnel, number=9))
            assert next(iter(here.connections)).info.target is before
        most = max(most, len(door._ways))
    assert most == MAX_WAYS
