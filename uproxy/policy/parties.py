"""Whom a rule is asked about: who calls, and what for."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from uproxy.spiffe.ids import SpiffeId

DIRECT = "direct"
"""The value of `Caller.via` for a caller that connected without an L7 proxy."""

IpAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Caller:
    """Who wants to connect."""

    identity: SpiffeId | None
    """The verified SPIFFE ID; None: the caller proved none."""
    source: IpAddress | None
    """The TCP peer's address (with `via`, the L7 proxy's); None on a unix socket."""
    via: str = DIRECT
    """The configured name of the trusted L7 proxy that connects for the caller."""
    via_identity: SpiffeId | None = None
    """The verified SPIFFE ID of that proxy; equal to `identity` if it connects for itself."""
    is_proved: bool = False
    """Whether the caller has proved itself to us although an L7 proxy connects for it."""

    @property
    def is_l7_proxy(self) -> bool:
        """Whether the caller is a trusted L7 proxy that connects for itself."""
        return self.identity is not None and self.identity == self.via_identity

    def __str__(self) -> str:
        who = "a caller without an identity" if self.identity is None else str(self.identity)
        return who if self.via == DIRECT else f"{who} via {self.via}"


@dataclass(frozen=True, slots=True)
class Target:
    """What the caller wants to reach."""

    port: int | None
    """The application's port; None if it listens on a unix socket."""
    address: IpAddress | None
    """The application's; None if it is configured by name or as a unix socket."""
    door: str
    """The name of the inbound door."""

    def __str__(self) -> str:
        door = f"door {self.door}"
        return door if self.port is None else f"port {self.port} at {door}"


def plain(address: IpAddress) -> IpAddress:
    """Return the IPv4 address in an IPv4-mapped IPv6 one (`::ffff:a.b.c.d`), else `address`."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
