"""Listen addresses that can't stand beside each other."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config.listeners import beyond_loopback, overlap, place_of
from uproxy.config.scalars import listener
from uproxy.model import TcpAddress


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "0.0.0.0:2", False),
        ("[::]:1", "[::1]:1", True),
        ("[::]:1", "0.0.0.0:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "[::1]:1", False),
        ("[::1]:1", "127.0.0.1:1", False),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", True),
        ("[::ffff:127.0.0.1]:1", "0.0.0.0:1", True),
        ("unix:///a", "unix:///a", True),
        ("unix:///a", "unix:///b", False),
        ("unix:///a", "0.0.0.0:1", False),
        ("systemd:a", "systemd:a", True),
        ("systemd:a", "systemd:b", False),
    ],
)
def test_addresses_overlap_when_two_sockets_could_not_both_listen(
    one: str, other: str, expected: bool
) -> None:
    assert overlap(listener(one), listener(other)) is expected
    assert overlap(listener(other), listener(one)) is expected
    if expected:
        assert place_of(listener(one)) == place_of(listener(other))


def test_a_name_overlaps_nothing() -> None:
    assert not overlap(listener("0.0.0.0:1"), TcpAddress("db.internal", 1))


def test_only_tcp_reaches_beyond_loopback() -> None:
    reach = ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1")
    stay = ("127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:///a", "systemd:a")
    assert all(beyond_loopback(listener(each)) for each in reach)
    assert not any(beyond_loopback(listener(each)) for each in stay)
    assert beyond_loopback(TcpAddress("db.internal", 1))
    assert not beyond_loopback(TcpAddress("localhost", 1))


def _doors(*addresses: str, more: str = "") -> str:
    doors = [f"{{listen: '{each}', transport: mtls, to: unix:///a}}" for each in addresses]
    return FILES + f"inbound: [{', '.join(doors)}]\n" + more


def test_two_doors_on_one_address_are_a_mistake_at_the_second() -> None:
    mistake = only_mistake(_doors("0.0.0.0:1", "0.0.0.0:1"))
    assert mistake.path == "inbound[1].listen"
    assert "is also the listen address of inbound[0]" in mistake.reason
    mistake = only_mistake(_doors("127.0.0.1:1", "0.0.0.0:1"))
    assert "overlaps with" in mistake.reason


def test_inbound_outbound_and_admin_share_one_machine() -> None:
    outbound = "outbound: [{listen: 127.0.0.1:1, to: d}]\n"
    outbound += "destinations: {d: {addresses: ['127.0.0.1:9'], transport: plaintext}}\n"
    assert only_mistake(_doors("0.0.0.0:1", more=outbound)).path == "outbound[0].listen"
    admin = "admin: {listen: 127.0.0.1:1, metrics: unix:///m, ready: unix:///m}"
    found = mistakes(_doors("0.0.0.0:1", more=admin))
    assert [each.path for each in found] == ["admin.listen", "admin.ready"]


def test_a_door_can_not_take_a_default_admin_address() -> None:
    mistake = only_mistake(_doors("127.0.0.1:15000"))
    assert mistake.path == "inbound[0].listen"
    assert "admin.listen (127.0.0.1:15000)" in mistake.reason
    assert loaded(_doors("127.0.0.1:15000", more="admin: null")).admin.listen is None
    assert loaded(_doors("127.0.0.1:15000", more="admin: {listen: null}")).inbound
    moved = only_mistake(FILES + "admin: {ready: 127.0.0.1:15020}")
    assert moved.path == "admin.ready"
    defaults = only_mistake(FILES + "admin: {metrics: 0.0.0.0:15000}")
    assert defaults.path == "admin.metrics"


def test_a_door_does_not_lead_to_itself() -> None:
    text = "inbound: [{listen: 0.0.0.0:8080, transport: mtls, to: 127.0.0.1:8080}]"
    mistake = only_mistake(FILES + text)
    assert mistake.path == "inbound[0].to"
    assert "circles" in mistake.reason
