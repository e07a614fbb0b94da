"""What a network namespace calls its own: its addresses, and which of them the world sees."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Final

from uproxy.capture.layout import Network
from uproxy.capture.netlink import Netlink, read_attributes
from uproxy.capture.rtnetlink import ANYCAST, FAMILIES, LOCAL, routes

_TABLE_LOCAL, _BY_KERNEL = 255, 2
"""RT_TABLE_LOCAL, RTPROT_KERNEL."""
_GET_ADDRESS, _IFA_ADDRESS, _IFA_LOCAL = 22, 1, 2

_SOMEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849), to ask which source would be used."""


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
            for route in routes(netlink, family)
            if route.type in (LOCAL, ANYCAST)
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
    """Yield the addresses that a route may name as the source: not those of devices that are down
    or in a VRF."""
    with Netlink() as netlink:
        local = {
            route.network
            for route in routes(netlink, family)
            if route.type == LOCAL and route.table == _TABLE_LOCAL
        }
        for body in netlink.dump(_GET_ADDRESS, bytes([family, 0, 0, 0, 0, 0, 0, 0])):
            kind, _, _, scope = body[:4]
            found = read_attributes(body[8:])
            address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
            if kind == family and scope == 0 and address and ip_network(address) in local:
                yield address
