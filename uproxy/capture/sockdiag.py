"""Finds TCP sockets of a network namespace, and resets those it is told (sock_diag(7))."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from uproxy.capture.connection import Address, Connection
from uproxy.capture.netlink import Netlink, read_attributes
from uproxy.errors import UproxyError

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY, _DESTROY = 20, 21
"""SOCK_DIAG_BY_FAMILY, SOCK_DESTROY."""
_REQUEST: Final = struct.Struct("=BBBxI48s")
_ID: Final = slice(4, 52)
"""The bytes of an answer that name a socket: ports, addresses, interface, cookie."""
_ENDS: Final = struct.Struct("!HH16s16s")
"""Ports and addresses at the beginning of such a name."""
_PORT: Final = slice(4, 6)
"""The bytes of an answer with the socket's own port, in network order."""
_ANSWER = 72
"""The size in bytes of what stands in front of an answer's attributes."""
_MARK: Final = 15
"""INET_DIAG_MARK."""
_CGROUP: Final = 21
"""INET_DIAG_CGROUP_ID: the cgroup in which the socket was made (since Linux 5.9)."""
_OPTIONS, _TRANSPARENT = 22, 0x20
"""INET_DIAG_SOCKOPT (since Linux 5.10), and in its first byte what IP_TRANSPARENT has set."""
_TIME_WAIT, _CLOSE, _LISTEN = 6, 7, 10
_OPEN: Final = 0xFFE & ~(1 << _TIME_WAIT | 1 << _CLOSE | 1 << _LISTEN)
"""A bit for each state of a connection that may still send data."""


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A socket, as the kernel names it."""

    family: int
    id: bytes


def connections() -> set[Connection]:
    """Return this namespace's open connections."""
    with Netlink(_NETLINK_SOCK_DIAG) as netlink:
        return {
            _ends(found)
            for family in (socket.AF_INET, socket.AF_INET6)
            for found, _mark in _open(netlink, family)
        }


def _ends(found: OpenSocket) -> Connection:
    local_port, remote_port, local, remote = _ENDS.unpack_from(found.id)
    if found.family == socket.AF_INET:
        local, remote = local[:4], remote[:4]
    return Connection(_on_the_wire(local), local_port, _on_the_wire(remote), remote_port)


def _on_the_wire(address: bytes) -> Address:
    found = ip_address(address)
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


def marked(mark: int) -> list[OpenSocket]:
    """Return this namespace's open connections that have a mark: of the workload, and of the proxy
    which accepted them."""
    with Netlink(_NETLINK_SOCK_DIAG) as netlink:
        return [
            found
            for family in (socket.AF_INET, socket.AF_INET6)
            for found, its_mark in _open(netlink, family)
            if its_mark == mark
        ]


def accepted_at(ports: Collection[int]) -> list[OpenSocket]:
    """Return this namespace's open connections whose own port is one of these, which whoever
    listens there has accepted."""
    with Netlink(_NETLINK_SOCK_DIAG) as netlink:
        return [
            found
            for family in (socket.AF_INET, socket.AF_INET6)
            for found, _mark in _open(netlink, family)
            if _ENDS.unpack_from(found.id)[0] in ports
        ]


def is_opaque(port: int) -> bool:
    """Whether sockets listen at a port of this namespace of which none is transparent
    (IP_TRANSPARENT), as far as the kernel tells."""
    with Netlink(_NETLINK_SOCK_DIAG) as netlink:
        options = [
            read_attributes(answer[_ANSWER:]).get(_OPTIONS)
            for family in (socket.AF_INET, socket.AF_INET6)
            for answer in netlink.dump(_BY_FAMILY, _request(family, 1 << _LISTEN))
            if int.from_bytes(answer[_PORT], "big") == port
        ]
    return bool(options) and all(each and not each[0] & _TRANSPARENT for each in options)


def listening_cgroups() -> list[tuple[int, int]]:
    """Return (port, number of the cgroup in which it was made) of each socket of this namespace
    that listens; 0: the kernel doesn't tell."""
    with Netlink(_NETLINK_SOCK_DIAG) as netlink:
        return [
            (
                int.from_bytes(answer[_PORT], "big"),
                int.from_bytes(read_attributes(answer[_ANSWER:]).get(_CGROUP, b""), sys.byteorder),
            )
            for family in (socket.AF_INET, socket.AF_INET6)
            for answer in netlink.dump(_BY_FAMILY, _request(family, 1 << _LISTEN))
        ]


def reset(sockets: list[OpenSocket]) -> None:
    """Reset connections, as far as they still are there.

    Raises:
        UproxyError: this kernel can't.
    """
    with Netlink(_NETLINK_SOCK_DIAG) as netlink:
        for each in sockets:
            body = _REQUEST.pack(each.family, socket.IPPROTO_TCP, 0, _OPEN, each.id)
            try:
                with contextlib.suppress(FileNotFoundError):
                    netlink.change(_DESTROY, body)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                raise UproxyError(
                    f"{len(sockets)} captured connections are open, and this kernel can't reset "
                    "them (CONFIG_INET_DIAG_DESTROY): detach again when they have ended"
                ) from None


def _open(netlink: Netlink, family: int) -> Iterator[tuple[OpenSocket, int]]:
    for answer in netlink.dump(_BY_FAMILY, _request(family, _OPEN)):
        mark = read_attributes(answer[_ANSWER:]).get(_MARK, b"")
        yield OpenSocket(family, answer[_ID]), int.from_bytes(mark, "little")


def _request(family: int, states: int) -> bytes:
    return _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, b"")
