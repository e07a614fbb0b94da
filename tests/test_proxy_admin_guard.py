"""Who may ask the admin listener."""

from __future__ import annotations

import pytest

from tests.helpers.refusals import refused
from uproxy.model import TcpAddress, UnixAddress
from uproxy.proxy.admin.guard import refuse_foreign_page, refuse_remote
from uproxy.proxy.admin.messages import ClientAddresses, Request

LOOPBACK = TcpAddress("127.0.0.1", 15000)
NETWORK = TcpAddress("10.0.0.7", 15000)
UNIX = UnixAddress("/run/uproxy/admin.sock")
NAMES = frozenset({"localhost", "orders-7f9c"})


def asked(
    host: str | None,
    *,
    local: TcpAddress | UnixAddress = LOOPBACK,
    peer: TcpAddress | UnixAddress = LOOPBACK,
    origin: str | None = None,
) -> Request:
    return Request("GET", "/drain", ClientAddresses(peer, local, NAMES), host, origin)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:15000", "127.0.0.1", "localhost:15000", "LocalHost", "[::1]:15000", "127.9.9.9",
     "orders-7f9c:15000", "[::ffff:127.0.0.1]:15000"],
)  # fmt: skip
def test_an_address_or_a_name_of_the_listener_is_taken(host: str) -> None:
    assert refuse_foreign_page(asked(host)) is None


def test_the_address_it_arrived_at_is_the_listeners_on_a_wildcard_too() -> None:
    assert refuse_foreign_page(asked("10.0.0.7:15000", local=NETWORK)) is None


def test_a_forwarded_port_is_no_stranger() -> None:
    assert refuse_foreign_page(asked("localhost:9999")) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:15000", "localhost.evil.example", "127.0.0.1.evil.example",
     "10.0.0.7:15000", "localhost:evil", "localhost:15000:1", "user@localhost", "[::1", "[::1]x",
     "::1", "0.0.0.0", "", ":15000", "127.1", "2130706433", "localhost:\uff11"],
)  # fmt: skip
def test_any_other_host_is_refused_with_the_way_out(host: str) -> None:
    words = refused(refuse_foreign_page(asked(host)), 403)
    assert "http://127.0.0.1:15000/" in words
    assert "http://localhost/" in words


def test_a_request_without_a_host_is_refused() -> None:
    assert "without Host" in refused(refuse_foreign_page(asked(None)), 403)


def test_the_host_of_a_unix_socket_is_not_judged() -> None:
    assert refuse_foreign_page(asked("whatever", local=UNIX, peer=UNIX)) is None


@pytest.mark.parametrize("origin", ["http://localhost:15000", "HTTP://LOCALHOST:15000"])
def test_its_own_page_may_ask(origin: str) -> None:
    assert refuse_foreign_page(asked("localhost:15000", origin=origin)) is None


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "http://localhost:3000", "http://localhost",
     "http://127.0.0.1:15000", "https://localhost:15000", "",
     "http://localhost:15000, http://evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("local", [LOOPBACK, UNIX])
def test_a_page_of_another_origin_is_refused(origin: str, local: TcpAddress | UnixAddress) -> None:
    request = asked("localhost:15000", origin=origin, local=local)
    assert repr(origin) in refused(refuse_foreign_page(request), 403)


@pytest.mark.parametrize("peer", [LOOPBACK, TcpAddress("::1", 4), TcpAddress("127.8.0.1", 4), UNIX])
def test_this_machine_may_change_state(peer: TcpAddress | UnixAddress) -> None:
    assert refuse_remote(asked("localhost", peer=peer)) is None


@pytest.mark.parametrize("peer", [NETWORK, TcpAddress("2001:db8::1", 4)])
def test_another_machine_may_not_and_learns_why(peer: TcpAddress) -> None:
    words = refused(refuse_remote(asked("localhost", peer=peer)), 403)
    assert str(peer) in words
    assert "loopback" in words
