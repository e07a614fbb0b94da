"""Checks the address that a CONNECT names, or that a captured connection was made to: it must be a
port of the application at an address of this workload.  Pure.

An address of this workload is the one at which the tunnel arrived, or one that the door lists.
The same address has one form here: IPv4, where it is written as an IPv4-mapped IPv6 one.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from uproxy.config.settings import InboundSettings, Settings
from uproxy.connections.serving import is_here, off_ports
from uproxy.contract import Arrival, Refusal
from uproxy.model import Address, Outcome, TcpAddress, Transport
from uproxy.policy import IpAddress, plain


@dataclass(frozen=True, slots=True)
class Own:
    """What is known of this host."""

    ports: Set[int]
    """The ports at which this uProxy listens itself."""
    is_own: Callable[[IpAddress], bool]
    """Returns whether an address is one of this host's."""


def named_address(
    door: InboundSettings, own_ports: Set[int], local: Address, meant: TcpAddress
) -> TcpAddress | Refusal:
    """Return the address of this workload that a CONNECT means, or why it means none.

    Args:
        own_ports: where this uProxy listens itself.
        local: where the tunnel arrived.
        meant: what the CONNECT named.
    """
    if meant.ip is None:
        return _no(f"{meant} is a name: name an IP address of this workload")
    ip = plain(meant.ip)
    if not is_here(ip, door, local):
        return _no(f"{meant} is no address of this workload{_way_out(ip, door)}")
    if meant.port in own_ports or (isinstance(local, TcpAddress) and meant.port == local.port):
        reason = f"{meant} is where uProxy itself listens: name a port of the application"
        return Refusal(Outcome.CONNECT_FAILED, reason)
    unlisted = off_ports(door, meant.port)
    return TcpAddress(str(ip), meant.port) if unlisted is None else _no(unlisted)


def captured_address(door: InboundSettings, own: Own, meant: TcpAddress) -> TcpAddress | Refusal:
    """Return the application's address that a captured connection was made to, or why it leads
    nowhere."""
    if meant.ip is None:
        return _no(f"{meant} is a name, and connections are made to addresses")
    ip = plain(meant.ip)
    if not own.is_own(ip):
        return _no(f"{meant} is no address of this host: only its own connections come in here")
    if meant.port in own.ports:
        return _no(
            f"{meant} is where uProxy itself listens, and only capture may bring connections here: "
            "connect to a port of the application"
        )
    unlisted = off_ports(door, meant.port)
    return TcpAddress(str(ip), meant.port) if unlisted is None else _no(unlisted)


def is_in_clear(arrival: Arrival) -> bool:
    """Return whether an arrival came without TLS: its caller made no handshake."""
    return arrival.tls is None and arrival.peer is None


def spoken_at(door: InboundSettings, port: int, arrival: Arrival) -> Transport:
    """Return the transport of a connection to a port of the application: plaintext if it came in
    clear to a port where that is admitted (`migrate`), else the one that the door has for it."""
    if port in door.migrate and is_in_clear(arrival):
        return Transport.PLAINTEXT
    return door.transport_at(port)


def _no(reason: str) -> Refusal:
    return Refusal(Outcome.NO_DESTINATION, reason)


def _way_out(ip: IpAddress, door: InboundSettings) -> str:
    """Return the hint how the configuration could admit an address; empty for addresses that it
    never can."""
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        return ""
    return f": if it is one, add it to `addresses` of door {door.name}"


def own_ports(settings: Settings, passed: Set[int]) -> frozenset[int]:
    """Return the ports at which this uProxy listens; `passed` are those of systemd's sockets."""
    admin = settings.admin
    listening = (
        *(door.listen for door in settings.inbound),
        *(door.listen for door in settings.outbound),
        *(admin.listen, admin.metrics, admin.ready),
    )
    ports = (each.port for each in listening if isinstance(each, TcpAddress))
    return frozenset((*passed, *ports))
