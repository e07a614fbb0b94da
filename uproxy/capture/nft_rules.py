"""The nftables table that captures without eBPF, as text for `nft -f`.

Pure.  The workload's sockets are matched by their cgroup and redirected to the proxy, which asks
conntrack for the original destination (SO_ORIGINAL_DST).  nat chains see the first segment that
conntrack knows of a connection, and none that it takes for invalid or was told to leave alone: what
should have been redirected and wasn't is dropped by chains behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from uproxy.capture.connection import Connection
from uproxy.capture.layout import Network
from uproxy.capture.nft_guard import guard
from uproxy.capture.nft_words import BEGINNING, FLAGS, chain, filter_chain, in_cgroup, ports
from uproxy.capture.policy import Policy
from uproxy.capture.record import Wanted

_PRIORITY: Final = -110
"""The priority of our chains: they come before those that translate a service's address (-100), and
see the address that the workload named."""

_NOT_BEGINNING: Final = f"{FLAGS} != syn"
_OURS: Final = "{0} saddr . tcp sport . {0} daddr . tcp dport @{1}"
_THEIRS: Final = "{0} daddr . tcp dport . {0} saddr . tcp sport @{1}"
_SETS: Final = {4: "older", 6: "older6"}
"""By the version of IP, the names of the sets with the connections that were open at the attach.
Conntrack may not know them yet; their next segment, redirected, would be answered with a reset."""

PREFIX: Final = "uproxy-"
"""Of our tables' names."""
COUNTERS: Final = ("captured", "inbound")


def table_name(capture: str) -> str:
    """Return the name of the table, which is a capture's own."""
    return f"{PREFIX}{capture}"


def ruleset(wanted: Wanted, cgroup_root: Path, older: Iterable[Connection] = ()) -> str:
    """Return what makes the table, or replaces it in one step.  `older` connections go on as they
    are.

    Raises:
        UproxyError: nft can't name the cgroup.
    """
    name = table_name(wanted.name)
    return "\n".join(
        (
            f"add table inet {name}",
            f"delete table inet {name}",
            f"table inet {name} {{",
            *(f"counter {each} {{ }}" for each in COUNTERS),
            *_sets(tuple(older)),
            *_nat_chain("outbound", "output", _outbound(wanted, cgroup_root)),
            *chain("decide", _decide(wanted, cgroup_root, _to_proxy(wanted))),
            *_nat_chain("inbound", "prerouting", _inbound(wanted)),
            *filter_chain("missed_outbound", "output", _missed_outbound(wanted, cgroup_root)),
            *chain("missed", _decide(wanted, cgroup_root, "meta l4proto tcp drop")),
            *filter_chain("missed_inbound", "input", _missed_inbound(wanted)),
            *guard(wanted, cgroup_root),
            "}",
            "",
        )
    )


def ending(name: str) -> str:
    """Return what replaces the table of a capture by one that captures nothing.  Its chain and its
    rule, which does nothing, are there so that conntrack goes on to translate the connections that
    are open."""
    return "\n".join(
        (
            f"add table inet {name}",
            f"delete table inet {name}",
            f"table inet {name} {{",
            *_nat_chain("ending", "output", ["ct status dnat return"]),
            "}",
            "",
        )
    )


def _sets(older: Sequence[Connection]) -> Iterator[str]:
    for version, name in _SETS.items():
        kind = f"ipv{version}_addr . inet_service"
        yield f"set {name} {{"
        yield f"type {kind} . {kind};"
        of_it = [each for each in older if each.local.version == version]
        if of_it:
            yield f"elements = {{ {', '.join(map(_element, of_it))} }}"
        yield "}"


def _element(each: Connection) -> str:
    return f"{each.local} . {each.local_port} . {each.remote} . {each.remote_port}"


def _nat_chain(name: str, hook: str, rules: Iterable[str]) -> Iterator[str]:
    return chain(name, rules, f"type nat hook {hook} priority {_PRIORITY}")


def _leave_older(way: str) -> Iterator[str]:
    yield f"{_NOT_BEGINNING} {way.format('ip', _SETS[4])} return"
    yield f"{_NOT_BEGINNING} {way.format('ip6', _SETS[6])} return"


def _outbound(wanted: Wanted, cgroup_root: Path) -> Iterator[str]:
    yield from _leave_older(_OURS)
    # a match, not its opposite: that would also be true of cgroups that are less deep
    yield f"meta l4proto tcp {in_cgroup(wanted.cgroup, cgroup_root)} jump decide"


def _missed_outbound(wanted: Wanted, cgroup_root: Path) -> Iterator[str]:
    yield f"{BEGINNING} {in_cgroup(wanted.cgroup, cgroup_root)} jump missed"


def _decide(wanted: Wanted, cgroup_root: Path, verdict: str) -> Iterator[str]:
    """Yield rules that return for what isn't captured, and have this verdict on the rest: what was
    redirected goes to an address of the namespace's own."""
    policy = wanted.policy
    if wanted.exempt_cgroup_id:
        yield f"{in_cgroup(wanted.proxy_cgroup, cgroup_root)} return"
    yield "fib daddr type local return"
    yield "ip6 daddr fe80::/10 return"
    if policy.excluded_ports:
        yield f"tcp dport {ports(policy.excluded_ports)} return"
    if policy.included_ports:
        yield f"tcp dport != {ports(policy.included_ports)} return"
    verdicts = dict.fromkeys(policy.included, verdict)
    verdicts |= dict.fromkeys(policy.excluded, "return")
    # the first match decides, so the longest prefix must come first
    for network in sorted(verdicts, key=lambda each: each.prefixlen, reverse=True):
        yield f"{_to(network)} {verdicts[network]}"
    if not policy.included:
        yield verdict


def _inbound(wanted: Wanted) -> Iterator[str]:
    policy = wanted.policy
    if not policy.captures_inbound:
        return
    yield from _leave_older(_THEIRS)
    yield 'iifname "lo" return'
    yield "fib daddr type != local return"
    yield from _for_inbound(policy, f"counter name inbound redirect to :{wanted.inbound_port}")


def _missed_inbound(wanted: Wanted) -> Iterator[str]:
    policy = wanted.policy
    if not policy.captures_inbound:
        return
    yield f"{_NOT_BEGINNING} return"
    yield 'iifname "lo" return'
    yield f"tcp dport {wanted.inbound_port} return"
    yield from _for_inbound(policy, "drop")


def _for_inbound(policy: Policy, verdict: str) -> Iterator[str]:
    if policy.inbound_excluded:
        yield f"tcp dport {ports(policy.inbound_excluded)} return"
    those = "" if policy.inbound_all else f"tcp dport {ports(policy.inbound)} "
    yield f"{those}meta l4proto tcp {verdict}"


def _to_proxy(wanted: Wanted) -> str:
    return f"meta l4proto tcp counter name captured redirect to :{wanted.outbound_port}"


def _to(network: Network) -> str:
    return f"{'ip' if isinstance(network, IPv4Network) else 'ip6'} daddr {network}"
