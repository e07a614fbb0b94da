"""Which connections are captured: what `--include`, `--exclude` and `--inbound` say.

Pure.  The longest prefix in the lists that an address has decides about it: whether it is included
or excluded.  An address that none matches is captured if no address is included.  Ports are
decided likewise, and a connection is captured if both its address and its port are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from uproxy.capture.layout import Action, Flag, Network, Way, port_key, prefix_key
from uproxy.errors import UsageError

ALL: Final = "all"
"""The value of --inbound that captures every port."""
_ALL_IPV4: Final = IPv4Network("0.0.0.0/0")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
MAX_RULES: Final = 16384
"""How many rules about addresses, and how many about ports, the maps have room for."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to capture; networks and ports in the order of the command line."""

    included: tuple[Network, ...] = ()
    excluded: tuple[Network, ...] = ()
    included_ports: frozenset[int] = frozenset()
    excluded_ports: frozenset[int] = frozenset()
    inbound: frozenset[int] = frozenset()
    inbound_all: bool = False
    inbound_excluded: frozenset[int] = frozenset()

    @property
    def captures_inbound(self) -> bool:
        """Whether any inbound port is captured."""
        return self.inbound_all or bool(self.inbound)

    @property
    def flags(self) -> Flag:
        """Return the switches with which the programs read these rules."""
        flags = Flag(0)
        if self.included:
            flags |= Flag.ADDRESSES_INCLUDED
        if self.included_ports:
            flags |= Flag.PORTS_INCLUDED
        if self.inbound:
            flags |= Flag.INBOUND
        if self.inbound_all:
            flags |= Flag.INBOUND_ALL
        return flags

    def address_rules(self) -> dict[bytes, Action]:
        """Return the keys of the map `addresses` with their actions."""
        rules = {prefix_key(each): Action.CAPTURE for each in self.included}
        rules |= {prefix_key(each): Action.BYPASS for each in self.excluded}
        if any(_covers_ipv4(each) for each in (*self.included, *self.excluded)):
            # which in the map are IPv6 addresses too, of which no prefix for IPv6 speaks
            otherwise = Action.BYPASS if self.included else Action.CAPTURE
            rules.setdefault(prefix_key(_ALL_IPV4), otherwise)
        return rules

    def port_rules(self) -> dict[bytes, Action]:
        """Return the keys of the map `ports` with their actions."""
        return {
            port_key(way, port): action
            for way, ports, action in (
                (Way.OUTBOUND, self.included_ports, Action.CAPTURE),
                (Way.OUTBOUND, self.excluded_ports, Action.BYPASS),
                (Way.INBOUND, self.inbound, Action.CAPTURE),
                (Way.INBOUND, self.inbound_excluded, Action.BYPASS),
            )
            for port in ports
        }


def parse_policy(
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    inbound: Iterable[str] = (),
    exclude_inbound: Iterable[str] = (),
) -> Policy:
    """Return the policy that the command line's values say; each may be a list with commas.

    Raises:
        UsageError: a value is neither a prefix nor a port, or is both included and excluded.
    """
    included, included_ports = _destinations("--include", include)
    excluded, excluded_ports = _destinations("--exclude", exclude)
    doors = [each for each in _split(inbound) if each != ALL]
    policy = Policy(
        included, excluded, included_ports, excluded_ports,
        _ports("--inbound", doors), ALL in _split(inbound),
        _ports("--exclude-inbound", _split(exclude_inbound)),
    )  # fmt: skip
    _check(policy)
    return policy


def _check(policy: Policy) -> None:
    for one, other, options in (
        (set(policy.included), set(policy.excluded), "--include and --exclude"),
        (policy.included_ports, policy.excluded_ports, "--include and --exclude"),
        (policy.inbound, policy.inbound_excluded, "--inbound and --exclude-inbound"),
    ):
        if both := one & other:
            raise UsageError(f"{options}: {min(map(str, both))} is in both")
    for count, what in (
        (len(policy.address_rules()), "address prefixes"), (len(policy.port_rules()), "ports")
    ):  # fmt: skip
        if count > MAX_RULES:
            raise UsageError(f"{count} {what}: at most {MAX_RULES} fit")


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",")]


def _destinations(option: str, values: Iterable[str]) -> tuple[tuple[Network, ...], frozenset[int]]:
    words = _split(values)
    ports = [word for word in words if word.replace("-", "").isdecimal()]
    networks = dict.fromkeys(_network(option, word) for word in words if word not in ports)
    return tuple(networks), _ports(option, ports)


def _network(option: str, word: str) -> Network:
    address, zone, _ = word.partition("%")
    if zone:
        raise UsageError(f"{option} {word!r}: has a zone, which no program sees: write {address}")
    try:
        return _plain(ip_network(word))
    except ValueError as error:
        hint = f"did you mean {ip_network(word, strict=False)}?" if _has_bits(word) else ""
        raise UsageError(
            f"{option} {word!r}: {hint or 'neither an address, a prefix (10.0.0.0/8) nor a port'}"
        ) from error


def _plain(network: Network) -> Network:
    """Return an IPv4-mapped prefix as the IPv4 one that it means."""
    if not isinstance(network, IPv6Network) or not network.subnet_of(_MAPPED):
        return network
    return IPv4Network((network.network_address.packed[12:], network.prefixlen - 96))


def _covers_ipv4(network: Network) -> bool:
    return isinstance(network, IPv6Network) and _MAPPED.subnet_of(network)


def _has_bits(word: str) -> bool:
    """Return whether a word is a prefix with bits set behind its length, as in 10.0.0.1/8."""
    try:
        ip_network(word, strict=False)
    except ValueError:
        return False
    return True


def _ports(option: str, words: Iterable[str]) -> frozenset[int]:
    found: set[int] = set()
    for word in words:
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"{option} {word!r}: no port (443) and no range of ports (8000-8010)")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= 65535:
            raise UsageError(f"{option} {word!r}: ports are 1 to 65535")
        found.update(range(low, high + 1))
    return frozenset(found)
