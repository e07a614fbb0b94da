"""Converts addresses from and to the kernel's `struct sockaddr`, for the compiled engine.

It resolves no names: hosts are IP literals.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import lru_cache
from typing import Final

from uproxy.model import Address, TcpAddress, UnixAddress

_UNIX_PATH: Final = 108
"""sizeof(sun_path) in bytes, its closing zero included."""

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""The 12 bytes before an IPv4 address in an IPv4-mapped IPv6 one (RFC 4291 §2.5.5.2)."""


def pack(address: Address) -> bytes:
    """Return the `struct sockaddr` of a literal address, as connect(2) takes it.

    Raises:
        OSError: the path of a unix socket is too long, or the IPv6 zone names no interface.
    """
    if isinstance(address, UnixAddress):
        path = os.fsencode(address.path)
        if len(path) >= _UNIX_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return struct.pack("=H", socket.AF_UNIX) + path + b"\0"
    port = address.port.to_bytes(2, "big")
    if ":" not in address.host:
        packed = socket.inet_pton(socket.AF_INET, address.host)
        return struct.pack("=H", socket.AF_INET) + port + packed + bytes(8)
    host, _, zone = address.host.partition("%")
    scope = scope_id(zone) if zone else 0
    packed = socket.inet_pton(socket.AF_INET6, host)
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + packed + struct.pack("=I", scope)


def scope_id(zone: str) -> int:
    """Return the interface index for an IPv6 zone (`eth0` of `fe80::1%eth0`).

    Raises:
        OSError: ENODEV, this machine has no such interface.
    """
    try:
        return int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    except (OSError, OverflowError, ValueError):
        # ENODEV, as the kernel reports for an unknown interface index
        raise OSError(errno.ENODEV, "no interface of this name") from None


def network_of(address: TcpAddress) -> str:
    """Return the source by which connections are counted: an IPv4 address, or the /64 network
    of an IPv6 one (`2001:db8::/64`), since its owner has 2^64 addresses."""
    if ":" not in address.host:
        return address.host
    packed = socket.inet_pton(socket.AF_INET6, address.host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


@lru_cache(maxsize=1024)
def address_of(packed: bytes, port: int) -> TcpAddress:
    """Return the address of 16 bytes (IPv4 as IPv4-mapped IPv6) and a port; results are cached."""
    return TcpAddress(host_of(packed), port)


# more would be a MiB of memory with thousands of callers, and save them half a microsecond each
@lru_cache(maxsize=256)
def host_of(packed: bytes) -> str:
    """Return 16 bytes of an IPv6 or IPv4-mapped address as text; results are cached."""
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)
