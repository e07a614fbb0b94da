"""Which addresses a door leads to, for what is open; for who arrives: test_proxy_naming."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from uproxy.config.settings import ALL_PORTS, InboundSettings
from uproxy.connections.serving import is_here, off_ports, unserved
from uproxy.model import TcpAddress, Transport, UnixAddress
from uproxy.policy import Target

LISTEN = TcpAddress("0.0.0.0", 15008)
HERE, LOOPBACK = TcpAddress("10.0.0.7", 15008), ip_address("127.0.0.1")
NAMED = ip_address("10.0.0.7")
TUNNELS = InboundSettings("in", LISTEN, Transport.HBONE, None, (8080,), (LOOPBACK,))
CAPTURED = InboundSettings(
    "in", LISTEN, Transport.MTLS, captured=True, ports={8080: Transport.MTLS}
)
PLAIN = InboundSettings("in", LISTEN, Transport.MTLS, TcpAddress("127.0.0.1", 8080))


@pytest.mark.parametrize("door", [TUNNELS, CAPTURED])
def test_a_port_that_is_listed_is_served_and_no_other(door: InboundSettings) -> None:
    assert unserved(door, Target(8080, NAMED, "in"), HERE) is None
    reason = "port 5432 isn't among `ports` of door in"
    assert unserved(door, Target(5432, NAMED, "in"), HERE) == off_ports(door, 5432) == reason
    assert unserved(door, Target(None, None, "in"), HERE) is None


def test_all_ports_are_served_where_all_are_meant() -> None:
    assert unserved(replace(TUNNELS, ports=ALL_PORTS), Target(5432, NAMED, "in"), HERE) is None


def test_behind_tunnels_the_address_is_one_that_is_listed_or_where_they_arrived() -> None:
    away = ip_address("10.0.0.8")
    target = Target(8080, away, "in")
    assert unserved(TUNNELS, target, HERE) == "10.0.0.8 isn't among `addresses` of door in"
    assert unserved(replace(TUNNELS, addresses=(away,)), target, HERE) is None
    assert unserved(TUNNELS, target, TcpAddress("10.0.0.8", 15008)) is None
    assert unserved(TUNNELS, Target(8080, LOOPBACK, "in"), UnixAddress("/run/in.sock")) is None
    assert unserved(TUNNELS, Target(8080, None, "in"), HERE) is None
    assert not is_here(ip_address("0.0.0.0"), TUNNELS, HERE)
    # a captured connection was made to an address of this host, wherever it arrived
    assert unserved(CAPTURED, target, HERE) is None


def test_a_door_for_one_application_keeps_what_is_open() -> None:
    assert unserved(PLAIN, Target(5432, LOOPBACK, "in"), HERE) is None
