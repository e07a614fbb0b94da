"""Which listen addresses can't stand beside each other.

Shared by loading (two doors on one socket), by the check for loops and by reloading
(`0.0.0.0:P` can't become `127.0.0.1:P` while the old socket is open).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from uproxy.config.records import Draft
from uproxy.config.settings import AdminSettings
from uproxy.model import ListenAddress, Mistake, TcpAddress


@dataclass(frozen=True, slots=True)
class _Listener:
    path: str
    address: ListenAddress
    draft: Draft | None
    """None where the address is a default."""
    key: str = "listen"


def overlap(one: ListenAddress, other: ListenAddress) -> bool:
    """Whether two sockets can't listen at these addresses at the same time.

    A wildcard covers its own family only: sockets for `[::]` and `0.0.0.0` may stand together.
    """
    if not isinstance(one, TcpAddress) or not isinstance(other, TcpAddress):
        return one == other
    if one.port != other.port:
        return False
    a, b = _unmapped(one), _unmapped(other)
    if a is None or b is None:
        return one.host == other.host
    return a == b or (a.version == b.version and (a.is_unspecified or b.is_unspecified))


def _unmapped(address: TcpAddress) -> IPv4Address | IPv6Address | None:
    ip = address.ip
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip


def beyond_loopback(address: ListenAddress) -> bool:
    """Whether another host can reach it; only a TCP address can be."""
    if not isinstance(address, TcpAddress):
        return False
    ip = _unmapped(address)
    return address.host != "localhost" if ip is None else not ip.is_loopback


def check_listeners(root: Draft) -> Iterator[Mistake]:
    """No two listeners on one address, no door that leads to itself."""
    listeners = list(_listeners(root))
    for index, one in enumerate(listeners):
        for earlier in listeners[:index]:
            if overlap(one.address, earlier.address):
                yield _collision(one, earlier)
                break
    for door in root.drafts("inbound"):
        listen, to = door.get("listen"), door.get("to")
        if listen is not None and to is not None and overlap(listen, to):
            yield door.wrong("to", "is where this door listens: connections would go in circles")


def _collision(one: _Listener, earlier: _Listener) -> Mistake:
    if one.draft is None:
        one, earlier = earlier, one
    what = "is also" if one.address == earlier.address else "overlaps with"
    reason = f"{what} the listen address of {earlier.path} ({earlier.address})"
    if one.draft is None:
        return Mistake(one.path, reason, str(one.address))
    return one.draft.wrong(one.key, reason)


def _listeners(root: Draft) -> Iterator[_Listener]:
    for section in ("inbound", "outbound"):
        for door in root.drafts(section):
            if door.get("listen") is not None:
                yield _Listener(door.path, door.get("listen"), door)
    written = root.get("admin")
    draft = written if isinstance(written, Draft) else None
    defaults = written if isinstance(written, AdminSettings) else AdminSettings()
    for key in ("listen", "metrics", "ready"):
        has = draft is not None and draft.has(key)
        address = draft.get(key) if draft is not None and has else getattr(defaults, key)
        if address is not None:
            yield _Listener(f"admin.{key}", address, draft if has else None, key)
