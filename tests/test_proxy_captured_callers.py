"""An inbound door for capture: who gets in by the port that was meant, under which rule, and what
is known of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers.connections import FakeConnection, arrival, ending, known
from tests.helpers.world import World, credentials, peer, settings, with_crl
from uproxy.config.settings import InboundSettings, RuleFrom, RuleSettings, RuleTo
from uproxy.connections.recheck import recheck
from uproxy.contract import Arrival, CacheScope, Refusal, Route, TlsPlan
from uproxy.lab.pki import Authority
from uproxy.lifecycle import State
from uproxy.model import Host, Outcome, TcpAddress, Transport
from uproxy.proxy.inbound import InboundDoor
from uproxy.proxy.naming import Own
from uproxy.proxy.ways import Way, way_of

CA = Authority("example.org")
OURS, WEB = CA.issue("/ns/db/sa/orders"), CA.issue("/ns/web/sa/frontend")
POD = "10.0.0.7"
DOOR = InboundSettings(
    "in",
    TcpAddress("::", 15006),
    Transport.MTLS,
    ports={
        8080: Transport.MTLS,
        8082: Transport.MTLS,
        8443: Transport.PASSTHROUGH,
        3306: Transport.PLAINTEXT,
    },
    captured=True,
    migrate=(8082,),
)
WORKLOADS = RuleSettings("workloads", "allow", RuleFrom(any=True))
PROBES = RuleSettings(
    "probes", "allow", RuleFrom(unauthenticated=True), RuleTo(ports=(3306, 8443, 8082))
)


def make(door: InboundSettings = DOOR, *, identity: bool = True) -> tuple[World, InboundDoor]:
    config = settings(WORKLOADS, PROBES, inbound=(door,))
    here = World(config, credentials(OURS if identity else None, CA), now=CA.now, own={POD})
    return here, current(here)


def current(here: World) -> InboundDoor:
    door = here.door()
    assert isinstance(door, InboundDoor)
    return door


def made_to(port: int, door: InboundDoor | None = None, number: int = 1) -> Arrival:
    """In clear, or with `door` after its handshake; redirected by netfilter."""
    made = replace(
        arrival(number=number), target=TcpAddress(POD, port), local=TcpAddress(POD, 15006)
    )
    if door is None:
        return made
    plan = door.tls()
    assert isinstance(plan, TlsPlan)
    return replace(made, peer=peer(WEB, CA), tls=plan)


def admitted(door: InboundDoor, arrived: Arrival) -> Route:
    route = door.admit(arrived)
    assert isinstance(route, Route), route
    return route


def refused(door: InboundDoor, arrived: Arrival) -> Refusal:
    refusal = door.admit(arrived)
    assert isinstance(refusal, Refusal)
    return refusal


def test_the_engine_is_told_at_which_ports_there_is_a_handshake() -> None:
    _, door = make()
    assert door.captured
    assert door.tls_ports == frozenset({8080, 8082})
    assert door.migrating_ports == frozenset({8082})


@pytest.mark.parametrize("port", [8080, 8082])
def test_a_workload_is_let_in_by_its_identity(port: int) -> None:
    here, door = make()
    route = admitted(door, made_to(port, door))
    assert route.rule == "workloads"
    assert [each.addresses for each in route.candidates] == [(TcpAddress(POD, port),)]
    assert route.cache_scope == frozenset({CacheScope.PEER, CacheScope.TARGET})
    door.opened(FakeConnection(made_to(port, door), route=route, peer=peer(WEB, CA)))
    [entry] = here.connections
    assert (entry.info.transport, entry.info.port) == (Transport.MTLS, port)


@pytest.mark.parametrize(
    ("port", "transport"),
    [(3306, Transport.PLAINTEXT), (8443, Transport.PASSTHROUGH), (8082, Transport.PLAINTEXT)],
)
def test_a_caller_without_an_identity_needs_a_rule_for_such(
    port: int, transport: Transport
) -> None:
    here, door = make()
    route = admitted(door, made_to(port))
    assert route.rule == "probes"
    door.opened(FakeConnection(made_to(port), route=route))
    [entry] = here.connections
    assert (entry.info.transport, entry.info.own) == (transport, None)
    here.configure(replace(here.settings, authorization=(WORKLOADS,)))
    assert refused(current(here), made_to(port)).outcome is Outcome.DENIED


def test_without_an_identity_of_ours_ports_in_clear_stay_open() -> None:
    _, door = make(identity=False)
    assert admitted(door, made_to(3306)).rule == "probes"
    assert admitted(door, made_to(8082)).rule == "probes"
    assert refused(door, made_to(8080)).outcome is Outcome.NO_IDENTITY


def test_a_host_in_to_is_dialled_instead_and_rules_see_the_port_that_was_meant() -> None:
    _, door = make(replace(DOOR, to=Host("127.0.0.1")))
    route = admitted(door, made_to(3306))
    assert [each.addresses for each in route.candidates] == [(TcpAddress("127.0.0.1", 3306),)]


def test_who_was_not_captured_leads_nowhere() -> None:
    here, _ = make()
    application, base = here.snapshot.applications["in"], known()
    own = Own(frozenset(), lambda _ip: True)
    refusal = way_of(application, own, base, replace(made_to(3306), target=None))
    assert isinstance(refusal, Refusal)
    assert "is for captured connections, and this one was not" in refusal.reason
    way = way_of(application, own, base, made_to(3306))
    assert isinstance(way, Way)
    assert (way.target.port, str(way.target.address)) == (3306, POD)


def test_a_captured_connection_is_for_the_address_it_was_made_to_wherever_capture_brought_it() -> (
    None
):
    """An application is reached at 127.0.0.1 too, if its host's users connect to it there; and who
    was brought to another address of the host may not reach what stands behind that one."""
    here, _ = make()
    application = here.snapshot.applications["in"]
    own = Own(frozenset(), lambda ip: str(ip) in (POD, "127.0.0.1"))
    for host, local in ((POD, "127.0.0.1"), ("127.0.0.1", POD)):
        arrived = replace(
            made_to(3306), target=TcpAddress(host, 3306), local=TcpAddress(local, 15006)
        )
        way = way_of(application, own, known(), arrived)
        assert isinstance(way, Way), way
        assert str(way.target.address) == host


def test_our_own_dial_that_comes_back_leads_nowhere_and_is_told_the_kernel_it_needs() -> None:
    _, door = make(replace(DOOR, preserve_source=True))
    refusal = refused(door, replace(made_to(3306), target=None))
    assert refusal.outcome is Outcome.NO_DESTINATION
    assert refusal.reason == (
        "uProxy's own connection to the application came back to door in: `preserve_source` needs "
        "Linux 5.17 or later"
    )


async def test_an_unlisted_port_leads_nowhere_and_the_log_says_what_was_meant() -> None:
    here, door = make()
    arrived = made_to(22)
    refusal = refused(door, arrived)
    assert refusal.reason == "port 22 isn't among `ports` of door in"
    end = ending(refusal.outcome, State.ADMITTING, reason=refusal.reason)
    door.closed(FakeConnection(arrived, dialled=None), end)
    fields = dict(here.records[0].fields)
    assert (fields["dst.addr"], fields["transport"]) == (f"{POD}:22", Transport.PLAINTEXT)


def test_a_caller_in_clear_is_refused_where_the_port_has_become_mtls() -> None:
    here, _ = make()
    ports = {**dict(DOOR.ports), 3306: Transport.MTLS}  # type: ignore[arg-type]  # a mapping here
    here.configure(replace(here.settings, inbound=(replace(DOOR, ports=ports),)))
    refusal = refused(current(here), made_to(3306))
    assert refusal.reason == "while it was arriving, door in became mtls: dial again"


@pytest.mark.parametrize("port", [3306, 8443, 8082])
def test_an_open_connection_in_clear_is_cut_when_its_port_becomes_mtls_alone(
    port: int,
) -> None:
    here, door = make()
    route = admitted(door, made_to(port))
    connection = FakeConnection(made_to(port), route=route)
    door.opened(connection)
    [entry] = here.connections
    assert recheck(here.snapshot, entry.info, connection, here.now) is None
    ports = {**dict(DOOR.ports), port: Transport.MTLS}  # type: ignore[arg-type]  # a mapping here
    changed = replace(DOOR, ports=ports, migrate=())
    here.configure(replace(here.settings, inbound=(changed,)))
    refusal = recheck(here.snapshot, entry.info, connection, here.now)
    assert refusal is not None
    assert refusal.outcome is Outcome.POLICY_CHANGED
    assert refusal.reason == "door in is mtls now, and this connection is in clear"


def test_the_application_is_dialled_from_its_callers_address_where_that_is_preserved() -> None:
    _, door = make(replace(DOOR, preserve_source=True))
    route = admitted(door, made_to(3306))
    assert route.dial_from == arrival().source
    assert route.cache_scope is None
    _, other = make()
    assert admitted(other, made_to(3306)).dial_from is None


def test_a_handshake_that_was_made_where_plaintext_may_come_too_is_checked_all_the_same() -> None:
    here, door = make()
    arrived = made_to(8082, door)
    here.believe(with_crl(here.credentials, CA, WEB))
    refusal = refused(current(here), arrived)
    assert refusal.outcome is Outcome.IDENTITY_DISTRUSTED


def test_callers_in_clear_and_others_at_one_port_are_told_apart() -> None:
    here, door = make()
    for number, arrived in enumerate((made_to(8082), made_to(8082, door)), start=1):
        numbered = replace(arrived, id=number)
        route = admitted(door, numbered)
        door.opened(FakeConnection(numbered, route=route, peer=numbered.peer))
    newest, oldest = here.connections
    assert newest.info.transport is Transport.MTLS
    assert oldest.info.transport is Transport.PLAINTEXT


@pytest.mark.parametrize(
    ("door", "transport"),
    [
        (DOOR, Transport.MTLS),
        (
            InboundSettings("in", TcpAddress("::", 15008), Transport.HBONE, ports=(8080,)),
            Transport.HBONE,
        ),
    ],
)
async def test_what_was_never_in_clear_is_not_logged_so(
    door: InboundSettings, transport: Transport
) -> None:
    here, made = make(door)
    plan = made.tls()
    assert isinstance(plan, TlsPlan)
    begun = arrival()  # the handshake, at a door for capture
    arrived = replace(begun, tls=plan, target=TcpAddress("192.0.2.9", 8080))
    end = ending(Outcome.HANDSHAKE_FAILED, State.HANDSHAKING_DOWNSTREAM)
    made.closed(FakeConnection(arrived if door.captured else begun, dialled=None), end)
    assert dict(here.records[0].fields)["transport"] == transport
