"""Routes that lead through tunnels, as both engines see them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers.tunnels import outbound_door
from uproxy.contract import PLAIN, Candidate, RefusedError, Route, Tunnel
from uproxy.model import TcpAddress, Timeouts, UnixAddress
from uproxy.transport.through import (
    END_DELAY_S,
    MAX_TUNNELS_TRIED,
    Tries,
    end_delay,
    end_of,
    one_address_each,
)

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


def test_each_candidate_may_be_reached_in_a_way_of_its_own() -> None:
    route = through(15008)
    assert isinstance(route.upstream, Tunnel)
    other = Candidate("db", (V4, V6), upstream=PLAIN)
    elsewhere = Candidate("db", (V4,), upstream=replace(route.upstream, end=END))
    route = replace(route, candidates=(route.candidates[0], other, elsewhere))
    found = [each.addresses for each in one_address_each(route)]
    assert found == [(V4,), (V6,), (V4, V6), (V4,)]
    assert end_of(route, other) is None
    assert end_of(route, elsewhere) == END


def test_our_end_waits_for_an_l7_proxys_and_never_longer_than_the_half_close_lasts() -> None:
    route = through(END)
    [candidate] = route.candidates
    assert end_delay(route, candidate) == 0
    assert isinstance(route.upstream, Tunnel)
    route = replace(route, upstream=replace(route.upstream, via="l7"))
    assert end_delay(route, candidate) == END_DELAY_S
    for half_close, delay in ((2.0, 1.0), (0, END_DELAY_S)):
        timeouts = Timeouts(half_close=half_close)
        assert end_delay(replace(route, timeouts=timeouts), candidate) == delay


def test_no_tunnel_leads_to_a_unix_socket() -> None:
    route = through(END)
    assert isinstance(route.upstream, Tunnel)
    with pytest.raises(RefusedError, match="can't be named in a CONNECT"):
        end_of(route, Candidate("db", (UnixAddress("/run/db.sock"),)))


LIMITED = replace(through(END), timeouts=Timeouts(connect=5.0))


def test_all_tries_to_reach_an_address_share_one_deadline() -> None:
    tries = Tries(100.0)
    assert tries.begin(LIMITED, 101.0) == 5.0
    assert tries.seconds(LIMITED, 104.0) == 5.0  # a step of the first try has a deadline of its own
    assert tries.again(LIMITED, 103.0)
    assert tries.begin(LIMITED, 103.5) == 2.5
    assert tries.seconds(LIMITED, 105.0) == 1.0
    assert 0 < tries.seconds(LIMITED, 107.0) < 0.1
    assert tries.again(LIMITED, 105.9)
    assert not tries.again(LIMITED, 106.0)
    assert tries.begin(LIMITED, 110.0) == 5.0  # another address
    assert tries.again(LIMITED, 114.0)


def test_a_first_try_that_was_anothers_counts_from_when_it_failed() -> None:
    tries = Tries(100.0)
    assert tries.again(LIMITED, 100.0)
    assert tries.begin(LIMITED, 104.0) == 1.0


def test_without_a_deadline_the_number_of_tries_is_bounded_alone() -> None:
    unlimited, tries = replace(LIMITED, timeouts=Timeouts(connect=0)), Tries(0.0)
    for now in range(1, MAX_TUNNELS_TRIED):
        assert tries.begin(unlimited, 100.0 * now) == 0
        assert tries.again(unlimited, 100.0 * now)
    assert not tries.again(unlimited, 0.0)
    assert tries.begin(unlimited, 0.0) == 0
    assert not tries.again(unlimited, 0.0)  # another address is tried once
