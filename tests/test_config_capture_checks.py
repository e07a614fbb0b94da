"""What must be so for what capture brings, and what is worth saying about it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.config import changes, warnings
from uproxy.config.settings import EVERYWHERE, MatchSettings
from uproxy.model import Host, SystemdAddress, TcpAddress, Transport

DOOR = "outbound: [{listen: 127.0.0.1:15001, captured: true}]\n"
ALL = "rest: {match: {addresses: [0.0.0.0/0, '::/0']}, transport: plaintext}"
CLEAR = "d: {addresses: ['127.0.0.1:1'], transport: plaintext}"


def _to(*destinations: str, door: str = DOOR) -> str:
    return FILES + door + f"destinations: {{{', '.join(destinations)}}}\n"


def _named(name: str, match: str) -> str:
    return f"{name}: {{match: {{{match}}}, transport: plaintext}}"


@pytest.mark.parametrize("listen", ["127.0.0.1:15001", "'[::1]:15001'", "0.0.0.0:15001",
                                    "'[::]:15001'", "10.0.0.1:15001"])  # fmt: skip
def test_a_door_for_capture_listens_for_both_families_whatever_is_written(listen: str) -> None:
    [door] = loaded(_to(ALL, door=DOOR.replace("127.0.0.1:15001", listen))).outbound
    assert (door.listen, door.captured, door.to) == (TcpAddress("::", 15001), True, None)


def test_systemd_may_open_the_socket_of_a_door_for_capture() -> None:
    [door] = loaded(_to(ALL, door=DOOR.replace("127.0.0.1:15001", "'systemd:out'"))).outbound
    assert door.listen == SystemdAddress("out")


def test_a_match_is_networks_and_ports_of_which_either_may_be_left_out() -> None:
    settings = loaded(
        _to(
            _named("a", "addresses: [10.0.0.0/8, '::ffff:b00:0/104', 'fd00::1'], ports: [80, 443]"),
            _named("b", "ports: [5432]"),
            ALL,
        )
    )
    networks = (ip_network("10.0.0.0/8"), ip_network("11.0.0.0/8"), ip_network("fd00::1/128"))
    assert settings.destinations["a"].match == MatchSettings(networks, (80, 443))
    assert settings.destinations["b"].match == MatchSettings(EVERYWHERE, (5432,))
    assert settings.destinations["rest"].match == MatchSettings()
    assert settings.destinations["rest"].addresses == ()


@pytest.mark.parametrize(
    ("door", "key", "reason"),
    [
        ("listen: 127.0.0.1:1", "to", "is missing; must be a key of `destinations`"),
        ("listen: 127.0.0.1:1, captured: false", "to", "is missing"),
        ("listen: 127.0.0.1:1, captured: true, to: rest", "to", "means nothing"),
        ("listen: 127.0.0.1:1, captured: yes", "captured", "must be true or false"),
        ("listen: 'unix:///a', captured: true", "listen", "must be an IP address"),
        ("listen: 127.0.0.1:1, to: rest", "to", "has no addresses"),
    ],
)
def test_what_a_door_for_capture_lacks_or_cannot_have(door: str, key: str, reason: str) -> None:
    mistake = only_mistake(_to(ALL, door=f"outbound: [{{{door}}}]\n"))
    assert mistake.path == f"outbound[0].{key}"
    assert reason in mistake.reason


@pytest.mark.parametrize(
    ("match", "key", "reason"),
    [
        ("match: {}", "match", "is empty"),
        ("match: {addresses: []}", "match.addresses", "is an empty list"),
        ("match: {ports: []}", "match.ports", "is an empty list"),
        ("match: {ports: [0]}", "match.ports[0]", "must be a port"),
        ("match: {addresses: [10.0.0.1/8]}", "match.addresses[0]", "write 10.0.0.0/8"),
        ("match: {addresses: [db.internal]}", "match.addresses[0]", "must be a network"),
        ("idle: 5s", "addresses", "is missing; must be a list, each an address"),
    ],
)
def test_what_a_match_lacks_or_cannot_have(match: str, key: str, reason: str) -> None:
    mistake = only_mistake(_to(f"a: {{{match}, transport: plaintext}}", ALL))
    assert mistake.path == f"destinations.a.{key}"
    assert reason in mistake.reason


@pytest.mark.parametrize(
    ("one", "other", "key"),
    [
        ("addresses: [10.0.0.0/8]", "addresses: [11.0.0.0/8, 10.0.0.0/8]", "addresses[1]"),
        ("addresses: [10.0.0.0/8]", "addresses: ['::ffff:a00:0/104']", "addresses[0]"),
        ("addresses: [10.0.0.1]", "addresses: [10.0.0.1/32]", "addresses[0]"),
        ("ports: [80, 443]", "ports: [22, 443]", "ports"),
        ("ports: [80]", "addresses: [0.0.0.0/0], ports: [80]", "addresses[0]"),
    ],
)
def test_two_that_match_equally_are_a_mistake(one: str, other: str, key: str) -> None:
    for mistake in mistakes(_to(_named("a", one), _named("b", other))):
        assert mistake.path == f"destinations.b.match.{key}"
        assert "is what destinations.a matches too" in mistake.reason


@pytest.mark.parametrize(
    "other", ["addresses: [10.0.0.0/9]", "addresses: [10.0.0.0/8], ports: [80]", "ports: [80]"]
)
def test_two_of_which_one_matches_more_closely_are_none(other: str) -> None:
    assert loaded(_to(_named("a", "addresses: [10.0.0.0/8]"), _named("b", other)))


def test_a_door_for_capture_takes_its_port_of_all_addresses() -> None:
    doors = "{listen: 127.0.0.1:15001, captured: true}, {listen: '127.0.0.2:15001', to: d}"
    mistake = only_mistake(_to(ALL, CLEAR, door=f"outbound: [{doors}]\n"))
    assert (mistake.path, mistake.value) == ("outbound[1].listen", "127.0.0.2:15001")
    assert "overlaps with the listen address of outbound[0] ([::]:15001)" in mistake.reason


def test_a_socket_that_stays_cannot_begin_to_be_for_capture() -> None:
    plain = "outbound: [{listen: '[::]:15001', to: d, expose: true}]\n"
    before, after = loaded(_to(ALL, CLEAR, door=plain)), loaded(_to(ALL, CLEAR))
    for one, other in ((before, after), (after, before)):
        [mistake] = changes(one, other).restart
        assert (mistake.path, "needs a restart" in mistake.reason) == ("outbound[0].captured", True)


def test_a_match_follows_a_reload() -> None:
    before, after = (loaded(_to(_named("a", f"ports: [{port}]"))) for port in (80, 81))
    assert changes(before, after).restart == ()
    assert changes(before, after).keys == ("destinations.a.match.ports",)


def _said(text: str) -> list[str]:
    return [f"{each.path}: {each.reason}" for each in warnings(loaded(text))]


def test_a_sound_capture_has_no_warnings() -> None:
    assert _said(_to(ALL)) == []


def test_a_door_for_capture_needs_destinations_with_a_match() -> None:
    said = _said(_to(CLEAR))
    assert any(each.startswith("outbound[0].captured: every captured") for each in said)


def test_a_match_needs_a_door_for_capture() -> None:
    plain = "outbound: [{listen: 127.0.0.1:1, to: d}]\n"
    [said] = _said(_to(ALL, CLEAR, door=plain))
    assert said.startswith("destinations.rest: no outbound door leads here; captured")


# Inbound.

IN = (
    "listen: 0.0.0.0:15006, captured: true, ports: {8080: mtls, 8443: passthrough, 3306: plaintext}"
)
OPEN = (
    "authorization: [{action: allow, from: any}, {action: allow, from: {unauthenticated: true}}]\n"
)


def _in(door: str = IN, rules: str = OPEN) -> str:
    return FILES + f"inbound: [{{{door}}}]\n" + rules


def test_an_inbound_door_for_capture_says_by_port_what_is_spoken() -> None:
    [door] = loaded(_in(f"name: api, {IN}, to: 127.0.0.1, migrate: [8080]")).inbound
    assert (door.listen, door.name, door.captured) == (TcpAddress("::", 15006), "api", True)
    assert door.ports == {
        8080: Transport.MTLS, 8443: Transport.PASSTHROUGH, 3306: Transport.PLAINTEXT,
    }  # fmt: skip
    assert (door.to, door.migrate) == (Host("127.0.0.1"), (8080,))
    assert door.tls_ports == frozenset({8080})
    assert [door.transport_at(port) for port in (8080, 8443, 22, None)] == [
        Transport.MTLS, Transport.PASSTHROUGH, Transport.PLAINTEXT, Transport.PLAINTEXT,
    ]  # fmt: skip
    assert door.leads_to == "127.0.0.1, ports 8080 mtls, 8443 passthrough, 3306 plaintext"


def test_it_is_called_what_is_written_where_it_has_no_name() -> None:
    assert loaded(_in()).inbound[0].name == "0.0.0.0:15006"


def test_it_needs_an_identity_if_any_port_does() -> None:
    assert loaded(_in()).inbound[0].transport is Transport.MTLS
    clear = IN.replace("8080: mtls", "8080: plaintext")
    assert loaded(_in(clear)).inbound[0].transport is Transport.PLAINTEXT


@pytest.mark.parametrize(
    ("door", "key", "reason"),
    [
        ("listen: 0.0.0.0:1, captured: true", "ports", "is missing; must be what is spoken"),
        ("listen: 0.0.0.0:1, captured: true, ports: [80]", "ports", "must be what is spoken"),
        ("listen: 0.0.0.0:1, captured: true, ports: all", "ports", "must be what is spoken"),
        ("listen: 0.0.0.0:1, captured: true, ports: {}", "ports", "is empty"),
        ("listen: 0.0.0.0:1, captured: true, ports: {80: hbone}", "ports.80", "mtls | passthrough"),
        ("listen: 0.0.0.0:1, captured: true, ports: {http: mtls}", "ports.http", "must be a port"),
        (f"{IN}, transport: mtls", "transport", "means nothing with `captured: true`"),
        (f"{IN}, addresses: [10.0.0.7]", "addresses", "means nothing"),
        (f"{IN}, to: '127.0.0.1:80'", "to", "write 127.0.0.1"),
        (f"{IN}, to: 'unix:///a'", "to", "is a host only"),
        (f"{IN}, migrate: [3306]", "migrate[0]", "is no port of `ports` with mtls"),
        (f"{IN}, preserve_source: true, to: 127.0.0.1", "preserve_source", "stands beside `to`"),
        ("listen: 0.0.0.0:1, transport: mtls, to: 'unix:///a', preserve_source: true",
         "preserve_source", "is for doors with `captured: true`"),
        (f"{IN}, migrate: [9]", "migrate[0]", "is no port of `ports` with mtls"),
        (IN.replace("0.0.0.0:15006", "'unix:///a'"), "listen", "must be an IP address"),
        (IN.replace("8080: mtls", "8080: plaintext") + ", alpn: [h2]", "alpn", "means nothing"),
        (IN.replace("8080: mtls", "15006: mtls"), "ports", "nothing leads to uProxy itself"),
        ("listen: 0.0.0.0:1, to: 'unix:///a'", "transport", "is missing"),
        ("listen: 0.0.0.0:1, transport: hbone, ports: {80: mtls}", "ports", "is a mapping only"),
        ("listen: 0.0.0.0:1, transport: mtls, to: 'unix:///a', migrate: [80]", "migrate",
         "is for doors with `captured: true`"),
    ],
)  # fmt: skip
def test_what_an_inbound_door_for_capture_lacks_or_cannot_have(
    door: str, key: str, reason: str
) -> None:
    mistake = only_mistake(_in(door))
    assert mistake.path == f"inbound[0].{key}"
    assert reason in mistake.reason


@pytest.mark.parametrize("port", [22, 25, 3306])
def test_a_port_whose_server_speaks_first_cannot_migrate(port: int) -> None:
    door = f"listen: 0.0.0.0:1, captured: true, ports: {{{port}: mtls}}, migrate: [{port}]"
    assert "whose server speaks first" in only_mistake(_in(door)).reason


def test_a_sound_inbound_capture_has_no_warnings() -> None:
    assert _said(_in(f"{IN}, migrate: [8080]")) == []


def test_ports_in_clear_need_a_rule_for_callers_without_identity() -> None:
    assert (
        _paths(_in(rules="authorization: [{action: allow, from: any}]\n"))
        == ["inbound[0].ports"] * 2
    )
    some = (
        "authorization: [{action: allow, from: any}, "
        "{action: allow, from: {unauthenticated: true}, to: {ports: [3306]}}]\n"
    )
    [said] = _said(_in(f"{IN}", some))
    assert said.startswith("inbound[0].ports: nobody gets in at port 8443 without mtls")
    assert len(_said(_in(f"{IN}, migrate: [8080]", some))) == 2


def test_rules_name_the_ports_of_a_door_for_capture() -> None:
    rule = "authorization: [{action: allow, from: {unauthenticated: true}, to: {ports: [3306, 9]}}]"
    said = [each for each in _said(_in(rules=rule)) if "at this port" in each]
    assert [each.partition(":")[0] for each in said] == ["authorization[0].to.ports[1]"]


def _paths(text: str) -> list[str]:
    return [each.path for each in warnings(loaded(text))]
