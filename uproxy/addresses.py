"""The addresses of a destination, or of an application: as configured, and as resolved.

It resolves nothing: the resolver's records are handed in.  They are part of a snapshot and never
change; how they fare is in `destinations.Endpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from uproxy.model import Address, TcpAddress

Records = Mapping[TcpAddress, tuple[TcpAddress, ...]]
"""The last good answer of the resolver, by name."""


def names_of(addresses: tuple[Address, ...]) -> tuple[TcpAddress, ...]:
    """Return those of `addresses` that are names, which a resolver must look up."""
    return tuple(
        address for address in addresses if isinstance(address, TcpAddress) and address.ip is None
    )


@dataclass(frozen=True, slots=True)
class Addresses:
    """A destination's addresses, as configured and as resolved."""

    configured: tuple[Address, ...]
    listed: Mapping[Address, Address]
    """The address as configured by literal address, in order; a literal that is listed twice
    counts for the first.  Empty while no name has been resolved."""
    server_name: str | None
    """Sent as SNI to each, instead of the name in the address."""
    sends_names: bool
    """Whether the name in an address is sent as SNI; false for tunnels, which have none."""

    @classmethod
    def of(
        cls,
        configured: tuple[Address, ...],
        records: Records,
        server_name: str | None = None,
        *,
        sends_names: bool = True,
    ) -> Addresses:
        """List the literal addresses of `configured`, with every record of the names among them."""
        names = frozenset(names_of(configured))
        listed: dict[Address, Address] = {}
        for address in configured:
            if isinstance(address, TcpAddress) and address in names:
                literals: tuple[Address, ...] = records.get(address, ())
            else:
                literals = (address,)
            for literal in literals:
                listed.setdefault(literal, address)
        return cls(configured, MappingProxyType(listed), server_name, sends_names)

    @property
    def names(self) -> tuple[TcpAddress, ...]:
        """The names among them, which a resolver must look up."""
        return names_of(self.configured)

    @property
    def choice(self) -> bool:
        """Whether there is a choice: unless there is exactly one address,
        `Endpoints.candidates` may answer differently each time."""
        return len(self.listed) != 1

    @property
    def is_open(self) -> bool:
        """Whether each connection names the address to dial, or its port, itself: a stream of a
        tunnel, or a captured connection."""
        return all(isinstance(each, TcpAddress) and not each.port for each in self.configured)

    def sni(self, configured: Address) -> str | None:
        """Return the SNI for a handshake with an address, given as configured: without a server
        name its own name, without a dot at the end (RFC 6066 section 3); None: none is sent."""
        sends_own = self.server_name is None and self.sends_names
        if sends_own and isinstance(configured, TcpAddress) and configured.ip is None:
            return configured.host.removesuffix(".")
        return self.server_name
