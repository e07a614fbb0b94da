"""The PROXY protocol, version 2: telling the application who called.

Only the writer; uProxy reads none.  The layout is haproxy's `proxy-protocol.txt`, section
2.2; the caller's SPIFFE ID travels as TLV 0xD0, as ztunnel writes it.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from uproxy.contract import Arrival
from uproxy.model import Address, TcpAddress
from uproxy.policy import plain

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
SPIFFE_ID_TLV = 0xD0

_PROXY = 0x21  # version 2, command PROXY
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21


def preface(arrival: Arrival) -> bytes:
    """What goes to the application before the caller's first byte."""
    family, addresses = _addresses(arrival.source, arrival.local)
    body = addresses + _identity(arrival)
    return SIGNATURE + struct.pack("!BBH", _PROXY, family, len(body)) + body


def _addresses(source: Address, local: Address) -> tuple[int, bytes]:
    """Family and addresses; a caller on a unix socket has no address to tell."""
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
    packed = address.packed
    return packed if len(packed) == 16 else b"\x00" * 10 + b"\xff\xff" + packed


def _identity(arrival: Arrival) -> bytes:
    if arrival.peer is None:
        return b""
    value = arrival.peer.spiffe_id.encode("ascii")
    return struct.pack("!BH", SPIFFE_ID_TLV, len(value)) + value
