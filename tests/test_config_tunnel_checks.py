"""What must be written for tunnels, and what must not stand beside them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config import warnings
from uproxy.model import Host, TcpAddress, TunnelSettings

DOOR = "listen: '[::]:15008', transport: hbone"
ORDERS = "addresses: ['10.0.0.7:5432'], transport: hbone"
ID = "identities: ['spiffe://example.org/db']"


def _door(more: str = "ports: [8080]", *, door: str = DOOR) -> str:
    return FILES + f"inbound: [{{{door}, {more}}}]\n"


def _to(more: str = ID, *, to: str = ORDERS) -> str:
    return FILES + f"destinations: {{db: {{{to}, {more}}}}}\n"


def test_a_door_for_tunnels_needs_its_ports_alone() -> None:
    [door] = loaded(_door("ports: [8080, 5432]")).inbound
    assert (door.to, door.ports, door.addresses) == (None, (8080, 5432), ())
    assert door.leads_to == "ports 8080, 5432"
    assert loaded(_door("ports: all")).inbound[0].leads_to == "all ports"


@pytest.mark.parametrize(
    ("to", "host"), [("127.0.0.1", "127.0.0.1"), ("'::1'", "::1"), ("'[::1]'", "::1"),
                     ("'::ffff:127.0.0.1'", "127.0.0.1"), ("app.internal", "app.internal")],
)  # fmt: skip
def test_the_application_behind_tunnels_is_a_host(to: str, host: str) -> None:
    [door] = loaded(_door(f"ports: [8080], to: {to}")).inbound
    assert door.to == Host(host)
    assert door.leads_to == f"{host}, ports 8080"


def test_the_addresses_of_a_workload_have_one_form() -> None:
    listed = "addresses: ['10.0.0.7', '::ffff:127.0.0.1', 'FD00::7']"
    [door] = loaded(_door(f"ports: [8080], {listed}")).inbound
    assert door.addresses == tuple(map(ip_address, ("10.0.0.7", "127.0.0.1", "fd00::7")))


@pytest.mark.parametrize(
    ("more", "key", "value", "reason"),
    [
        ("to: 127.0.0.1", "ports", None, "is missing: with hbone, list the application's ports"),
        ("ports: []", "ports", None, "is an empty list"),
        ("ports: [0]", "ports[0]", "0", "must be a port"),
        ("ports: some", "ports", "some", "must be all, or a list, each a port"),
        ("ports: all, to: '127.0.0.1:80'", "to", "127.0.0.1:80", "write 127.0.0.1"),
        ("ports: all, to: 'unix:///a'", "to", "unix:///a", "a tunnel names one: write a host"),
        ("ports: all, to: 0.0.0.0", "to", "0.0.0.0", "can't be connected to"),
        ("ports: all, alpn: [h2]", "alpn", None, "is h2 with hbone: remove it"),
        ("ports: all, addresses: [0.0.0.0]", "addresses[0]", "0.0.0.0", "no address of one host"),
        ("ports: all, addresses: [ff02::1]", "addresses[0]", "ff02::1", "no address of one host"),
        ("ports: all, addresses: [169.254.169.254]", "addresses[0]", "169.254.169.254",
         "is a link-local address"),
        ("ports: all, addresses: ['::ffff:0.0.0.0']", "addresses[0]", "::ffff:0.0.0.0",
         "no address of one host"),
        ("ports: all, addresses: [app]", "addresses[0]", "app", "must be an IP address"),
    ],
)  # fmt: skip
def test_what_a_door_for_tunnels_lacks_or_cannot_have(
    more: str, key: str, value: str | None, reason: str
) -> None:
    mistake = only_mistake(_door(more))
    assert mistake.path == f"inbound[0].{key}"
    assert mistake.value == value
    assert reason in mistake.reason


@pytest.mark.parametrize(
    ("listen", "example"),
    [("127.0.0.1:15008", "127.0.0.1"), ("'[::1]:15008'", "::1"), ("unix:///a", "127.0.0.1")],
)
def test_a_door_at_which_no_address_arrives_must_list_one(listen: str, example: str) -> None:
    door = f"listen: {listen}, transport: hbone"
    mistake = only_mistake(_door(door=door))
    assert mistake.path == "inbound[0].addresses"
    assert mistake.reason.endswith(f'write ["{example}"]')
    loaded(_door(f"ports: [8080], addresses: ['{example}']", door=door))


@pytest.mark.parametrize(
    ("port", "owner"),
    [(15008, "inbound[0]"), (5432, "outbound[0]"), (15000, "admin.listen"), (15021, "admin.ready")],
)
def test_no_tunnel_leads_to_uproxy_itself(port: int, owner: str) -> None:
    text = _door(f"ports: [8080, {port}]") + (
        "outbound: [{listen: 127.0.0.1:5432, to: db}]\n"
        f"destinations: {{db: {{{ORDERS}, {ID}}}}}\n"
    )
    mistake = only_mistake(text)
    assert (mistake.path, mistake.value) == ("inbound[0].ports[1]", str(port))
    assert mistake.reason.startswith(f"is where {owner} listens")


@pytest.mark.parametrize("transport", ["mtls", "plaintext"])
@pytest.mark.parametrize(
    ("more", "key", "reason"),
    [
        ("to: '10.0.0.1:80', ports: [80]", "ports", "is for `transport: hbone`, and this is"),
        ("to: '10.0.0.1:80', ports: all", "ports", "is for `transport: hbone`, and this is"),
        ("to: '10.0.0.1:80', addresses: [10.0.0.1]", "addresses", "is for `transport: hbone`"),
        ("to: app", "to", "has no port; write host:port"),
        ("to: '::1'", "to", "an IPv6 address needs brackets"),
        ("name: api", "to", "is missing; must be an address"),
    ],
)
def test_other_doors_have_an_address_and_nothing_of_tunnels(
    transport: str, more: str, key: str, reason: str
) -> None:
    mistake = only_mistake(_door(more, door=f"listen: 0.0.0.0:1, transport: {transport}"))
    assert mistake.path == f"inbound[0].{key}"
    assert reason in mistake.reason


def test_the_applications_host_is_told_what_to_dial_even_if_the_transport_is_wrong() -> None:
    found = mistakes(_door("name: api", door="listen: 0.0.0.0:1, transport: htbone"))
    assert {each.path for each in found} == {"inbound[0].transport", "inbound[0].to"}


def test_tunnels_end_at_their_port_of_each_host_or_elsewhere() -> None:
    def end(more: str) -> TcpAddress | int:
        return loaded(_to(f"{ID}, {more}")).destinations["db"].tunnel_end

    assert loaded(_to()).destinations["db"].tunnel_end == 15008
    assert end("hbone_port: 15009") == 15009
    assert end("hbone_address: '192.0.2.10:15008'") == TcpAddress("192.0.2.10", 15008)
    assert end("hbone_address: 'gateway.test:443'") == TcpAddress("gateway.test", 443)


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        (_to("idle: 1s"), "identities", "is missing: with hbone, say who may answer"),
        (_to(f"{ID}, alpn: [h2]"), "alpn", "is h2 with hbone: remove it"),
        (
            _to(f"{ID}, hbone_port: 1, hbone_address: '192.0.2.10:2'"),
            "hbone_port",
            "stands beside hbone_address, which has a port; remove one",
        ),
        (_to(f"{ID}, hbone_address: 'unix:///a'"), "hbone_address", "be host:port or [ipv6]:port"),
        (_to(f"{ID}, hbone_address: 192.0.2.10"), "hbone_address", "be host:port or [ipv6]:port"),
        (_to(f"{ID}, hbone_address: '0.0.0.0:1'"), "hbone_address", "can't be connected to"),
        (
            _to(to="addresses: ['10.0.0.7:1', 'unix:///a'], transport: hbone"),
            "addresses[1]",
            "can't be reached through a tunnel",
        ),
        (
            _to(to="addresses: ['[fe80::1%eth0]:1'], transport: hbone"),
            "addresses[0]",
            "means an interface of this machine",
        ),
        (
            _to(f"{ID}, hbone_port: 15008", to="addresses: ['10.0.0.7:1'], transport: mtls"),
            "hbone_port",
            "is for `transport: hbone`, and this is mtls",
        ),
        (
            _to("hbone_address: '10.0.0.9:1'", to="addresses: ['a:1'], transport: plaintext"),
            "hbone_address",
            "is for `transport: hbone`, and this is plaintext",
        ),
    ],
)
def test_what_a_destination_through_tunnels_lacks_or_cannot_have(
    text: str, key: str, reason: str
) -> None:
    mistake = only_mistake(text)
    assert mistake.path == f"destinations.db.{key}"
    assert reason in mistake.reason


def test_how_tunnels_are_used_is_configured_in_sizes_and_numbers() -> None:
    assert loaded(FILES).hbone == TunnelSettings()
    written = (
        "hbone: {max_streams: 200, streams_per_connection: 50, stream_window: 64KiB,"
        " connection_window: 2MiB, idle: 0, keepalive: 10s}"
    )
    assert loaded(FILES + written).hbone == TunnelSettings(200, 50, 1 << 16, 1 << 21, 0.0, 10.0)
    large = "hbone: {stream_window: 16MiB, connection_window: 1GiB}"
    assert loaded(FILES + large).hbone.connection_window == 1 << 30


@pytest.mark.parametrize(
    ("written", "key", "reason"),
    [
        ("stream_window: 63KiB", "stream_window", "must be from 64KiB to 16MiB"),
        ("stream_window: 17MiB", "stream_window", "must be from 64KiB to 16MiB"),
        ("stream_window: 65536", "stream_window", "must be a size from 64KiB to 16MiB, not a"),
        ("stream_window: 64kb", "stream_window", "with its unit, such as 64KiB or 1MiB"),
        ("connection_window: 2GiB", "connection_window", "must be from 64KiB to 1GiB"),
        ("connection_window: 128KiB", "connection_window", "make connection_window the larger one"),
        ("stream_window: 8MiB", "stream_window", "one stream may send 8,388,608 bytes"),
        ("max_streams: 0", "max_streams", "must be at least 1"),
        ("max_streams: 5000000000", "max_streams", "must be at most 2147483647"),
        (
            "streams_per_connection: 2147483648",
            "streams_per_connection",
            "must be at most 21474836",
        ),
        ("streams_per_connection: 0", "streams_per_connection", "must be at least 1"),
        ("idle: 5", "idle", "must be a duration"),
    ],
)
def test_windows_and_counts_have_bounds(written: str, key: str, reason: str) -> None:
    mistake = only_mistake(FILES + f"hbone: {{{written}}}")
    assert mistake.path == f"hbone.{key}"
    assert reason in mistake.reason


def test_what_is_valid_and_risky_is_warned_of() -> None:
    text = _door("ports: all") + "hbone: {max_streams: 99}\n"
    found = {each.path: each.reason for each in warnings(loaded(text))}
    assert "SSH too" in found["inbound[0].ports"]
    assert "wait without a word" in found["hbone.max_streams"]
    quiet = {each.path for each in warnings(loaded(_door() + "hbone: {max_streams: 100}\n"))}
    assert not quiet & found.keys() - {"authorization"}


def test_rules_may_name_the_ports_and_addresses_behind_tunnels() -> None:
    def about(more: str, to: str) -> list[str]:
        rule = f"authorization: [{{action: allow, from: any, to: {{{to}}}}}]\n"
        found = warnings(loaded(_door(f"name: api, {more}") + rule))
        return [each.reason for each in found if each.path.startswith("authorization")]

    assert about("ports: [8080]", "ports: [8080], addresses: [10.9.9.9]") == []
    assert about("ports: all", "ports: [9]") == []
    assert about("ports: [8080]", "ports: [9]") == [
        "no inbound door leads to an application at this port"
    ]
    [reason] = about("ports: [8080]", "ports: [15008]")
    assert reason == (
        "is the port of door api; rules name the application's: write one of the door's `ports`"
    )
