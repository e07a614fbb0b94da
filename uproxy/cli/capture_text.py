"""What `uproxy capture status` prints of a capture, for people and for programs."""

from __future__ import annotations

from typing import Any, Final

from uproxy.capture import orphans
from uproxy.capture.condition import Condition, State
from uproxy.capture.layout import Listener, Stat
from uproxy.capture.orphans import Orphan
from uproxy.capture.policy import ALL

_WORDS: Final = {
    Stat.CAPTURED: "captured",
    Stat.BYPASSED: "bypassed",
    Stat.NO_LISTENER: "refused without the proxy",
    Stat.FOREIGN_NETNS: "refused in another network namespace",
    Stat.BOUND_DEVICE: "refused because of SO_BINDTODEVICE",
    Stat.INBOUND: "inbound segments for the proxy",
    Stat.INBOUND_REFUSED: "inbound segments refused without it",
    Stat.LEAKS_STOPPED: "packets kept from leaving around the proxy",
    Stat.HANDED_OVER: "writes short-circuited",
    Stat.LEFT_TO_TCP: "writes left to TCP, because the proxy didn't keep up",
}


_ORPHANED: Final = "orphaned"
"""The state of a capture whose record is lost."""


def as_json(condition: Condition | Orphan) -> dict[str, Any]:
    """Return everything that is known of a capture."""
    if isinstance(condition, Orphan):
        return {
            "name": condition.name,
            "state": _ORPHANED,
            "reasons": [orphans.REASON],
            "mode": str(condition.mode),
            "place": str(condition.place),
        }
    wanted = condition.record.wanted
    return {
        "name": wanted.name,
        "state": str(condition.state),
        "reasons": list(condition.reasons),
        "outdated": condition.is_outdated,
        "mode": str(wanted.mode),
        "cgroup": str(wanted.cgroup),
        "netns": str(wanted.namespace.path),
        "proxy_cgroup": wanted.proxy_cgroup and str(wanted.proxy_cgroup),
        "include": _destinations(wanted.policy.included, wanted.policy.included_ports),
        "exclude": _destinations(wanted.policy.excluded, wanted.policy.excluded_ports),
        "inbound": _inbound(condition),
        "exclude_inbound": _ports(wanted.policy.inbound_excluded),
        "outbound_port": wanted.outbound_port,
        "inbound_port": wanted.inbound_port,
        "fail_open": wanted.fail_open,
        "short_circuit": wanted.short_circuit is not None,
        "short_circuit_despite": list(wanted.short_circuit or ()),
        "mark": wanted.route.mark,
        "table": wanted.route.table,
        "listeners": {
            each.name.lower(): is_there for each, is_there in condition.listeners.items()
        },
        "stats": {stat.name.lower(): count for stat, count in condition.stats.items()},
    }


def as_text(condition: Condition | Orphan) -> str:
    """Return the same in a few lines: first how it is, then what it does."""
    facts = as_json(condition)
    if isinstance(condition, Orphan):
        rows = [f"  {name:10} {facts[name]}" for name in ("mode", "place")]
        return "\n".join(
            [f"{facts['name']}: {_ORPHANED.upper()}", f"  {facts['reasons'][0]}", *rows]
        )
    lines = [f"{facts['name']}: {_headline(condition)}"]
    lines += [f"  {reason}" for reason in condition.reasons]
    lines += [f"  {name:10} {value}" for name, value in _rows(facts) if value]
    if condition.state != State.HALF_MADE:
        lines += [f"  {word}: {condition.stats[stat]}" for stat, word in _counted(condition)]
    return "\n".join(lines)


def _headline(condition: Condition) -> str:
    word = str(condition.state)
    if condition.state != State.ATTACHED:
        return word.upper()
    if condition.is_outdated:
        word += ", by another version of uproxy: attach again to upgrade"
    if not condition.listeners.get(Listener.OUTBOUND, True):
        word += ", but the proxy isn't listening"
    return word


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("mode", facts["mode"] + (", fail-open" if facts["fail_open"] else "") + _shortcut(facts)),
        ("cgroup", facts["cgroup"]),
        ("netns", facts["netns"]),
        ("proxy", f"port {facts['outbound_port']}, cgroup {facts['proxy_cgroup'] or 'any'}"),
        ("include", ", ".join(facts["include"])),
        ("exclude", ", ".join(facts["exclude"])),
        ("inbound", ", ".join(facts["inbound"]) + _door(facts)),
    ]


def _door(facts: dict[str, Any]) -> str:
    return f" to port {facts['inbound_port']}" if facts["inbound"] else ""


def _shortcut(facts: dict[str, Any]) -> str:
    if not facts["short_circuit"]:
        return ""
    despite = " and ".join(facts["short_circuit_despite"])
    return ", short-circuit" + (f" despite {despite}" if despite else "")


def _counted(condition: Condition) -> list[tuple[Stat, str]]:
    """Return what was counted at all, and always what was captured."""
    return [
        (stat, word)
        for stat, word in _WORDS.items()
        if condition.stats.get(stat) or (stat == Stat.CAPTURED and condition.stats)
    ]


def _inbound(condition: Condition) -> list[str]:
    policy = condition.record.wanted.policy
    return [ALL] if policy.inbound_all else _ports(policy.inbound)


def _destinations(networks: tuple[object, ...], ports: frozenset[int]) -> list[str]:
    return [*map(str, networks), *_ports(ports)]


def _ports(ports: frozenset[int]) -> list[str]:
    """Return ports in order, neighbors as a range."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
