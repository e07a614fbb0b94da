"""Netlink's framing, and answers of the kernel itself."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from uproxy.capture.addresses import own_networks
from uproxy.capture.netlink import Netlink, attributes, read_attributes
from uproxy.capture.routing import PolicyRoute, matches
from uproxy.capture.rtnetlink import Rule


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=64)))
def test_attributes_are_read_as_they_were_written(values: dict[int, bytes]) -> None:
    written = attributes(values)
    assert len(written) % 4 == 0
    assert read_attributes(written) == values


@given(st.binary(max_size=64))
def test_damaged_attributes_end_the_reading(data: bytes) -> None:
    assert sum(map(len, read_attributes(data).values())) <= len(data)


def test_an_answer_of_many_parts_is_read_to_its_end() -> None:
    with Netlink() as netlink:
        for _ in range(2):  # what is left of one answer isn't taken for the next
            links = list(netlink.dump(18, bytes([socket.AF_UNSPEC]) + bytes(15)))  # RTM_GETLINK
            assert len(links) == len(socket.if_nameindex())


def test_loopback_is_among_what_is_our_own() -> None:
    assert "127.0.0.0/8" in map(str, own_networks())


def test_a_rule_of_others_is_in_the_way_if_its_mask_lets_our_mark_through() -> None:
    route = PolicyRoute(0x7570, 7570, 75)
    for mark, mask, expected in (
        (0x7570, 0xFFFFFFFF, True),
        (0x0070, 0x000000FF, True),
        (0x0071, 0x000000FF, False),
        (0, 0, False),  # a rule without a mark
    ):
        rule = Rule(socket.AF_INET, 100, mark, mask, 254, 4)
        assert matches(rule, route.mark) == expected
