"""A connection, as the segments on the wire name it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Connection:
    """Its two ends; the local one is this network namespace's."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int
