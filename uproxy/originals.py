"""Original destinations: the address that a captured connection was made to, before capture brought
it to a listener of ours.

Where eBPF gave the connection to the listener, that is the address of the accepted socket itself.
Where netfilter has rewritten it (`redirect` in nft), conntrack knows the one before.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from uproxy import sockaddr
from uproxy.model import TcpAddress

ORIGINAL_DST: Final = 80
"""SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST of netfilter_ipv6."""
_IPV6_TRANSPARENT: Final = 75
_IP_TRANSPARENT: Final = 19
_BIND_ADDRESS_NO_PORT: Final = 24
_ANY_PORT: Final = 9

CAPTURE_MARK: Final = 0x7570
"""The mark of packets that `uproxy capture` routes to loopback."""

_MAPPED: Final = bytes(10) + b"\xff\xff"


def of(accepted: socket.socket, listening_port: int) -> TcpAddress | None:
    """Return the original destination of a connection that was accepted at a port; its own address
    if nobody has steered it.  None for unix sockets, and if it has gone meanwhile."""
    if accepted.family == socket.AF_UNIX:
        return None
    with contextlib.suppress(OSError):
        host, port = accepted.getsockname()[:2]
        packed = _packed(host)
        if port == listening_port:
            packed, port = _rewritten(accepted, packed) or (packed, port)
        return sockaddr.address_of(packed, port)
    return None


def _packed(host: str) -> bytes:
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host)
    return _MAPPED + socket.inet_aton(host)


def _rewritten(accepted: socket.socket, local: bytes) -> tuple[bytes, int] | None:
    """Return the address and port that conntrack knows; None: it knows none."""
    try:
        if local.startswith(_MAPPED):
            found = accepted.getsockopt(socket.SOL_IP, ORIGINAL_DST, 16)
            return _MAPPED + found[4:8], struct.unpack_from("!H", found, 2)[0]
        found = accepted.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DST, 28)
    except OSError:  # not rewritten, or there is no conntrack
        return None
    return found[8:24], struct.unpack_from("!H", found, 2)[0]


def make_transparent(listener: socket.socket) -> bool:
    """Let a listener take connections to addresses that aren't this host's, which eBPF needs to
    give it some; return whether it may.  That needs CAP_NET_ADMIN or CAP_NET_RAW."""
    if not is_transparent(listener):
        level, option = _transparent(listener)
        with contextlib.suppress(OSError):
            listener.setsockopt(level, option, 1)
    return is_transparent(listener)


def is_transparent(listener: socket.socket) -> bool:
    """Return whether a listener takes such connections."""
    return bool(listener.getsockopt(*_transparent(listener)))


def _transparent(listener: socket.socket) -> tuple[int, int]:
    if listener.family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, _IPV6_TRANSPARENT
    return socket.SOL_IP, _IP_TRANSPARENT


def use_source(connection: socket.socket, source: TcpAddress) -> None:
    """Have a TCP socket dial from another host's address, by way of the loopback interface; answers
    come back to it by the route that capture has made for what is marked.

    Raises:
        OSError: EPERM, it takes CAP_NET_ADMIN; EINVAL, the address is of the other family.
    """
    level, option = _transparent(connection)
    connection.setsockopt(level, option, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, CAPTURE_MARK)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    connection.setsockopt(socket.SOL_IP, _BIND_ADDRESS_NO_PORT, 1)
    if (":" in source.host) != (connection.family == socket.AF_INET6):
        raise OSError(errno.EINVAL, "the caller's address is of the other family")
    connection.bind((source.host, 0))


def is_marked(accepted: socket.socket) -> bool:
    """Return whether an accepted connection has the mark of captured ones.  Where callers come in
    from elsewhere only `use_source` makes such: before Linux 5.17 eBPF brings the connection back
    to the proxy that dials."""
    return accepted.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == CAPTURE_MARK


def is_own(ip: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is one of this host.  The kernel is asked for the way there, which
    sends nothing: to an own address it may start at that address, and to no other."""
    if ip.is_loopback or ip.is_unspecified:
        return True
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if ip.version == 4:  # else the way to a secondary address starts at the first one
                probe.bind((str(ip), 0))
            probe.connect((str(ip), _ANY_PORT))
            return bool(probe.getsockname()[0] == str(ip))
    except OSError:  # no way there at all
        return False
