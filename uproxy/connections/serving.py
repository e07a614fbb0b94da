"""Whether an inbound door leads to an address that a tunnel named, or that a captured connection
was made to.  Pure; it is asked for whoever arrives, and again for what is open."""

from __future__ import annotations

from uproxy.config.settings import ALL_PORTS, InboundSettings
from uproxy.model import Address, TcpAddress, Transport
from uproxy.policy import IpAddress, Target, plain


def is_here(ip: IpAddress, door: InboundSettings, local: Address) -> bool:
    """Return whether a tunnel that arrived at `local` may name `ip` as an address of this
    workload."""
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        return False  # whatever is listed: they mean another host elsewhere, or several
    if ip in door.addresses:
        return True
    arrived = local.ip if isinstance(local, TcpAddress) else None
    return arrived is not None and not ip.is_loopback and ip == plain(arrived)


def off_ports(door: InboundSettings, port: int) -> str | None:
    """Return why a port can't be named; None: it can."""
    if door.ports == ALL_PORTS or port in door.ports:
        return None
    return f"port {port} isn't among `ports` of door {door.name}"


def unserved(door: InboundSettings, target: Target, local: Address) -> str | None:
    """Return why a door doesn't lead to the target of an open connection, which arrived at
    `local`; None: it does, or it leads to one application, to which open connections stay."""
    carries = door.transport is Transport.HBONE
    if target.port is None or not (carries or door.captured):
        return None
    ip = target.address
    if carries and ip is not None and not is_here(ip, door, local):
        return f"{ip} isn't among `addresses` of door {door.name}"
    return off_ports(door, target.port)
