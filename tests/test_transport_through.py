"""Routes that lead through tunnels, as both engines see them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers.tunnels import outbound_door
from uproxy.contract import PLAIN, Candidate, RefusedError, Route, Tunnel
from uproxy.model import TcpAddress, UnixAddress
from uproxy.transport.through import end_of, one_address_each

V4, V6 = TcpAddress("192.0.2.1", 5432), TcpAddress("2001:db8::1", 5432)
END = TcpAddress("192.0.2.9", 15008)


def through(end: TcpAddress | int) -> Route:
    route = outbound_door(end, V4).answer
    assert isinstance(route, Route)
    return replace(route, candidates=(Candidate("db", (V4, V6)),))


def test_addresses_do_not_race_through_a_tunnel() -> None:
    route = through(15008)
    assert [each.addresses for each in one_address_each(route)] == [(V4,), (V6,)]
    assert one_address_each(replace(route, upstream=PLAIN)) == route.candidates


def test_a_tunnel_ends_at_a_port_of_the_applications_host_or_where_it_is_said() -> None:
    assert end_of(through(15008), Candidate("db", (V6,))) == TcpAddress("2001:db8::1", 15008)
    assert end_of(through(END), Candidate("db", (V4,))) == END
    assert end_of(replace(through(END), upstream=PLAIN), Candidate("db", (V4,))) is None


def test_no_tunnel_leads_to_a_unix_socket() -> None:
    route = through(END)
    assert isinstance(route.upstream, Tunnel)
    with pytest.raises(RefusedError, match="can't be named in a CONNECT"):
        end_of(route, Candidate("db", (UnixAddress("/run/db.sock"),)))
