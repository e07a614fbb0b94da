"""Chooses the destination of a captured connection by the address that the application dialled: its
original destination.

Two rules make loops impossible: a connection that was made to a port of uProxy itself is refused,
and so is one for which an address of this host would have to be dialled.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import cast

from uproxy.config.settings import OutboundSettings
from uproxy.contract import Arrival, Refusal
from uproxy.model import Address, Outcome, TcpAddress
from uproxy.policy import IpAddress, plain
from uproxy.proxy.naming import Own
from uproxy.snapshot import Destination, Snapshot


def original_destination_of(
    door: OutboundSettings, snapshot: Snapshot, own: Own, arrival: Arrival
) -> Destination | Refusal:
    """Return the destination of a captured connection, or why it has none."""
    meant = arrival.target
    if meant is None:
        return _no(f"door {door.listen} is for captured connections, and this one was not")
    ip = plain(cast("IpAddress", meant.ip))  # the kernel knows no names
    ours = own.is_own(ip)
    if ours and meant.port in own.ports:
        return _no(
            f"{meant} is where uProxy itself listens, and only capture may bring connections here: "
            "connect to the service's own address"
        )
    if not door.expose and not _is_local(own, arrival):
        return _no(
            f"{arrival.source} is another host, whose connection to {meant} was redirected here: "
            f"with `expose: true` door {door.listen} lends it our identity"
        )
    name = snapshot.matching.find(ip, meant.port)
    if name is None:
        return _no(f"no destination has a `match` for {meant}")
    to = snapshot.destinations[name]
    way_out = f"have capture leave it alone, or give destination {name} `addresses`"
    if to.settings.addresses:
        return to
    if ours:
        return _no(f"{meant} is an address of this host, and could lead back here: {way_out}")
    if isinstance(ip, IPv6Address) and ip.is_link_local:
        return _no(f"{meant} means another host at each interface: {way_out}")
    return to


def _is_local(own: Own, arrival: Arrival) -> bool:
    """Return whether a captured connection comes from this host.

    Where netfilter has redirected it, it arrives at a loopback address if it is this host's, and
    at an address of the interface if another host's.  Where its address wasn't rewritten (a route,
    or TPROXY, brought it), its source must be an address of this host.
    """
    if arrival.local != arrival.target:
        return _is_loopback(arrival.local)
    ip = arrival.source.ip if isinstance(arrival.source, TcpAddress) else None
    return ip is not None and own.is_own(plain(ip))


def _is_loopback(address: Address) -> bool:
    ip = address.ip if isinstance(address, TcpAddress) else None
    return ip is not None and plain(ip).is_loopback


def _no(reason: str) -> Refusal:
    return Refusal(Outcome.NO_DESTINATION, reason)
