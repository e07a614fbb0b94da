"""Messages about ip rules and routes (rtnetlink(7)): made, and read.

Everything that we make has the routing protocol number 75, by which it is recognized.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from uproxy.capture.layout import Network
from uproxy.capture.netlink import Netlink, attributes, read_attributes

PROTOCOL: Final = 75
"""Of our rules and routes."""

ADD_ROUTE, DELETE_ROUTE = 24, 25
ADD_RULE, DELETE_RULE = 32, 33
"""RTM_NEWROUTE and so on."""
LOOK_UP, UNREACHABLE = 1, 7
"""FR_ACT_TO_TBL, FR_ACT_UNREACHABLE: what a rule does."""
LOCAL, ANYCAST = 2, 4
"""RTN_LOCAL, RTN_ANYCAST: types of routes."""
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

_GET_ROUTE, _GET_RULE = 26, 34
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_RULE: Final = struct.Struct("=BBBBBBBBI")
_DESTINATION, _INTERFACE, _SOURCE, _TABLE = 1, 4, 7, 15
"""RTA_DST, RTA_OIF, RTA_PREFSRC, RTA_TABLE."""
_PRIORITY, _MARK, _RULE_TABLE, _MASK, _RULE_PROTOCOL = 6, 10, 15, 16, 21
"""FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL."""
_HOST_SCOPE = 254
_LOOPBACK = 1
"""The index of lo in every network namespace."""
ALL_BITS: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """An ip-rule(8), as far as it concerns marks."""

    family: int
    priority: int
    mark: int
    mask: int
    table: int
    protocol: int


@dataclass(frozen=True, slots=True)
class Route:
    """An ip-route(8), as far as it concerns local addresses."""

    table: int
    protocol: int
    type: int
    network: Network
    source: bytes | None
    """The address that it names for packets from here."""


def rule_message(wanted: Rule, action: int) -> bytes:
    """Return the message that makes or deletes a rule; a `table` of 0 is none."""
    values = {
        _PRIORITY: _u32(wanted.priority),
        _MARK: _u32(wanted.mark),
        _MASK: _u32(wanted.mask),
        _RULE_PROTOCOL: bytes([wanted.protocol]),
    }
    if wanted.table:
        values[_RULE_TABLE] = _u32(wanted.table)
    return _RULE.pack(wanted.family, 0, 0, 0, 0, 0, 0, action, 0) + attributes(values)


def route_message(family: int, table: int, source: bytes | None) -> bytes:
    """Return the message that makes, or deletes, a route by which everything is local; `source` is
    the address of packets from here."""
    scope = _HOST_SCOPE if family == socket.AF_INET else 0
    values = {_TABLE: _u32(table), _INTERFACE: _u32(_LOOPBACK)}
    if source is not None:
        values[_SOURCE] = source
    return _ROUTE.pack(family, 0, 0, 0, 0, PROTOCOL, scope, LOCAL, 0) + attributes(values)


def rules(netlink: Netlink, family: int) -> Iterator[Rule]:
    """Yield this namespace's rules of a family."""
    for body in netlink.dump(_GET_RULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        header = _RULE.unpack_from(body)
        found = read_attributes(body[_RULE.size :])
        if header[0] == family:
            yield Rule(
                family,
                _number(found.get(_PRIORITY)),
                _number(found.get(_MARK)),
                _number(found.get(_MASK)),
                _number(found.get(_RULE_TABLE)) or header[4],
                _number(found.get(_RULE_PROTOCOL)),
            )


def routes(netlink: Netlink, family: int) -> Iterator[Route]:
    """Yield this namespace's routes of a family, of all tables."""
    for body in netlink.dump(_GET_ROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        header = _ROUTE.unpack_from(body)
        if header[0] == family:
            found = read_attributes(body[_ROUTE.size :])
            network = _network(family, found.get(_DESTINATION), header[1])
            table = _number(found.get(_TABLE)) or header[4]
            yield Route(table, header[5], header[7], network, found.get(_SOURCE))


def _network(family: int, address: bytes | None, length: int) -> Network:
    packed = address or bytes(4 if family == socket.AF_INET else 16)
    return ip_network((packed, length), strict=False)


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "little")
