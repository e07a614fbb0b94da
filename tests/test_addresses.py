"""What a configuration's addresses become once they are resolved."""

from __future__ import annotations

from tests.helpers.destinations import Destination
from uproxy.addresses import Addresses
from uproxy.destinations import Endpoints
from uproxy.model import TcpAddress, UnixAddress

A, B, C = (TcpAddress(f"10.0.0.{n}", 5432) for n in (1, 2, 3))
NAME = TcpAddress("db.internal", 5432)
A6 = TcpAddress("fd00::1", 5432)


def test_an_address_listed_twice_is_one_endpoint() -> None:
    destination = Destination((A, NAME))
    destination.resolved(NAME, (A,))
    assert [candidate.endpoint for candidate in destination.candidates(0.0)] == [str(A)]


def test_addresses_never_change_and_others_take_their_place() -> None:
    before = Addresses.of((NAME, B), {NAME: (C,)})
    after = Addresses.of((NAME, B), {NAME: (A,)})
    assert (list(before.listed), list(after.listed)) == ([C, B], [A, B])


def test_there_is_a_choice_unless_there_is_exactly_one_address() -> None:
    assert not Destination((A,)).choice
    assert not Destination((A, A)).choice
    assert not Destination((UnixAddress("/run/app.sock"),)).choice
    assert Destination((A, B)).choice
    named = Destination((NAME,))
    assert named.choice
    named.resolved(NAME, (A,))
    assert not named.choice
    named.failed(A, 10.0, "refused")
    assert [each.addresses for each in named.candidates(10.0)] == [(A,)]
    named.resolved(NAME, (A, A6))
    assert named.choice


def test_names_may_be_kept_out_of_handshakes() -> None:
    addresses = Addresses.of((NAME,), {NAME: (A,)}, sends_names=False)
    [candidate] = Endpoints().candidates(addresses, 0.0)
    assert candidate.server_name is None
    addresses = Addresses.of((NAME,), {NAME: (A,)}, "reviews.example", sends_names=False)
    [candidate] = Endpoints().candidates(addresses, 0.0)
    assert candidate.server_name == "reviews.example"


def test_one_server_name_is_told_to_every_address_and_follows_a_reload() -> None:
    destination = Destination((A, B), "reviews.example")
    assert {each.server_name for each in destination.candidates(0.0)} == {"reviews.example"}
    destination.configure((A,))
    assert [each.server_name for each in destination.candidates(0.0)] == [None]
    destination.configure((A,), "other.example")
    assert [each.server_name for each in destination.candidates(0.0)] == ["other.example"]


def test_a_server_name_takes_the_place_of_an_addresss_own() -> None:
    assert Addresses.of((NAME,), {}).sni(NAME) == "db.internal"
    named = Addresses.of((NAME, A), {}, "reviews.example")
    assert [named.sni(each) for each in (NAME, A)] == ["reviews.example"] * 2
    here = UnixAddress("/run/app.sock")
    assert [Addresses.of((A, here), {}).sni(each) for each in (A, here)] == [None, None]


def test_they_are_open_where_connections_name_the_address_or_its_port() -> None:
    assert Addresses.of((), {}).is_open
    assert Addresses.of((TcpAddress("127.0.0.1", 0),), {}).is_open
    assert Addresses.of((TcpAddress("app.internal", 0),), {}).is_open
    for address in (A, NAME, UnixAddress("/run/app.sock")):
        assert not Addresses.of((address,), {}).is_open
