"""Which destination a captured connection goes to, by the address that it was made to.  Pure.

The longest prefix wins, then a port over none: a destination for `10.1.0.0/16` at port 8080 takes
that port of the network from one for `10.0.0.0/8`, and leaves it the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Final

from uproxy.config.settings import DestinationSettings, MatchSettings

Ports = Mapping[int | None, str]
"""A destination by port; None: any other port."""

_BITS: Final = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class Matching:
    """The destinations of a configuration that captured connections go to."""

    _prefixes: Mapping[int, tuple[tuple[int, Mapping[int, Ports]], ...]]
    """By IP version: the lengths of the prefixes in use, the longest first, each with what is known
    of an address by its first so many bits."""

    @classmethod
    def of(cls, destinations: Iterable[DestinationSettings]) -> Matching:
        """Make it of those with a `match`, of which no two match the same network and port."""
        known: dict[int, dict[int, dict[int, dict[int | None, str]]]] = {4: {}, 6: {}}
        for each in destinations:
            if each.match is not None:
                _add(known, each.match, each.name)
        return cls(
            MappingProxyType(
                {
                    version: tuple(sorted(lengths.items(), reverse=True))
                    for version, lengths in known.items()
                }
            )
        )

    def find(self, ip: IPv4Address | IPv6Address, port: int) -> str | None:
        """Return the name of the destination of what was meant for this address, which isn't an
        IPv4-mapped one; None: nothing matches it."""
        number, bits = int(ip), _BITS[ip.version]
        for length, networks in self._prefixes[ip.version]:
            ports = networks.get(number >> (bits - length), {})
            name = ports.get(port) or ports.get(None)
            if name is not None:
                return name
        return None


def _add(
    known: dict[int, dict[int, dict[int, dict[int | None, str]]]], match: MatchSettings, name: str
) -> None:
    for network in match.addresses:
        length = network.prefixlen
        first = int(network.network_address) >> (network.max_prefixlen - length)
        ports = known[network.version].setdefault(length, {}).setdefault(first, {})
        ports.update(dict.fromkeys(match.ports or (None,), name))
