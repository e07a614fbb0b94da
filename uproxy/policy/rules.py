"""Rules, compiled from the configuration, and what they decide.

The configuration checks that rules make sense; a door says who calls and what for.  Rules:
without a matching allow rule the answer is no; any matching deny rule refuses; shadow rules
are reported and never decide; a property that is not known matches deny rules and no allow
rule, so the policy fails closed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from uproxy.config.settings import Network, RuleFrom, RuleSettings, RuleTo
from uproxy.policy.parties import DIRECT, Caller, IpAddress, Target, plain
from uproxy.spiffe.ids import IdentityPattern, SpiffeId, TrustDomain

OTHER_WAY = " allows it "
"""In a `Decision.reason`: a rule lets the caller in if it comes another way."""


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
    """The rule that decided; None: no allow rule matched."""
    reason: str
    """One line for the log: which rule decided, or that none allows it."""
    shadow: tuple[ShadowMatch, ...] = ()
    """All shadow rules that matched."""


class _Match(enum.Enum):
    """Whether a caller or target has one of the values that a rule's field lists."""

    YES = enum.auto()
    NO = enum.auto()
    ABSENT = enum.auto()
    """It has no such property: a caller without an identity."""
    UNKNOWN = enum.auto()
    """The property isn't known: a target without a port, or our trust domain not known yet."""


_Field = Callable[[Caller, Target], _Match]
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class _Test:
    """One field of a rule: `ports` with `positive`, `not_ports` without."""

    match: _Field
    positive: bool

    def satisfied(self, caller: Caller, target: Target, deny: bool) -> bool:
        match self.match(caller, target):
            case _Match.YES:
                return self.positive
            case _Match.NO:
                return not self.positive
            case _Match.ABSENT:
                return deny and not self.positive
        return deny


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule compiled into tests."""

    name: str
    deny: bool
    shadow: bool
    tests: tuple[_Test, ...]
    exact: frozenset[SpiffeId]
    """The identities that the rule names without a wildcard."""
    ways: tuple[str, ...]
    """The values of `Caller.via` for which an allow rule is; of a deny rule of no meaning."""

    def matches(self, caller: Caller, target: Target) -> bool:
        if not self.deny and caller.is_l7_proxy and caller.identity not in self.exact:
            return False
        return all(test.satisfied(caller, target, self.deny) for test in self.tests)

    def allows_otherwise(self, caller: Caller, target: Target) -> bool:
        """Whether it lets `caller` in if that comes another way: directly, or via an L7 proxy."""
        if self.deny or self.shadow:
            return False
        return self.matches(replace(caller, via=self.ways[0]), target)


@dataclass(frozen=True, slots=True)
class Policy:
    """The compiled rules of a configuration."""

    rules: tuple[_Rule, ...]
    by_source: bool
    """Whether any rule, shadow rules included, depends on the caller's address."""

    @classmethod
    def compile(cls, rules: Iterable[RuleSettings], own_trust_domain: str | None) -> Policy:
        """Compile `rules`.  `own_trust_domain` is None while this workload has no identity.

        Raises:
            SpiffeIdError: a pattern or trust domain that the configuration let through.
        """
        rules = tuple(rules)
        by_source = any(rule.from_.cidrs or rule.from_.not_cidrs for rule in rules)
        return cls(tuple(_compile(rule, own_trust_domain) for rule in rules), by_source)

    def decide(self, caller: Caller, target: Target) -> Decision:
        """Decide whether `caller` may reach `target`; only a matching allow rule permits it."""
        matching = [rule for rule in self.rules if rule.matches(caller, target)]
        shadow = tuple(
            ShadowMatch(rule.name, "deny" if rule.deny else "allow")
            for rule in matching
            if rule.shadow
        )
        enforced = [rule for rule in matching if not rule.shadow]
        # a stable sort: the first deny rule in the file's order, or else the first allow rule
        for rule in sorted(enforced, key=lambda rule: not rule.deny):
            verb = "denies" if rule.deny else "allows"
            reason = f"rule {rule.name} {verb} {caller} to {target}"
            return Decision(not rule.deny, rule.name, reason, shadow)
        reason = f"no rule allows {caller} to {target}"
        for rule in self.rules:
            if rule.allows_otherwise(caller, target):
                ways = " or ".join(way if way == DIRECT else f"via {way}" for way in rule.ways)
                reason += f": rule {rule.name}{OTHER_WAY}{ways} only"
                break
        return Decision(False, None, reason, shadow)


def _plain_network(network: Network) -> Network:
    # what begins as a mapped address does has its 96 bits
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - 96))


def _compile(rule: RuleSettings, own_trust_domain: str | None) -> _Rule:
    deny = rule.action == "deny"
    tests = (
        *_authentication_tests(rule.from_, deny),
        *_identity_tests(rule.from_, deny),
        *_workload_tests(rule.from_, own_trust_domain),
        *_source_tests(rule.from_, deny),
        *_target_tests(rule.to),
    )
    exact = frozenset(
        SpiffeId.parse(text)
        for text in rule.from_.identities
        if IdentityPattern.parse(text).is_exact
    )
    ways = rule.from_.via or (DIRECT,)
    return _Rule(rule.name, deny, rule.mode == "shadow", tests, exact, ways)


def _authentication_tests(who: RuleFrom, deny: bool) -> tuple[_Test, ...]:
    """Return the test whether a rule is for callers with an identity, without one, or any."""
    if who.unauthenticated:
        return (_Test(_is_unauthenticated, True),)
    if deny:
        return ()
    identified = (who.identities, who.trust_domains, who.namespaces, who.service_accounts)
    positive = (who.any, *identified, who.cidrs, who.via)
    return (_Test(_is_unauthenticated if any(positive) else _is_anyone, False),)


def _is_unauthenticated(caller: Caller, _target: Target) -> _Match:
    return _Match.YES if caller.identity is None else _Match.NO


def _is_anyone(_caller: Caller, _target: Target) -> _Match:
    return _Match.YES


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


def _source_tests(who: RuleFrom, deny: bool) -> tuple[_Test, ...]:
    """Return the tests of the caller's address and of the L7 proxy it came through."""
    via = who.via if deny else who.via or (DIRECT,)
    return (*_tests(who.cidrs, who.not_cidrs, _source_networks), *_tests(via, who.not_via, _via))


def _target_tests(to: RuleTo) -> tuple[_Test, ...]:
    return (
        *_tests(to.ports, to.not_ports, _ports),
        *_tests(to.addresses, to.not_addresses, _target_networks),
        *_tests(to.inbound, to.not_inbound, _doors),
    )


def _tests(
    values: tuple[_V, ...], not_values: tuple[_V, ...], field: Callable[[tuple[_V, ...]], _Field]
) -> tuple[_Test, ...]:
    """Return the tests of one field and its `not_` field; an empty one restricts nothing."""
    here = (_Test(field(values), True),) if values else ()
    there = (_Test(field(not_values), False),) if not_values else ()
    return here + there


def _identities(grants: bool) -> Callable[[tuple[str, ...]], _Field]:
    """Return a field of SPIFFE ID patterns.  `grants`: a match lets the caller in, so wildcards
    don't match an L7 proxy's own identity."""

    def field(values: tuple[str, ...]) -> _Field:
        patterns = tuple(IdentityPattern.parse(text) for text in values)
        exact = tuple(pattern for pattern in patterns if pattern.is_exact)

        def match(caller: Caller, _target: Target) -> _Match:
            if caller.identity is None:
                return _Match.ABSENT
            usable = exact if grants and caller.is_l7_proxy else patterns
            return _match(any(pattern.matches(caller.identity) for pattern in usable))

        return match

    return field


def _trust_domains(values: tuple[str, ...]) -> _Field:
    wanted = frozenset(TrustDomain.parse(text) for text in values)

    def match(caller: Caller, _target: Target) -> _Match:
        if caller.identity is None:
            return _Match.ABSENT
        return _match(caller.identity.trust_domain in wanted)

    return match


def _workloads(
    index: int, own_trust_domain: str | None, anywhere: bool
) -> Callable[[tuple[str, ...]], _Field]:
    """Return a field of namespaces (`index` 0) or service accounts (1) of `/ns/X/sa/Y`.  Unless
    `anywhere`, identities of other trust domains than our own have neither."""

    def field(values: tuple[str, ...]) -> _Field:
        def match(caller: Caller, _target: Target) -> _Match:
            identity = caller.identity
            if own_trust_domain is None and not anywhere:
                return _Match.UNKNOWN
            if identity is None or identity.namespace_and_account is None:
                return _Match.ABSENT
            if not anywhere and identity.trust_domain.name != own_trust_domain:
                return _Match.ABSENT
            return _match(identity.namespace_and_account[index] in values)

        return match

    return field


def _source_networks(values: tuple[Network, ...]) -> _Field:
    networks = tuple(_plain_network(network) for network in values)
    return lambda caller, _target: _within(caller.source, networks)


def _target_networks(values: tuple[Network, ...]) -> _Field:
    networks = tuple(_plain_network(network) for network in values)
    return lambda _caller, target: _within(target.address, networks)


def _via(values: tuple[str, ...]) -> _Field:
    return lambda caller, _target: _match(caller.via in values)


def _ports(values: tuple[int, ...]) -> _Field:
    wanted = frozenset(values)
    return lambda _caller, target: (
        _Match.UNKNOWN if target.port is None else _match(target.port in wanted)
    )


def _doors(values: tuple[str, ...]) -> _Field:
    return lambda _caller, target: _match(target.door in values)


def _within(address: IpAddress | None, networks: tuple[Network, ...]) -> _Match:
    if address is None:
        return _Match.UNKNOWN
    known = plain(address)
    return _match(any(known in network for network in networks))


def _match(yes: bool) -> _Match:
    return _Match.YES if yes else _Match.NO
