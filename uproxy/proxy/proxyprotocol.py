"""Writes the header of the PROXY protocol, version 2, which tells the application who called.

uProxy reads no such headers.  The layout is in haproxy's `proxy-protocol.txt`, section 2.2;
the caller's SPIFFE ID is in TLV 0xD0, as ztunnel writes it.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from uproxy.contract import Arrival
from uproxy.model import Address, TcpAddress
from uproxy.policy import plain
from uproxy.spiffe.ids import SpiffeId

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
SPIFFE_ID_TLV = 0xD0

_PROXY = 0x21  # version 2, command PROXY
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21


def preface(arrival: Arrival, caller: SpiffeId | None) -> bytes:
    """Return the header that is sent to the application before the caller's first byte.  The
    address is the TCP peer's, an L7 proxy's if that connects for the caller."""
    # of a stream, the address that it was meant for is the application's, and the tunnel's isn't
    family, addresses = _addresses(arrival.source, arrival.target or arrival.local)
    body = addresses + _identity(caller)
    return SIGNATURE + struct.pack("!BBH", _PROXY, family, len(body)) + body


def _addresses(source: Address, local: Address) -> tuple[int, bytes]:
    """Return address family and addresses; UNSPEC and none if one end is no IP address."""
    if not isinstance(source, TcpAddress) or not isinstance(local, TcpAddress):
        return _UNSPEC, b""
    if source.ip is None or local.ip is None:
        return _UNSPEC, b""
    one, other = plain(source.ip), plain(local.ip)
    ports = struct.pack("!HH", source.port, local.port)
    if isinstance(one, IPv4Address) and isinstance(other, IPv4Address):
        return _TCP4, one.packed + other.packed + ports
    return _TCP6, _wide(one) + _wide(other) + ports


def _wide(address: IPv4Address | IPv6Address) -> bytes:
    """Return an address in 16 bytes, IPv4 as IPv4-mapped."""
    packed = address.packed
    return packed if len(packed) == 16 else b"\x00" * 10 + b"\xff\xff" + packed


def _identity(caller: SpiffeId | None) -> bytes:
    """Return the TLV with the caller's SPIFFE ID; empty without one."""
    if caller is None:
        return b""
    value = str(caller).encode("ascii")
    return struct.pack("!BH", SPIFFE_ID_TLV, len(value)) + value
