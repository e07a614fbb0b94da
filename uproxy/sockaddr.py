"""Addresses as the kernel writes them (`struct sockaddr`), for whoever calls it without Python.

It resolves nothing: addresses are literal.
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
"""sizeof(sun_path), its closing zero included."""

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What an IPv4 address has before it as an IPv6 one (RFC 4291 section 2.5.5.2)."""


def pack(address: Address) -> bytes:
    """A literal address as connect(2) wants it.

    Raises:
        OSError: the path of a unix socket is too long, or a zone has no interface.
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
    scope = (int(zone) if zone.isdigit() else socket.if_nametoindex(zone)) if zone else 0
    packed = socket.inet_pton(socket.AF_INET6, host)
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + packed + struct.pack("=I", scope)


@lru_cache(maxsize=1024)
def address_of(packed: bytes, port: int) -> TcpAddress:
    """16 bytes of an address, IPv4 as mapped, with a port: one that is met again and again."""
    return TcpAddress(host_of(packed), port)


@lru_cache(maxsize=4096)
def host_of(packed: bytes) -> str:
    """16 bytes of an address, IPv4 as mapped, in words."""
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)
