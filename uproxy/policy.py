"""Authorization: may this caller reach this target?  One pure predicate, the only one.

It is not where rules are checked for sense (that is the configuration), and it never sees a
socket: a door says who calls and what for.  Rules it obeys: nobody gets in without an allow
rule; any matching deny refuses first; a shadow rule is reported and never decides; what
can't be known fails closed, which means that it matches denies and no allow.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from uproxy.config.settings import Network, RuleFrom, RuleSettings, RuleTo
from uproxy.spiffe.ids import IdentityPattern, SpiffeId, TrustDomain

DIRECT = "direct"
"""The `via` of a caller that dialled us itself."""

IpAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks to come in."""

    identity: SpiffeId | None
    """None: the caller proved none."""
    source: IpAddress | None
    """The TCP peer's address (the L7 proxy's when via one); None on a unix socket."""
    via: str = DIRECT
    """The trusted L7 proxy that speaks for the caller, by its configured name."""
    via_identity: SpiffeId | None = None
    """The proven identity of a trusted L7 proxy that dialled us; equal to `identity` when it
    speaks for itself."""

    @property
    def is_l7_proxy(self) -> bool:
        """Whether a trusted L7 proxy calls in its own name."""
        return self.identity is not None and self.identity == self.via_identity

    def __str__(self) -> str:
        who = "a caller without an identity" if self.identity is None else str(self.identity)
        return who if self.via == DIRECT else f"{who} via {self.via}"


@dataclass(frozen=True, slots=True)
class Target:
    """What the caller asks for."""

    port: int | None
    """The application's; None when it listens on a unix socket."""
    address: IpAddress | None
    """The application's; None when it isn't a literal address."""
    door: str
    """The inbound door's name."""

    def __str__(self) -> str:
        door = f"door {self.door}"
        return door if self.port is None else f"port {self.port} at {door}"


@dataclass(frozen=True, slots=True)
class ShadowMatch:
    """A shadow rule that matched, and what it would do if it were enforced."""

    rule: str
    action: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer."""

    allowed: bool
    rule: str | None
    """The rule that decided; None when no allow rule matched."""
    reason: str
    """One line for the log: what decided, or what is missing."""
    shadow: tuple[ShadowMatch, ...] = ()


class _Hit(enum.Enum):
    """How a caller or target stands to a field's list of values."""

    YES = enum.auto()
    NO = enum.auto()
    ABSENT = enum.auto()
    """It has no such property: a caller without an identity."""
    UNKNOWN = enum.auto()
    """The property can't be judged: a target without a port, our trust domain not known yet."""


_Field = Callable[[Caller, Target], _Hit]
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class _Test:
    """One field of a rule: `ports`, or with `positive` false `not_ports`."""

    hit: _Field
    positive: bool

    def satisfied(self, caller: Caller, target: Target, deny: bool) -> bool:
        match self.hit(caller, target):
            case _Hit.YES:
                return self.positive
            case _Hit.NO:
                return not self.positive
            case _Hit.ABSENT:
                return deny and not self.positive
        return deny


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule made ready to be asked."""

    name: str
    deny: bool
    shadow: bool
    tests: tuple[_Test, ...]
    exact: frozenset[SpiffeId]
    """The identities named without a wildcard."""

    def matches(self, caller: Caller, target: Target) -> bool:
        if not self.deny and caller.is_l7_proxy and caller.identity not in self.exact:
            return False
        return all(test.satisfied(caller, target, self.deny) for test in self.tests)


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole configuration's rules; made by `compile`, asked by `decide`."""

    rules: tuple[_Rule, ...]
    by_source: bool
    """Whether any rule, shadow ones too, looks at the caller's address."""

    @classmethod
    def compile(cls, rules: Iterable[RuleSettings], own_trust_domain: str | None) -> Policy:
        """Make `rules` ready.  `own_trust_domain` is None while this workload has no identity.

        Raises:
            SpiffeIdError: a pattern or trust domain that the configuration let through.
        """
        rules = tuple(rules)
        by_source = any(rule.from_.cidrs or rule.from_.not_cidrs for rule in rules)
        return cls(tuple(_compile(rule, own_trust_domain) for rule in rules), by_source)

    def decide(self, caller: Caller, target: Target) -> Decision:
        """Whether `caller` may reach `target`.  Fails closed: without a matching allow, no."""
        matching = [rule for rule in self.rules if rule.matches(caller, target)]
        shadow = tuple(
            ShadowMatch(rule.name, "deny" if rule.deny else "allow")
            for rule in matching
            if rule.shadow
        )
        enforced = [rule for rule in matching if not rule.shadow]
        # stable: the first deny in the file's order, or else the first allow
        for rule in sorted(enforced, key=lambda rule: not rule.deny):
            verb = "denies" if rule.deny else "allows"
            reason = f"rule {rule.name} {verb} {caller} to {target}"
            return Decision(not rule.deny, rule.name, reason, shadow)
        return Decision(False, None, f"no rule allows {caller} to {target}", shadow)


def plain(address: IpAddress) -> IpAddress:
    """The IPv4 address that a dual-stack socket shows as `::ffff:a.b.c.d`, else `address`."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _plain_network(network: Network) -> Network:
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _compile(rule: RuleSettings, own_trust_domain: str | None) -> _Rule:
    deny = rule.action == "deny"
    tests = (
        *_presence(rule.from_, deny),
        *_identity_tests(rule.from_, deny),
        *_workload_tests(rule.from_, own_trust_domain),
        *_way_tests(rule.from_, deny),
        *_target_tests(rule.to),
    )
    exact = frozenset(
        SpiffeId.parse(text)
        for text in rule.from_.identities
        if IdentityPattern.parse(text).is_exact
    )
    return _Rule(rule.name, deny, rule.mode == "shadow", tests, exact)


def _presence(who: RuleFrom, deny: bool) -> tuple[_Test, ...]:
    """Whether the rule speaks of callers with an identity, without one, or both."""
    if who.unauthenticated:
        return (_Test(_is_unauthenticated, True),)
    if deny:
        return ()
    identified = (who.identities, who.trust_domains, who.namespaces, who.service_accounts)
    positive = (who.any, *identified, who.cidrs, who.via)
    return (_Test(_is_unauthenticated if any(positive) else _is_anyone, False),)


def _is_unauthenticated(caller: Caller, _target: Target) -> _Hit:
    return _Hit.YES if caller.identity is None else _Hit.NO


def _is_anyone(_caller: Caller, _target: Target) -> _Hit:
    return _Hit.YES


def _identity_tests(who: RuleFrom, deny: bool) -> tuple[_Test, ...]:
    return (
        *_tests(who.identities, (), _identities(grants=not deny)),
        *_tests((), who.not_identities, _identities(grants=deny)),
        *_tests(who.trust_domains, who.not_trust_domains, _trust_domains),
    )


def _workload_tests(who: RuleFrom, own_trust_domain: str | None) -> tuple[_Test, ...]:
    anywhere = bool(who.trust_domains)
    return (
        *_tests(who.namespaces, who.not_namespaces, _workloads(0, own_trust_domain, anywhere)),
        *_tests(
            who.service_accounts,
            who.not_service_accounts,
            _workloads(1, own_trust_domain, anywhere),
        ),
    )


def _way_tests(who: RuleFrom, deny: bool) -> tuple[_Test, ...]:
    """Where the caller's bytes come from: its address, and whether through an L7 proxy."""
    via = who.via if deny else who.via or (DIRECT,)
    return (*_tests(who.cidrs, who.not_cidrs, _sources), *_tests(via, who.not_via, _vias))


def _target_tests(to: RuleTo) -> tuple[_Test, ...]:
    return (
        *_tests(to.ports, to.not_ports, _ports),
        *_tests(to.addresses, to.not_addresses, _addresses),
        *_tests(to.inbound, to.not_inbound, _doors),
    )


def _tests(
    values: tuple[_V, ...], not_values: tuple[_V, ...], field: Callable[[tuple[_V, ...]], _Field]
) -> tuple[_Test, ...]:
    """The tests of one list and its `not_` twin; an absent list constrains nothing."""
    here = (_Test(field(values), True),) if values else ()
    there = (_Test(field(not_values), False),) if not_values else ()
    return here + there


def _identities(grants: bool) -> Callable[[tuple[str, ...]], _Field]:
    """`grants`: being matched helps the caller in, so that a wildcard doesn't count for an L7
    proxy's own identity."""

    def field(values: tuple[str, ...]) -> _Field:
        patterns = tuple(IdentityPattern.parse(text) for text in values)
        exact = tuple(pattern for pattern in patterns if pattern.is_exact)

        def hit(caller: Caller, _target: Target) -> _Hit:
            if caller.identity is None:
                return _Hit.ABSENT
            usable = exact if grants and caller.is_l7_proxy else patterns
            return _hit(any(pattern.matches(caller.identity) for pattern in usable))

        return hit

    return field


def _trust_domains(values: tuple[str, ...]) -> _Field:
    wanted = frozenset(TrustDomain.parse(text) for text in values)

    def hit(caller: Caller, _target: Target) -> _Hit:
        if caller.identity is None:
            return _Hit.ABSENT
        return _hit(caller.identity.trust_domain in wanted)

    return hit


def _workloads(
    index: int, own_trust_domain: str | None, anywhere: bool
) -> Callable[[tuple[str, ...]], _Field]:
    """Namespace (`index` 0) or service account (1) of `/ns/X/sa/Y`, in our own trust domain or
    `anywhere`; every other identity counts as none."""

    def field(values: tuple[str, ...]) -> _Field:
        def hit(caller: Caller, _target: Target) -> _Hit:
            identity = caller.identity
            if own_trust_domain is None and not anywhere:
                return _Hit.UNKNOWN
            if identity is None or identity.namespace_and_account is None:
                return _Hit.ABSENT
            if not anywhere and identity.trust_domain.name != own_trust_domain:
                return _Hit.ABSENT
            return _hit(identity.namespace_and_account[index] in values)

        return hit

    return field


def _sources(values: tuple[Network, ...]) -> _Field:
    networks = tuple(_plain_network(network) for network in values)
    return lambda caller, _target: _within(caller.source, networks)


def _addresses(values: tuple[Network, ...]) -> _Field:
    networks = tuple(_plain_network(network) for network in values)
    return lambda _caller, target: _within(target.address, networks)


def _vias(values: tuple[str, ...]) -> _Field:
    return lambda caller, _target: _hit(caller.via in values)


def _ports(values: tuple[int, ...]) -> _Field:
    wanted = frozenset(values)
    return lambda _caller, target: (
        _Hit.UNKNOWN if target.port is None else _hit(target.port in wanted)
    )


def _doors(values: tuple[str, ...]) -> _Field:
    return lambda _caller, target: _hit(target.door in values)


def _within(address: IpAddress | None, networks: tuple[Network, ...]) -> _Hit:
    if address is None:
        return _Hit.UNKNOWN
    known = plain(address)
    return _hit(any(known in network for network in networks))


def _hit(yes: bool) -> _Hit:
    return _Hit.YES if yes else _Hit.NO
