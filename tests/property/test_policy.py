"""The policy against a second model of the same contract, written the slow and obvious way.

The model knows nothing of tests, hits or compiled rules: it says what a rule means for a
caller and a target in the words of the contract, allow and deny apart.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from uproxy.config.settings import Network, RuleFrom, RuleSettings, RuleTo
from uproxy.policy import Caller, IpAddress, Policy, Target
from uproxy.spiffe.ids import SpiffeId

DOMAINS = ("example.org", "partner.test")
NAMESPACES = ("web", "shop")
ACCOUNTS = ("a", "b")
IDENTITIES = (
    *(f"spiffe://{d}/ns/{n}/sa/{s}" for d in DOMAINS for n in NAMESPACES for s in ACCOUNTS),
    "spiffe://example.org/other",
)
PATTERNS = (*IDENTITIES, "spiffe://example.org/**", "spiffe://example.org/ns/web/sa/*",
            "spiffe://partner.test/ns/*/sa/a")  # fmt: skip
NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "::ffff:10.0.0.0/104")))
ADDRESSES = (None, *map(ip_address, ("10.0.0.1", "192.0.2.1", "fd00::1", "::ffff:10.0.0.2")))


T = TypeVar("T")


def few(values: tuple[T, ...]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)


def with_few_fields(
    made: Callable[..., T], most: int, **fields: st.SearchStrategy[object]
) -> st.SearchStrategy[T]:
    """At most `most` fields given: a rule that says more hardly ever matches anybody."""
    chosen = st.lists(st.sampled_from(sorted(fields)), max_size=most, unique=True)
    return chosen.flatmap(lambda names: st.builds(made, **{name: fields[name] for name in names}))


def caller(identity: str | None, source: IpAddress | None, via: str, l7: str | None) -> Caller:
    """`l7` may be `itself`: a trusted L7 proxy that speaks in its own name."""
    proxy = identity if l7 == "itself" else l7
    return Caller(
        None if identity is None else SpiffeId.parse(identity),
        source,
        via,
        None if proxy is None else SpiffeId.parse(proxy),
    )


callers = st.builds(
    caller,
    st.sampled_from((None, *IDENTITIES)),
    st.sampled_from(ADDRESSES),
    st.sampled_from(("direct", "direct", "l7", "l8")),
    st.sampled_from((None, None, "itself", IDENTITIES[0])),
)
targets = st.builds(
    Target,
    port=st.sampled_from((None, 80, 5432)),
    address=st.sampled_from(ADDRESSES),
    door=st.sampled_from(("api", "db")),
)
froms = with_few_fields(
    RuleFrom,
    3,
    any=st.just(True),
    unauthenticated=st.just(True),
    identities=few(PATTERNS),
    trust_domains=few(DOMAINS),
    namespaces=few(NAMESPACES),
    service_accounts=few(ACCOUNTS),
    cidrs=few(NETWORKS),
    via=few(("direct", "l7")),
    not_identities=few(PATTERNS),
    not_trust_domains=few(DOMAINS),
    not_namespaces=few(NAMESPACES),
    not_service_accounts=few(ACCOUNTS),
    not_cidrs=few(NETWORKS),
    not_via=few(("direct", "l7")),
)
tos = with_few_fields(
    RuleTo,
    1,
    ports=few((80, 5432)),
    addresses=few(NETWORKS),
    inbound=few(("api", "db")),
    not_ports=few((80, 5432)),
    not_addresses=few(NETWORKS),
    not_inbound=few(("api", "db")),
)
rule_settings = st.builds(
    RuleSettings,
    name=st.sampled_from("rst"),
    action=st.sampled_from(("allow", "deny")),
    from_=froms,
    to=tos,
    mode=st.sampled_from(("enforce", "enforce", "shadow")),
)
owns = st.sampled_from((None, "example.org"))


def is_one_of(patterns: tuple[str, ...], identity: SpiffeId, wildcards: bool) -> bool:
    for pattern in patterns:
        if str(identity) == pattern:
            return True
        # none of PATTERNS needs more than the shell's idea of a star
        if wildcards and fnmatch.fnmatchcase(str(identity), pattern):
            return True
    return False


def is_in(networks: tuple[Network, ...], address: IpAddress) -> bool:
    """Compare as 128-bit numbers, IPv4 inside ::ffff:0:0/96."""

    def wide(plain: IpAddress) -> int:
        return int(plain) if isinstance(plain, IPv6Address) else 0xFFFF_00000000 + int(plain)

    for network in networks:
        first, last = wide(network.network_address), wide(network.broadcast_address)
        assert isinstance(network, IPv6Network) or last >> 32 == 0xFFFF
        if first <= wide(address) <= last:
            return True
    return False


def workload_of(caller: Caller, who: RuleFrom, own: str | None) -> tuple[str, str] | None:
    """Namespace and account as the rule sees them."""
    if caller.identity is None:
        return None
    domain, *path = str(caller.identity).removeprefix("spiffe://").split("/")
    if not who.trust_domains and domain != own:
        return None
    return (path[1], path[3]) if len(path) == 4 else None


def allow_matches(  # noqa: C901  the model stays one flat list, so that it can be read against the contract
    rule: RuleSettings, own: str | None, caller: Caller, target: Target
) -> bool:
    who, to = rule.from_, rule.to
    workload = workload_of(caller, who, own)
    if caller.identity is None:
        about_identity = (
            who.identities, who.trust_domains, who.namespaces, who.service_accounts,
            who.not_identities, who.not_trust_domains, who.not_namespaces,
            who.not_service_accounts,
        )  # fmt: skip
        if not who.unauthenticated or any(about_identity):
            return False
    else:
        if who.unauthenticated:
            return False
        itself = caller.via_identity == caller.identity
        if itself and str(caller.identity) not in who.identities:
            return False
        if who.identities and not is_one_of(who.identities, caller.identity, not itself):
            return False
        if is_one_of(who.not_identities, caller.identity, wildcards=True):
            return False
        domain = caller.identity.trust_domain.name
        if who.trust_domains and domain not in who.trust_domains:
            return False
        if domain in who.not_trust_domains:
            return False
        fields = (who.namespaces, who.service_accounts, who.not_namespaces,
                  who.not_service_accounts)  # fmt: skip
        if any(fields):
            if workload is None:
                return False
            if who.namespaces and workload[0] not in who.namespaces:
                return False
            if who.service_accounts and workload[1] not in who.service_accounts:
                return False
            if workload[0] in who.not_namespaces or workload[1] in who.not_service_accounts:
                return False
        if not (who.any or who.identities or who.trust_domains or who.namespaces
                or who.service_accounts or who.cidrs or who.via):  # fmt: skip
            return False
    if who.cidrs or who.not_cidrs:
        if caller.source is None or is_in(who.not_cidrs, caller.source):
            return False
        if who.cidrs and not is_in(who.cidrs, caller.source):
            return False
    if caller.via not in (who.via or ["direct"]) or caller.via in who.not_via:
        return False
    if to.ports and target.port not in to.ports:
        return False
    if to.not_ports and (target.port is None or target.port in to.not_ports):
        return False
    if to.addresses or to.not_addresses:
        if target.address is None or is_in(to.not_addresses, target.address):
            return False
        if to.addresses and not is_in(to.addresses, target.address):
            return False
    return not (to.inbound and target.door not in to.inbound) and target.door not in to.not_inbound


def deny_spares(rule: RuleSettings, own: str | None, caller: Caller, target: Target) -> bool:
    """Whether there is one reason, and certainty about it, that the deny isn't meant."""
    who, to = rule.from_, rule.to
    identity, workload = caller.identity, workload_of(caller, who, own)
    judged = who.trust_domains or own is not None
    itself = identity is not None and caller.via_identity == identity
    reasons = [
        who.unauthenticated and identity is not None,
        who.identities and (identity is None or not is_one_of(who.identities, identity, True)),
        who.trust_domains
        and (identity is None or identity.trust_domain.name not in who.trust_domains),
        judged and who.namespaces and (workload is None or workload[0] not in who.namespaces),
        judged
        and who.service_accounts
        and (workload is None or workload[1] not in who.service_accounts),
        identity is not None and is_one_of(who.not_identities, identity, not itself),
        identity is not None and identity.trust_domain.name in who.not_trust_domains,
        judged and workload is not None and workload[0] in who.not_namespaces,
        judged and workload is not None and workload[1] in who.not_service_accounts,
        who.cidrs and caller.source is not None and not is_in(who.cidrs, caller.source),
        caller.source is not None and is_in(who.not_cidrs, caller.source),
        who.via and caller.via not in who.via,
        caller.via in who.not_via,
        to.ports and target.port is not None and target.port not in to.ports,
        target.port is not None and target.port in to.not_ports,
        to.addresses and target.address is not None and not is_in(to.addresses, target.address),
        target.address is not None and is_in(to.not_addresses, target.address),
        to.inbound and target.door not in to.inbound,
        target.door in to.not_inbound,
    ]
    return any(reasons)


def model_matches(rule: RuleSettings, own: str | None, caller: Caller, target: Target) -> bool:
    if rule.action == "allow":
        return allow_matches(rule, own, caller, target)
    return not deny_spares(rule, own, caller, target)


@settings(max_examples=2000)
@given(rule_settings, owns, callers, targets)
def test_a_rule_matches_as_the_contract_says(
    rule: RuleSettings, own: str | None, caller: Caller, target: Target
) -> None:
    wanted = model_matches(rule, own, caller, target)
    shadow = dataclasses.replace(rule, mode="shadow")
    assert bool(Policy.compile([shadow], own).decide(caller, target).shadow) == wanted


@settings(max_examples=300)
@given(st.lists(rule_settings, max_size=5), owns, callers, targets)
def test_a_policy_decides_as_the_contract_says(
    rules: list[RuleSettings], own: str | None, caller: Caller, target: Target
) -> None:
    matching = [rule for rule in rules if model_matches(rule, own, caller, target)]
    enforced = [rule for rule in matching if rule.mode == "enforce"]
    denied = any(rule.action == "deny" for rule in enforced)
    decision = Policy.compile(rules, own).decide(caller, target)
    assert decision.allowed == (bool(enforced) and not denied)
    assert [(match.rule, match.action) for match in decision.shadow] == [
        (rule.name, rule.action) for rule in matching if rule.mode == "shadow"
    ]


@given(st.lists(rule_settings, max_size=5), rule_settings, owns, callers, targets)
def test_one_more_deny_never_lets_anybody_in(
    rules: list[RuleSettings], extra: RuleSettings, own: str | None, caller: Caller, target: Target
) -> None:
    deny = dataclasses.replace(extra, action="deny", mode="enforce")
    if not Policy.compile(rules, own).decide(caller, target).allowed:
        assert not Policy.compile([*rules, deny], own).decide(caller, target).allowed


@given(st.lists(rule_settings, max_size=5), callers, targets)
def test_not_knowing_our_trust_domain_never_lets_anybody_in(
    rules: list[RuleSettings], caller: Caller, target: Target
) -> None:
    if Policy.compile(rules, None).decide(caller, target).allowed:
        assert Policy.compile(rules, "example.org").decide(caller, target).allowed


@given(st.lists(rule_settings, max_size=3), owns, callers, st.sampled_from(ADDRESSES), targets)
def test_where_no_rule_looks_at_the_source_it_changes_not_even_the_words(
    rules: list[RuleSettings], own: str | None, caller: Caller, other: IpAddress, target: Target
) -> None:
    policy = Policy.compile(rules, own)
    elsewhere = dataclasses.replace(caller, source=other)
    if not policy.by_source:
        assert policy.decide(caller, target) == policy.decide(elsewhere, target)
