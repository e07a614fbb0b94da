"""The nftables table that captures without eBPF, as text for `nft -f`.

Pure.  The workload's sockets are matched by their cgroup and redirected to the proxy, which asks
conntrack for the original destination (SO_ORIGINAL_DST).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from uproxy.capture.layout import Network
from uproxy.capture.record import Wanted
from uproxy.errors import UproxyError

_ROOT: Final = Path("/sys/fs/cgroup")
"""The mount point below which nft looks for cgroups."""
_PRIORITY: Final = -110
"""The priority of our chains: they come before those that translate a service's address (-100), and
see the address that the workload named."""

_FLAGS: Final = "tcp flags & (fin | syn | rst | ack)"
_BEGINNING: Final = f"{_FLAGS} == syn"
"""Connections that are open when conntrack begins to look come to these chains too, with whatever
is their next segment: redirected, they would be cut."""
_NOT_BEGINNING: Final = f"{_FLAGS} != syn"

PREFIX: Final = "uproxy-"
"""Of our tables' names."""
COUNTERS: Final = ("captured", "inbound")


def table_name(capture: str) -> str:
    """Return the name of the table, which is a capture's own."""
    return f"{PREFIX}{capture}"


def ruleset(wanted: Wanted, cgroup_root: Path) -> str:
    """Return what makes the table, or replaces it in one step.

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
            *_chain("outbound", "output", _outbound(wanted, cgroup_root)),
            "chain decide {",
            *_decide(wanted, cgroup_root),
            "}",
            *_chain("inbound", "prerouting", _inbound(wanted)),
            "}",
            "",
        )
    )


def _chain(name: str, hook: str, rules: Iterable[str]) -> Iterator[str]:
    yield f"chain {name} {{"
    yield f"type nat hook {hook} priority {_PRIORITY}; policy accept;"
    yield from rules
    yield "}"


def _outbound(wanted: Wanted, cgroup_root: Path) -> Iterator[str]:
    # a match, not its opposite: that would also be true of cgroups that are less deep
    yield f"{_BEGINNING} {_in_cgroup(wanted.cgroup, cgroup_root)} jump decide"


def _decide(wanted: Wanted, cgroup_root: Path) -> Iterator[str]:
    policy = wanted.policy
    if wanted.proxy_cgroup is not None and wanted.exempt_cgroup_id:
        yield f"{_in_cgroup(wanted.proxy_cgroup, cgroup_root)} return"
    yield "fib daddr type local return"
    yield "ip6 daddr fe80::/10 return"
    if policy.excluded_ports:
        yield f"tcp dport {_set(policy.excluded_ports)} return"
    if policy.included_ports:
        yield f"tcp dport != {_set(policy.included_ports)} return"
    verdicts = dict.fromkeys(policy.included, _to_proxy(wanted))
    verdicts |= dict.fromkeys(policy.excluded, "return")
    # the first match decides, so the longest prefix must come first
    for network in sorted(verdicts, key=lambda each: each.prefixlen, reverse=True):
        yield f"{_to(network)} {verdicts[network]}"
    if not policy.included:
        yield _to_proxy(wanted)


def _inbound(wanted: Wanted) -> Iterator[str]:
    policy = wanted.policy
    if not policy.captures_inbound:
        return
    yield f"{_NOT_BEGINNING} return"
    yield 'iifname "lo" return'
    yield "fib daddr type != local return"
    if policy.inbound_excluded:
        yield f"tcp dport {_set(policy.inbound_excluded)} return"
    ports = "" if policy.inbound_all else f"tcp dport {_set(policy.inbound)} "
    yield f"{ports}meta l4proto tcp counter name inbound redirect to :{wanted.inbound_port}"


def _to_proxy(wanted: Wanted) -> str:
    return f"meta l4proto tcp counter name captured redirect to :{wanted.outbound_port}"


def _to(network: Network) -> str:
    return f"{'ip' if isinstance(network, IPv4Network) else 'ip6'} daddr {network}"


def _set(ports: frozenset[int]) -> str:
    return f"{{ {', '.join(map(str, sorted(ports)))} }}"


def _in_cgroup(path: Path, cgroup_root: Path) -> str:
    level = len(path.relative_to(cgroup_root).parts)
    if not level or not path.is_relative_to(_ROOT):
        raise UproxyError(
            f"nft can't capture the cgroup {path}: it must be below {_ROOT}, and not the root"
        )
    return f'socket cgroupv2 level {level} "{path.relative_to(_ROOT)}"'
