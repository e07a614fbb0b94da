"""Which destination a captured connection goes to."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from uproxy.config.settings import EVERYWHERE, DestinationSettings, MatchSettings
from uproxy.matching import Matching
from uproxy.model import Transport


def to(name: str, *networks: str, ports: tuple[int, ...] = ()) -> DestinationSettings:
    match = MatchSettings(tuple(map(ip_network, networks)) or EVERYWHERE, ports)
    return DestinationSettings(name, (), Transport.PLAINTEXT, match=match)


MATCHING = Matching.of(
    [
        to("rest", "0.0.0.0/0", "::/0"),
        to("web", ports=(80, 443)),
        to("ten", "10.0.0.0/8"),
        to("ten-443", "10.0.0.0/8", ports=(443,)),
        to("shop", "10.1.0.0/16", "fd00:1::/32", ports=(8080,)),
        to("one", "10.1.2.3", "fd00:1::3"),
    ]
)


@pytest.mark.parametrize(
    ("address", "port", "name"),
    [
        ("10.1.2.3", 8080, "one"),
        ("10.1.2.3", 443, "one"),
        ("10.1.2.4", 8080, "shop"),
        ("10.1.2.4", 8081, "ten"),
        ("10.1.2.4", 443, "ten-443"),
        ("10.255.255.255", 443, "ten-443"),
        ("11.0.0.0", 443, "web"),
        ("9.255.255.255", 442, "rest"),
        ("fd00:1::3", 1, "one"),
        ("fd00:1:ffff::3", 8080, "shop"),
        ("fd00:2::3", 8080, "rest"),
        ("fd00:2::3", 80, "web"),
    ],
)
def test_the_longest_prefix_wins_then_a_port_over_none(address: str, port: int, name: str) -> None:
    assert MATCHING.find(ip_address(address), port) == name


def test_what_nothing_matches_goes_nowhere() -> None:
    few = Matching.of([to("ten", "10.0.0.0/8", ports=(80,)), to("six", "::/0")])
    assert few.find(ip_address("10.0.0.1"), 81) is None
    assert few.find(ip_address("11.0.0.1"), 80) is None
    assert few.find(ip_address("::1"), 80) == "six"
    assert Matching.of([]).find(ip_address("::1"), 80) is None
    unmatched = DestinationSettings("unmatched", (), Transport.PLAINTEXT)
    assert Matching.of([unmatched]).find(ip_address("::1"), 80) is None
