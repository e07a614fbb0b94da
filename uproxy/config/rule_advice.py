"""Warnings about authorization rules: targets that no door leads to, callers that nobody vouches
for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from uproxy.config.nodes import join
from uproxy.config.settings import (
    ALL_PORTS,
    InboundSettings,
    Network,
    RuleSettings,
    RuleTo,
    Settings,
)
from uproxy.model import Mistake, TcpAddress, Transport
from uproxy.spiffe.ids import IdentityPattern


def target_warnings(settings: Settings) -> Iterator[Mistake]:
    """Warn of ports and addresses in `to` that no application has; most often they are a door's."""
    for index, rule in enumerate(settings.authorization):
        doors = [door for door in settings.inbound if _covers(rule.to, door)]
        path = join(join("authorization", index), "to")
        if doors:
            yield from _ports(rule.to, doors, path)
            yield from _addresses(rule.to, doors, path)


def _covers(to: RuleTo, door: InboundSettings) -> bool:
    return (not to.inbound or door.name in to.inbound) and door.name not in to.not_inbound


def _ports(to: RuleTo, doors: Sequence[InboundSettings], path: str) -> Iterator[Mistake]:
    if any(door.ports == ALL_PORTS for door in doors):
        return
    used = {door.to.port for door in doors if isinstance(door.to, TcpAddress)}
    used.update(port for door in doors for port in door.ports if isinstance(port, int))
    for key, ports in (("ports", to.ports), ("not_ports", to.not_ports)):
        for index, port in enumerate(ports):
            if port not in used:
                where = join(join(path, key), index)
                yield Mistake(where, _no_such_port(port, doors), str(port))


def _no_such_port(port: int, doors: Sequence[InboundSettings]) -> str:
    """Return why a rule's port is the port of no application."""
    for door in doors:
        if isinstance(door.listen, TcpAddress) and door.listen.port == port:
            way_out = "whose application has none: remove it"
            if isinstance(door.to, TcpAddress):
                way_out = f"rules name the application's: write {door.to.port}"
            elif door.ports:
                way_out = "rules name the application's: write one of the door's `ports`"
            return f"is the port of door {door.name}; {way_out}"
    return "no inbound door leads to an application at this port"


def _addresses(to: RuleTo, doors: Sequence[InboundSettings], path: str) -> Iterator[Mistake]:
    if any(door.transport is Transport.HBONE or door.captured for door in doors):
        return  # callers choose any address at which they arrive
    targets = [door.to.ip for door in doors if isinstance(door.to, TcpAddress)]
    known = [ip for ip in targets if ip is not None]
    if len(known) < len(targets):
        return  # a name can have any address
    for key, networks in (("addresses", to.addresses), ("not_addresses", to.not_addresses)):
        for index, network in enumerate(networks):
            if not any(ip in network for ip in known):
                reason = _no_such_address(network, doors, known)
                yield Mistake(join(join(path, key), index), reason, str(network))


def _no_such_address(
    network: Network,
    doors: Sequence[InboundSettings],
    known: Sequence[IPv4Address | IPv6Address],
) -> str:
    """Return why a rule's network has no application."""
    instead = f"; rules name the application's: write {known[0]}" if known else ""
    for door in doors:
        ip = door.listen.ip if isinstance(door.listen, TcpAddress) else None
        if ip is not None and ip in network:
            return f"is where door {door.name} listens{instead}"
    return "no inbound door leads to an application at this address"


def trust_warnings(settings: Settings, bundles: Collection[str]) -> Iterator[Mistake]:
    """Warn of callers, servers and L7 proxies of trust domains for which there is no bundle;
    `bundles` are the trust domains that have one."""
    for index, rule in enumerate(settings.authorization):
        if rule.action == "allow":
            yield from _callers(rule, join(join("authorization", index), "from"), bundles)
    for name, destination in settings.destinations.items():
        path = join(join("destinations", name), "identities")
        yield from _unknown(path, _domains(destination.identities), bundles)
    for name, proxy in settings.l7_proxies.items():
        path = join(join("l7_proxies", name), "identities")
        yield from _unknown(path, _domains(proxy.identities), bundles)
    for name, trusted in settings.inbound_trust.items():
        path = join("inbound_trust", name)
        yield from _unknown(join(path, "identities"), _domains(trusted.identities), bundles)
        yield from _unknown(join(path, "speaks_for"), _domains(trusted.speaks_for), bundles)


def _callers(rule: RuleSettings, path: str, bundles: Collection[str]) -> Iterator[Mistake]:
    domains = [(domain, domain) for domain in rule.from_.trust_domains]
    yield from _unknown(join(path, "identities"), _domains(rule.from_.identities), bundles)
    yield from _unknown(join(path, "trust_domains"), domains, bundles)


def _domains(patterns: Sequence[str]) -> list[tuple[str, str]]:
    """Return each pattern with its trust domain."""
    return [(each, IdentityPattern.parse(each).trust_domain.name) for each in patterns]


def _unknown(
    path: str, values: Sequence[tuple[str, str]], bundles: Collection[str]
) -> Iterator[Mistake]:
    """Yield a warning for each (value, trust domain) whose trust domain has no bundle."""
    for index, (value, domain) in enumerate(values):
        if domain not in bundles:
            reason = (
                f"there is no bundle for the trust domain {domain}, so nobody of it is trusted: "
                "federate it, or add it to identity.files.bundles"
            )
            yield Mistake(join(path, index), reason, value)
