"""Which addresses a CONNECT may name."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest

from tests.helpers.connections import arrival
from tests.helpers.world import peer, settings
from uproxy.config.settings import AdminSettings, InboundSettings, OutboundSettings
from uproxy.contract import Refusal, TlsPlan
from uproxy.lab.pki import Authority
from uproxy.model import Address, Outcome, SystemdAddress, TcpAddress, Transport, UnixAddress
from uproxy.proxy.naming import (
    Own,
    captured_address,
    is_in_clear,
    named_address,
    own_ports,
    spoken_at,
)

CA = Authority("example.org")
HERE = TcpAddress("10.0.0.7", 15008)
OWN = frozenset({15008, 15021, 5432})


def named(
    host: str,
    port: int = 8080,
    *,
    ports: tuple[int, ...] | str = (8080, 5432),
    listed: tuple[str, ...] = (),
    local: Address = HERE,
) -> TcpAddress | Refusal:
    addresses = tuple(ip_address(each) for each in listed)
    door = InboundSettings("api", TcpAddress("::", 15008), Transport.HBONE, None, ports, addresses)
    return named_address(door, OWN, local, TcpAddress(host, port))


@pytest.mark.parametrize(
    ("host", "local", "means"),
    [
        ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("10.0.0.7", "::ffff:10.0.0.7", "10.0.0.7"),
        ("::ffff:a00:7", "::ffff:10.0.0.7", "10.0.0.7"),
        ("fd00::7", "fd00::7", "fd00::7"),
        ("FD00:0::7", "fd00::7", "fd00::7"),
    ],
)
def test_the_address_at_which_the_tunnel_arrived_may_be_named_in_any_form(
    host: str, local: str, means: str
) -> None:
    assert named(host, local=TcpAddress(local, 15008)) == TcpAddress(means, 8080)


def test_an_address_that_the_door_lists_may_be_named_wherever_the_tunnel_arrived() -> None:
    listed = ("10.0.0.8", "127.0.0.1", "::1")
    for host in (*listed, "::ffff:10.0.0.8"):
        for local in (HERE, UnixAddress("/run/in.sock")):
            found = named(host, listed=listed, local=local)
            assert isinstance(found, TcpAddress)
            assert found.host in listed


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("10.0.0.8", "10.0.0.7"),  # somebody else
        ("0.0.0.0", "10.0.0.7"),
        ("::", "10.0.0.7"),
        ("::ffff:0.0.0.0", "10.0.0.7"),
        ("127.0.0.1", "10.0.0.7"),
        ("127.0.0.1", "127.0.0.1"),  # even if it arrived there
        ("127.8.9.1", "127.8.9.1"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("169.254.169.254", "169.254.169.254"),
        ("fe80::1", "fe80::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("224.0.0.1", "224.0.0.1"),
        ("ff02::1", "ff02::1"),
        ("255.255.255.255", "10.0.0.7"),
        ("::10.0.0.7", "10.0.0.7"),  # IPv4-compatible, 6to4 and NAT64 forms are other addresses
        ("2002:a00:7::", "10.0.0.7"),
        ("64:ff9b::10.0.0.7", "10.0.0.7"),
        ("fd00::7%eth0", "fd00::7"),
        ("orders.internal", "10.0.0.7"),
        ("localhost", "10.0.0.7"),
        ("", "10.0.0.7"),
    ],
)
def test_nothing_else_may_be_named(host: str, local: str) -> None:
    found = named(host, local=TcpAddress(local, 15008), ports="all")
    assert isinstance(found, Refusal)
    assert found.outcome is Outcome.NO_DESTINATION


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "224.0.0.1", "169.254.1.1", "fe80::1"])
def test_what_is_no_address_of_one_host_may_not_be_named_even_if_listed(host: str) -> None:
    # the configuration doesn't let it through; a defect there must not open this
    found = named(host, listed=(host,), ports="all")
    assert isinstance(found, Refusal)
    assert found.reason.endswith(" is no address of this workload")


def test_at_a_unix_socket_only_what_is_listed_may_be_named() -> None:
    found = named("10.0.0.7", local=UnixAddress("/run/in.sock"), listed=("10.0.0.8",))
    assert isinstance(found, Refusal)
    assert found.outcome is Outcome.NO_DESTINATION


def test_a_refusal_says_what_would_let_the_address_in() -> None:
    found = named("10.0.0.8")
    assert found == Refusal(
        Outcome.NO_DESTINATION,
        "10.0.0.8:8080 is no address of this workload: if it is one, add it to `addresses` of "
        "door api",
    )
    found = named("db.internal")
    assert isinstance(found, Refusal)
    assert found.reason == "db.internal:8080 is a name: name an IP address of this workload"


def test_only_the_doors_ports_may_be_named() -> None:
    found = named("10.0.0.7", 22)
    assert found == Refusal(Outcome.NO_DESTINATION, "port 22 isn't among `ports` of door api")
    assert named("10.0.0.7", 22, ports="all") == TcpAddress("10.0.0.7", 22)


@pytest.mark.parametrize("ports", ["all", (8080, 5432, 15008)])
@pytest.mark.parametrize("port", sorted(OWN))
def test_no_port_at_which_uproxy_listens_may_be_named(
    port: int, ports: tuple[int, ...] | str
) -> None:
    found = named("10.0.0.7", port, ports=ports)
    assert isinstance(found, Refusal)
    assert found.outcome is Outcome.CONNECT_FAILED
    assert "uProxy itself listens" in found.reason


def test_the_port_at_which_the_tunnel_arrived_is_uproxys_whatever_is_configured() -> None:
    found = named("10.0.0.7", 9, ports="all", local=TcpAddress("10.0.0.7", 9))
    assert isinstance(found, Refusal)
    assert found.outcome is Outcome.CONNECT_FAILED


def test_an_address_of_somebody_else_is_refused_as_such_whatever_its_port() -> None:
    found = named("10.0.0.8", 15008)
    assert isinstance(found, Refusal)
    assert found.outcome is Outcome.NO_DESTINATION


def test_uproxys_ports_are_those_of_its_doors_its_admin_listeners_and_systemds_sockets() -> None:
    config = settings(
        inbound=(
            InboundSettings("api", TcpAddress("::", 15008), Transport.HBONE, None, "all"),
            InboundSettings("in", SystemdAddress("in"), Transport.MTLS, TcpAddress("10.0.0.1", 1)),
        ),
        outbound=(OutboundSettings(TcpAddress("127.0.0.1", 5432), "db"),),
        admin=AdminSettings(TcpAddress("127.0.0.1", 15000), TcpAddress("127.0.0.1", 15020), None),
    )
    assert own_ports(config, frozenset({8443})) == {15008, 5432, 15000, 15020, 8443}
    ready = AdminSettings(None, UnixAddress("/run/metrics"), TcpAddress("::", 15021))
    assert own_ports(settings(admin=ready), frozenset()) == {15021}


# What a captured connection may have been made to.

CAPTURED = InboundSettings(
    "in",
    TcpAddress("::", 15006),
    Transport.MTLS,
    ports={8080: Transport.MTLS, 3306: Transport.PLAINTEXT},
    captured=True,
    migrate=(8080,),
)


def made_to(host: str, port: int = 8080) -> TcpAddress | Refusal:
    own = Own(frozenset({15006, 3306}), lambda ip: ip.is_loopback or str(ip) == "10.0.0.7")
    return captured_address(CAPTURED, own, TcpAddress(host, port))


@pytest.mark.parametrize("host", ["10.0.0.7", "::ffff:10.0.0.7", "::ffff:a00:7"])
def test_a_captured_connection_reaches_the_application_it_was_made_to(host: str) -> None:
    assert made_to(host) == TcpAddress("10.0.0.7", 8080)


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("10.0.0.8", 8080, "is no address of this host"),
        ("::ffff:10.0.0.8", 8080, "is no address of this host"),
        ("orders.internal", 8080, "is a name"),
        ("10.0.0.7", 8081, "port 8081 isn't among `ports` of door in"),
        ("10.0.0.7", 15006, "is where uProxy itself listens"),
        ("10.0.0.7", 3306, "is where uProxy itself listens"),
    ],
)
def test_a_captured_connection_reaches_nothing_else(host: str, port: int, reason: str) -> None:
    refusal = made_to(host, port)
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.NO_DESTINATION
    assert reason in refusal.reason


def test_what_a_caller_speaks_is_what_the_port_says_or_clear_where_it_may() -> None:
    in_clear = arrival()
    assert is_in_clear(in_clear)
    assert spoken_at(CAPTURED, 3306, in_clear) is Transport.PLAINTEXT
    assert spoken_at(CAPTURED, 8080, in_clear) is Transport.PLAINTEXT
    shaken = replace(in_clear, peer=peer(CA.issue("/ns/web/sa/frontend"), CA))
    assert not is_in_clear(shaken)
    assert spoken_at(CAPTURED, 8080, shaken) is Transport.MTLS
    assert not is_in_clear(replace(in_clear, tls=cast("TlsPlan", object())))
    assert spoken_at(replace(CAPTURED, migrate=()), 8080, in_clear) is Transport.MTLS
