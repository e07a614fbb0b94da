"""Where captured connections go, and which are refused so that none goes in circles."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.helpers.connections import arrival
from tests.helpers.world import World, credentials, settings
from uproxy.config.settings import DestinationSettings, MatchSettings, OutboundSettings
from uproxy.contract import Arrival, Refusal
from uproxy.lab.pki import Authority
from uproxy.model import Address, Outcome, TcpAddress, Transport, UnixAddress
from uproxy.proxy.naming import Own
from uproxy.proxy.originally import original_destination_of
from uproxy.snapshot import Destination

CA = Authority("example.org")
DOOR = OutboundSettings(TcpAddress("::", 15001), captured=True)
THERE = TcpAddress("192.0.2.7", 80)
REST = DestinationSettings("rest", (), Transport.PLAINTEXT, match=MatchSettings())
FIXED = DestinationSettings(
    "fixed",
    (TcpAddress("10.0.0.7", 80),),
    Transport.PLAINTEXT,
    match=MatchSettings((ip_network("10.0.0.0/8"), ip_network("fe80::/10"))),
)
HERE = "10.0.0.2"


def made_to(target: TcpAddress | None, local: str = "127.0.0.1") -> Arrival:
    """As netfilter redirects it on this host."""
    source = TcpAddress(HERE, 40000)
    return replace(arrival(source=source), target=target, local=TcpAddress(local, 15001))


def found(arrived: Arrival, door: OutboundSettings = DOOR) -> Destination | Refusal:
    config = settings(outbound=(door,), destinations={"rest": REST, "fixed": FIXED})
    here = World(config, credentials(None, CA), now=CA.now)
    own = Own(frozenset({15001, 15021}), lambda ip: ip.is_loopback or str(ip) == HERE)
    return original_destination_of(door, here.snapshot, own, arrived)


def name(arrived: Arrival) -> str:
    to = found(arrived)
    assert isinstance(to, Destination), to
    return to.settings.name


def why(arrived: Arrival, door: OutboundSettings = DOOR) -> str:
    refusal = found(arrived, door)
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.NO_DESTINATION
    return refusal.reason


def test_the_original_destination_picks_one() -> None:
    assert name(made_to(THERE)) == "rest"
    assert name(made_to(TcpAddress("10.9.9.9", 80))) == "fixed"
    assert name(made_to(TcpAddress("2001:db8::7", 80), "::1")) == "rest"


def test_an_address_that_ebpf_has_left_as_it_was_is_no_loopback_one() -> None:
    assert name(replace(made_to(THERE), local=THERE)) == "rest"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", HERE])
@pytest.mark.parametrize("port", [15001, 15021])
def test_who_connects_to_uproxy_itself_is_refused(host: str, port: int) -> None:
    itself = TcpAddress(host, port)
    said = why(replace(made_to(itself), local=itself))
    assert said.startswith(f"{itself} is where uProxy itself listens")


def test_a_port_of_uproxy_at_another_host_is_reached() -> None:
    there = TcpAddress("192.0.2.7", 15001)
    assert name(replace(made_to(there), local=there)) == "rest"


def test_an_address_of_this_host_is_not_dialled_for_it_could_lead_back_here() -> None:
    assert "could lead back here" in why(made_to(TcpAddress("127.0.0.1", 80)))
    assert name(made_to(TcpAddress(HERE, 80))) == "fixed"  # which is dialled elsewhere


def test_a_link_local_address_without_its_interface_is_not_dialled() -> None:
    door, config = DOOR, settings(outbound=(DOOR,), destinations={"rest": REST})
    here = World(config, credentials(None, CA), now=CA.now)
    own = Own(frozenset(), lambda _ip: False)
    meant = TcpAddress("fe80::7", 80)
    refusal = original_destination_of(door, here.snapshot, own, made_to(meant, "::1"))
    assert isinstance(refusal, Refusal)
    assert "another host at each interface" in refusal.reason
    assert name(made_to(meant, "::1")) == "fixed"


@pytest.mark.parametrize("local", ["10.0.0.2", "2001:db8::2"])
def test_connections_of_other_hosts_borrow_no_identity(local: str) -> None:
    assert "is another host" in why(made_to(THERE, local))
    assert isinstance(found(made_to(THERE, local), replace(DOOR, expose=True)), Destination)


def test_a_connection_that_nobody_rewrote_is_of_this_host_if_its_source_is() -> None:
    brought = replace(made_to(THERE), local=THERE, source=TcpAddress("10.0.0.99", 40000))
    assert "is another host" in why(brought)
    assert isinstance(found(brought, replace(DOOR, expose=True)), Destination)
    mapped = TcpAddress(f"::ffff:{HERE}", 40000)
    assert name(replace(brought, source=mapped)) == "rest"


def test_who_was_not_captured_has_nowhere_to_go() -> None:
    assert "this one was not" in why(made_to(None))


def test_what_nothing_matches_goes_nowhere() -> None:
    config = settings(outbound=(DOOR,), destinations={"fixed": FIXED})
    here = World(config, credentials(None, CA), now=CA.now)
    refusal = original_destination_of(
        DOOR, here.snapshot, Own(frozenset(), lambda _ip: False), made_to(THERE)
    )
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "no destination has a `match` for 192.0.2.7:80"


def test_a_link_local_address_of_ipv4_is_dialled() -> None:
    assert name(made_to(TcpAddress("169.254.169.254", 80))) == "rest"


@pytest.mark.parametrize("local", [UnixAddress("/run/in.sock"), TcpAddress("a.internal", 15001)])
def test_what_arrived_nowhere_that_is_known_is_no_connection_of_this_host(local: Address) -> None:
    assert "is another host" in why(replace(made_to(THERE), local=local))


@pytest.mark.parametrize("source", [UnixAddress("/run/app.sock"), TcpAddress("a.internal", 40000)])
def test_what_comes_from_nowhere_that_is_known_is_no_connection_of_this_host(
    source: Address,
) -> None:
    assert "is another host" in why(replace(made_to(THERE), local=THERE, source=source))
