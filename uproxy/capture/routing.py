"""The policy route that takes marked packets to loopback, and what this namespace calls its own.

For each family: a rule that looks marked packets up in a table of ours, which has a default route
of type `local`, and a rule behind it that makes them unreachable where that route is missing.
Everything we make has the routing protocol number 75, by which it is recognized.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from uproxy.capture.layout import Network
from uproxy.capture.netlink import (
    CREATE_EXCLUSIVELY,
    CREATE_OR_REPLACE,
    Netlink,
    attributes,
    read_attributes,
)
from uproxy.errors import NotPermittedError, UproxyError

PROTOCOL: Final = 75
"""Of our rules and routes."""

_ADD_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26
_ADD_RULE, _DELETE_RULE, _GET_RULE = 32, 33, 34
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_RULE: Final = struct.Struct("=BBBBBBBBI")
_DESTINATION, _INTERFACE, _SOURCE, _TABLE = 1, 4, 7, 15
"""RTA_DST, RTA_OIF, RTA_PREFSRC, RTA_TABLE."""
_PRIORITY, _MARK, _RULE_TABLE, _MASK, _RULE_PROTOCOL = 6, 10, 15, 16, 21
"""FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL."""
_LOOK_UP, _UNREACHABLE = 1, 7
"""FR_ACT_TO_TBL, FR_ACT_UNREACHABLE."""
_LOCAL, _ANYCAST = 2, 4
"""RTN_LOCAL, RTN_ANYCAST."""
_TABLE_LOCAL, _BY_KERNEL = 255, 2
"""RT_TABLE_LOCAL, RTPROT_KERNEL."""
_HOST_SCOPE = 254
_LOOPBACK = 1
"""The index of lo in every network namespace."""
_ALL_BITS = 0xFFFFFFFF
_NOBODYS = 0xFFFFFFF0
"""A priority behind those of all rules."""

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

_SOMEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849), to ask which source would be used."""


@dataclass(frozen=True, slots=True)
class PolicyRoute:
    """Where marked packets go."""

    mark: int
    table: int
    priority: int
    """Of the rule that looks up the table; the other one's is the next number."""


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


def check_unused(wanted: PolicyRoute) -> None:
    """Make sure that nobody else uses the mark or the table in this namespace.

    Raises:
        UproxyError: somebody does.
    """
    with Netlink() as netlink:
        for family in FAMILIES:
            for rule in _rules(netlink, family):
                if rule.protocol != PROTOCOL and matches(rule, wanted.mark):
                    raise UproxyError(
                        f"--mark {wanted.mark:#x}: an ip rule of somebody else's (priority "
                        f"{rule.priority}) is for it: choose another"
                    )
            for route in _routes(netlink, family):
                if route.table == wanted.table and route.protocol != PROTOCOL:
                    raise UproxyError(
                        f"--table {wanted.table}: has a route of somebody else's "
                        f"({route.network}): choose another"
                    )


def check_permitted(wanted: PolicyRoute) -> None:
    """Make sure that we may make rules and routes in this namespace, by a change that does nothing:
    there is no such rule.

    Raises:
        NotPermittedError: we may not.
    """
    body = _rule(socket.AF_INET, wanted, _NOBODYS, _LOOK_UP)
    try:
        with Netlink() as netlink, contextlib.suppress(FileNotFoundError):
            netlink.change(_DELETE_RULE, body)
    except PermissionError:
        raise NotPermittedError(
            "ip rules and routes need CAP_NET_ADMIN in the network namespace"
        ) from None


def matches(rule: Rule, mark: int) -> bool:
    """Whether a rule is for packets with that mark."""
    return bool(rule.mask) and mark & rule.mask == rule.mark & rule.mask


def add(wanted: PolicyRoute) -> None:
    """Add rules and routes of both families to this namespace, or bring them up to date.

    Raises:
        UproxyError: lo is down.
        OSError: the kernel's refusal.
    """
    with Netlink() as netlink:
        for family in FAMILIES:
            source = source_address(family)
            if source is not None:
                _add_route(netlink, family, wanted.table, source)
            # first the one that refuses: what is marked never finds none of the two
            for priority, action in _actions(wanted):
                body = _rule(family, wanted, priority, action)
                with contextlib.suppress(FileExistsError), _family_may_be_absent(family):
                    netlink.change(_ADD_RULE, body, CREATE_EXCLUSIVELY)


def remove(wanted: PolicyRoute) -> None:
    """Remove what `add` made from this namespace, as far as it is there."""
    with Netlink() as netlink:
        for family in FAMILIES:
            for priority, action in reversed(_actions(wanted)):
                with contextlib.suppress(FileNotFoundError), _family_may_be_absent(family):
                    netlink.change(_DELETE_RULE, _rule(family, wanted, priority, action))
            with contextlib.suppress(ProcessLookupError), _family_may_be_absent(family):
                while True:
                    netlink.change(_DELETE_ROUTE, _route(family, wanted.table, None))


def missing(wanted: PolicyRoute) -> list[str]:
    """Return what `add` made and this namespace lacks, in words."""
    lacking = []
    with Netlink() as netlink:
        for family in FAMILIES:
            word = "IPv4" if family == socket.AF_INET else "IPv6"
            if family == socket.AF_INET6 and not socket.has_ipv6:
                continue
            there = {rule.priority for rule in _rules(netlink, family) if rule.protocol == PROTOCOL}
            if not {priority for priority, _ in _actions(wanted)} <= there:
                lacking.append(f"the {word} rules for mark {wanted.mark:#x} are gone")
            source = source_address(family)
            sources = [r.source for r in _routes(netlink, family) if r.table == wanted.table]
            if source is not None and source not in sources:
                lacking.append(f"the {word} route in table {wanted.table} isn't as it should be")
    return lacking


def own_networks() -> set[Network]:
    """Return what this namespace takes for its own addresses.

    In other tables than `local` only the kernel's routes count, which are a VRF's: others are for
    packets that somebody marks, such as the `local default` of a TPROXY, and would make every
    address an own one.
    """
    with Netlink() as netlink:
        return {
            route.network
            for family in FAMILIES
            for route in _routes(netlink, family)
            if route.type in (_LOCAL, _ANYCAST)
            and (route.table == _TABLE_LOCAL or route.protocol == _BY_KERNEL)
        }


def source_address(family: int) -> bytes | None:
    """Return the address that this namespace would use to reach the world; None: it has none.

    Without it captured connections would come from their own destination's address.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_SOMEWHERE[socket.AddressFamily(family)], 9))
            return socket.inet_pton(family, probe.getsockname()[0])
    except OSError:
        return next(_global_addresses(family), None)


def _global_addresses(family: int) -> Iterator[bytes]:
    with Netlink() as netlink:
        for body in netlink.dump(_GET_ADDRESS, bytes([family, 0, 0, 0, 0, 0, 0, 0])):
            kind, _, _, scope = body[:4]
            found = read_attributes(body[8:])
            address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
            if kind == family and scope == 0 and address is not None:
                yield address


_GET_ADDRESS, _IFA_ADDRESS, _IFA_LOCAL = 22, 1, 2


def _actions(wanted: PolicyRoute) -> list[tuple[int, int]]:
    return [(wanted.priority + 1, _UNREACHABLE), (wanted.priority, _LOOK_UP)]


def _rule(family: int, wanted: PolicyRoute, priority: int, action: int) -> bytes:
    table = wanted.table if action == _LOOK_UP else 0
    values = {
        _PRIORITY: _u32(priority),
        _MARK: _u32(wanted.mark),
        _MASK: _u32(_ALL_BITS),
        _RULE_PROTOCOL: bytes([PROTOCOL]),
    }
    if table:
        values[_RULE_TABLE] = _u32(table)
    return _RULE.pack(family, 0, 0, 0, 0, 0, 0, action, 0) + attributes(values)


def _route(family: int, table: int, source: bytes | None) -> bytes:
    scope = _HOST_SCOPE if family == socket.AF_INET else 0
    values = {_TABLE: _u32(table), _INTERFACE: _u32(_LOOPBACK)}
    if source is not None:
        values[_SOURCE] = source
    return _ROUTE.pack(family, 0, 0, 0, 0, PROTOCOL, scope, _LOCAL, 0) + attributes(values)


def _add_route(netlink: Netlink, family: int, table: int, source: bytes) -> None:
    try:
        # one that is there may name an address that has gone: the kernel leaves it there
        netlink.change(_ADD_ROUTE, _route(family, table, source), CREATE_OR_REPLACE)
    except OSError as error:
        if error.errno != errno.ENETDOWN:
            raise
        raise UproxyError("lo is down in the network namespace: ip link set lo up") from None


@contextlib.contextmanager
def _family_may_be_absent(family: int) -> Iterator[None]:
    """A kernel without IPv6 needs no rule for it."""
    try:
        yield
    except OSError as error:
        if family != socket.AF_INET6 or error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise


def _rules(netlink: Netlink, family: int) -> Iterator[Rule]:
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


def _routes(netlink: Netlink, family: int) -> Iterator[Route]:
    for body in netlink.dump(_GET_ROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        header = _ROUTE.unpack_from(body)
        if header[0] == family:
            found = read_attributes(body[_ROUTE.size :])
            network = _network(family, found.get(_DESTINATION), header[1])
            table = _number(found.get(_TABLE)) or header[4]
            yield Route(table, header[5], header[7], network, found.get(_SOURCE))


def _network(family: int, address: bytes | None, length: int) -> IPv4Network | IPv6Network:
    packed = address or bytes(4 if family == socket.AF_INET else 16)
    return ip_network((packed, length), strict=False)


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "little")
