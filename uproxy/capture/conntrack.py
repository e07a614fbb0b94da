"""Has the kernel forget connections that it translates to the proxy (nf_conntrack, by netlink).

What conntrack knows outlives the table that made it translate: two minutes for a connection that
has ended.  Who then connects from the same port to the same place around an attach would have
segments translated by what the kernel knows of the former one.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterator
from typing import Final

from uproxy.capture.netlink import NETFILTER, Attributes, Netlink, attributes, read_attributes
from uproxy.errors import UproxyError, in_words

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE."""
_ORIGINAL, _REPLY, _ID, _ZONE = 1, 2, 12, 18
"""CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE."""
_ADDRESSES, _PORTS = 1, 2
"""In a tuple: CTA_TUPLE_IP, CTA_TUPLE_PROTO."""
_PROTOCOL, _SOURCE, _DESTINATION = 1, 2, 3
"""Among the ports: CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT."""
_NESTED: Final = 0x8000
_WITHOUT_IT: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""What a kernel without nf_conntrack_netlink answers: there they are forgotten in time."""


def forget_redirected(ports: Collection[int]) -> None:
    """Forget this network namespace's connections that were redirected to one of its ports.

    Raises:
        UproxyError: the kernel refuses.
    """
    try:
        with Netlink(NETFILTER) as netlink:
            for family, each in list(_redirected(netlink, ports)):
                _forget(netlink, family, each)
    except OSError as error:
        if error.errno not in _WITHOUT_IT:
            raise UproxyError(
                f"conntrack can't forget captured connections: {in_words(error)}: detach again"
            ) from None


def _forget(netlink: Netlink, family: int, known: Attributes) -> None:
    named = {kind: known[kind] for kind in (_ID, _ZONE) if kind in known}
    named[_ORIGINAL | _NESTED] = known[_ORIGINAL]
    with contextlib.suppress(FileNotFoundError):  # it was forgotten meanwhile
        netlink.change(_DELETE, _head(family) + attributes(named))


def _redirected(netlink: Netlink, ports: Collection[int]) -> Iterator[tuple[int, Attributes]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in netlink.dump(_GET, _head(family)):
            found = read_attributes(answer[4:])
            meant = _end(found[_ORIGINAL], _DESTINATION)
            answers = _end(found[_REPLY], _SOURCE)
            if meant != answers and answers is not None and answers[1] in ports:
                yield family, found


def _end(packed: bytes, which: int) -> tuple[bytes, int] | None:
    """Return the address and port of one end (_SOURCE or _DESTINATION) in a tuple of conntrack's;
    None: it isn't of TCP."""
    tuple_ = read_attributes(packed)
    ports = read_attributes(tuple_[_PORTS])
    if ports[_PROTOCOL][0] != socket.IPPROTO_TCP:
        return None
    # sources are numbered 1 and 3, destinations 2 and 4, for IPv4 and IPv6
    addresses = read_attributes(tuple_[_ADDRESSES])
    address = addresses.get(which - 1) or addresses[which + 1]
    return address, int.from_bytes(ports[which], "big")


def _head(family: int) -> bytes:
    """A struct nfgenmsg."""
    return bytes([family, 0, 0, 0])
