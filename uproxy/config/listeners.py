"""Finds listen addresses that can't be used at the same time.

Used when loading (two doors at one address, a door that leads to itself) and when reloading
(`0.0.0.0:P` can't become `127.0.0.1:P` while the old socket is open).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from uproxy.config.records import Draft
from uproxy.config.settings import AdminSettings
from uproxy.model import Host, ListenAddress, Mistake, TcpAddress


@dataclass(frozen=True, slots=True)
class Listener:
    """A listen address and where it is configured."""

    path: str
    address: ListenAddress
    draft: Draft
    key: str = "listen"
    default: bool = False
    """Whether it is a default: a collision is then reported for the other listener."""


def where(listen: ListenAddress, captured: bool | None) -> ListenAddress:
    """Return where a door's socket listens: one for capture at all addresses of both families,
    because connections to any come there."""
    if captured and isinstance(listen, TcpAddress):
        return TcpAddress("::", listen.port)
    return listen


def place_of(address: ListenAddress) -> object:
    """Equal for all addresses that can overlap, so that not each need be compared with each."""
    return address.port if isinstance(address, TcpAddress) else address


def overlap(one: ListenAddress, other: ListenAddress) -> bool:
    """Return whether two sockets can't listen at these addresses at the same time.

    `[::]` listens for IPv4 too, `0.0.0.0` for IPv4 only.  A host name overlaps nothing: its
    addresses aren't known here.
    """
    if not isinstance(one, TcpAddress) or not isinstance(other, TcpAddress):
        return one == other
    if one.port != other.port:
        return False
    a, b = one.ip, other.ip
    if a is None or b is None:
        return False
    return a == b or _covers(a, b) or _covers(b, a)


def _covers(wildcard: IPv4Address | IPv6Address, ip: IPv4Address | IPv6Address) -> bool:
    """Return whether a wildcard address includes `ip`."""
    return wildcard.is_unspecified and ip.version <= wildcard.version


def beyond_loopback(address: ListenAddress) -> bool:
    """Return whether other hosts can reach the address; true only for TCP."""
    if not isinstance(address, TcpAddress):
        return False
    ip = address.ip
    return address.host != "localhost" if ip is None else not ip.is_loopback


def check_listeners(root: Draft) -> Iterator[Mistake]:
    """Yield a mistake for each two listeners at one address and each door that leads to itself."""
    earlier: dict[object, list[Listener]] = {}
    for one in listeners_of(root):
        rivals = earlier.setdefault(place_of(one.address), [])
        first = next((each for each in rivals if overlap(one.address, each.address)), None)
        if first is not None:
            yield _collision(one, first)
        rivals.append(one)
    for door in root.drafts("inbound"):
        listen, to = door.get("listen"), door.get("to")
        has_address = listen is not None and to is not None and not isinstance(to, Host)
        if has_address and overlap(listen, to):
            yield door.wrong("to", "is where this door listens: connections would go in circles")


def _collision(one: Listener, earlier: Listener) -> Mistake:
    if one.default:
        one, earlier = earlier, one
    what = "is also" if one.address == earlier.address else "overlaps with"
    reason = f"{what} the listen address of {earlier.path} ({earlier.address})"
    return one.draft.wrong(one.key, reason)


def listeners_of(root: Draft) -> Iterator[Listener]:
    """Yield the listen addresses of all doors and admin listeners, defaults included."""
    for section in ("inbound", "outbound"):
        for door in root.drafts(section):
            if door.get("listen") is not None:
                yield Listener(door.path, where(door.get("listen"), door.get("captured")), door)
    admin = root.get("admin")
    written = admin if isinstance(admin, Draft) else None
    defaults = admin if isinstance(admin, AdminSettings) else AdminSettings()
    for key in ("listen", "metrics", "ready"):
        if written is not None and written.has(key):
            address, draft, default = written.get(key), written, False
        else:
            address, draft, default = getattr(defaults, key), root, True
        if address is not None:
            yield Listener(f"admin.{key}", address, draft, key, default)
