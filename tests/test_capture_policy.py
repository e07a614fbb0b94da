"""The options that say what to capture."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from uproxy.capture.layout import Action, Flag, Way, port_key, prefix_key
from uproxy.capture.policy import MAX_RULES, Policy, parse_policy
from uproxy.errors import UsageError

MANY = [f"10.0.{number >> 8}.{number & 255}" for number in range(MAX_RULES + 1)]


def test_nothing_said_captures_everything_outbound() -> None:
    policy = parse_policy()
    assert policy == Policy()
    assert (policy.flags, policy.address_rules(), policy.port_rules()) == (Flag(0), {}, {})
    assert not policy.captures_inbound


def test_addresses_prefixes_ports_and_ranges_may_be_mixed() -> None:
    policy = parse_policy(["10.0.0.0/8, 443", "8000-8002", "2001:db8::1"], ["10.1.0.0/16"])
    assert policy.included == (ip_network("10.0.0.0/8"), ip_network("2001:db8::1/128"))
    assert policy.included_ports == {443, 8000, 8001, 8002}
    assert policy.flags == Flag.ADDRESSES_INCLUDED | Flag.PORTS_INCLUDED
    assert policy.address_rules() == {
        prefix_key(ip_network("10.0.0.0/8")): Action.CAPTURE,
        prefix_key(ip_network("2001:db8::1/128")): Action.CAPTURE,
        prefix_key(ip_network("10.1.0.0/16")): Action.BYPASS,
    }


def test_a_prefix_of_ipv6_says_nothing_of_ipv4() -> None:
    ipv4, ipv6 = prefix_key(ip_network("0.0.0.0/0")), prefix_key(ip_network("::/0"))
    assert parse_policy(exclude=["::/0"]).address_rules() == {
        ipv6: Action.BYPASS, ipv4: Action.CAPTURE
    }  # fmt: skip
    assert parse_policy(include=["::/0"]).address_rules() == {
        ipv6: Action.CAPTURE, ipv4: Action.BYPASS
    }  # fmt: skip
    both = parse_policy(include=["::/0", "0.0.0.0/0"]).address_rules()
    assert both == {ipv6: Action.CAPTURE, ipv4: Action.CAPTURE}


def test_an_ipv4_mapped_prefix_is_the_ipv4_one() -> None:
    assert parse_policy(["::ffff:10.0.0.0/104"]) == parse_policy(["10.0.0.0/8"])


def test_included_addresses_say_nothing_of_ports() -> None:
    assert parse_policy(["10.0.0.0/8"]).flags == Flag.ADDRESSES_INCLUDED
    assert parse_policy(["443"]).flags == Flag.PORTS_INCLUDED


def test_inbound_ports_are_named_or_all_but_some() -> None:
    named = parse_policy(inbound=["8080"])
    assert (named.flags, named.captures_inbound) == (Flag.INBOUND, True)
    assert named.port_rules() == {port_key(Way.INBOUND, 8080): Action.CAPTURE}
    everything = parse_policy(inbound=["all"], exclude_inbound=["22,9090"])
    assert (everything.flags, everything.captures_inbound) == (Flag.INBOUND_ALL, True)
    assert everything.port_rules() == {
        port_key(Way.INBOUND, 22): Action.BYPASS,
        port_key(Way.INBOUND, 9090): Action.BYPASS,
    }


def test_as_many_as_fit_are_taken() -> None:
    assert len(parse_policy(MANY[1:]).address_rules()) == MAX_RULES
    assert len(parse_policy(inbound=[f"1-{MAX_RULES}"]).port_rules()) == MAX_RULES
    assert parse_policy(inbound=["65535"]).inbound == {65535}


def test_outbound_ports_are_captured_or_left_alone() -> None:
    assert parse_policy(["443"], ["5432"]).port_rules() == {
        port_key(Way.OUTBOUND, 443): Action.CAPTURE,
        port_key(Way.OUTBOUND, 5432): Action.BYPASS,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"include": ["10.0.0.1/8"]}, "--include '10.0.0.1/8': did you mean 10.0.0.0/8?"),
        ({"exclude": ["db.internal"]}, "--exclude 'db.internal': neither an address, a prefix"),
        ({"exclude": ["70000"]}, "--exclude '70000': ports are 1 to 65535"),
        ({"include": ["9-8"]}, "--include '9-8': ports are 1 to 65535"),
        ({"include": ["0"]}, "--include '0': ports are 1 to 65535"),
        ({"include": [""]}, "--include '': neither"),
        ({"inbound": ["http"]}, "--inbound 'http': no port"),
        ({"inbound": ["-80"]}, "--inbound '-80': no port"),
        ({"include": ["443"], "exclude": ["443"]}, "--include and --exclude: 443 is in both"),
        ({"include": ["::/0"], "exclude": ["::/0"]}, "--include and --exclude: ::/0 is in both"),
        ({"include": ["9-x"]}, "--include '9-x': neither"),
        ({"inbound": ["9-x"]}, "--inbound '9-x': no port (443) and no range"),
        ({"inbound": ["65536"]}, "--inbound '65536': ports are 1 to 65535"),
        ({"exclude_inbound": ["x"]}, "--exclude-inbound 'x': no port"),
        (
            {"inbound": ["22"], "exclude_inbound": ["22"]},
            "--inbound and --exclude-inbound: 22 is in both",
        ),
        ({"include": ["fe80::1%eth0"]}, "--include 'fe80::1%eth0': has a zone, which no program"),
        ({"inbound": ["1-65535"]}, "65535 ports: at most 16384 fit"),
        ({"include": MANY}, "16385 address prefixes: at most 16384 fit"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_policy(**options)
    assert str(refused.value).startswith(said)
