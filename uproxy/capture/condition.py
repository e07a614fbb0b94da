"""Looks whether a capture is still what was attached, and collects what it has counted."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from uproxy.capture import (
    addresses,
    bpf,
    contents,
    hooks,
    impostors,
    nft,
    programs,
    routing,
    shortcut,
    sockdiag,
    sysctls,
)
from uproxy.capture.layout import PREFIX_SIZE, Listener, Stat, prefix_key
from uproxy.capture.nft_rules import ruleset, table_name
from uproxy.capture.pins import LINK, MAP, Pins
from uproxy.capture.places import cgroup_root, follow_namespace, inside
from uproxy.capture.record import Mode, Record, Wanted
from uproxy.errors import NotPermittedError


class State(enum.StrEnum):
    """Whether a capture does what it was attached for."""

    ATTACHED = "attached"
    STALE = "stale"
    """Something that it needs has gone or changed."""
    HALF_MADE = "half-made"
    """The command was killed."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The state of one capture, and why it is in it."""

    record: Record
    state: State
    reasons: tuple[str, ...]
    """Why it isn't `attached`, and what to do."""
    listeners: dict[Listener, bool] = field(default_factory=dict)
    """Whether the proxy listens for captured connections, by direction."""
    stats: dict[Stat, int] = field(default_factory=dict)
    """What was counted since it was attached."""
    is_outdated: bool = False
    """Whether another version of uProxy attached it."""

    @property
    def is_good(self) -> bool:
        """Return whether everything is as it was attached."""
        return self.state == State.ATTACHED


def examine(made: Record) -> Condition:
    """Compare a capture's record with what the kernel has, and return its state.

    Raises:
        NotPermittedError: we may not look.
    """
    try:
        return _examine_nft(made) if made.wanted.mode == Mode.NFT else _examine_ebpf(made)
    except PermissionError:
        raise NotPermittedError(
            f"to look at capture {made.wanted.name} needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
        ) from None


def _examine_nft(made: Record) -> Condition:
    wanted = made.wanted
    reasons = list(_cgroups(wanted))
    namespace = follow_namespace(wanted.namespace)
    if namespace is None:
        return Condition(made, State.STALE, (*reasons, _lost(wanted)))
    with inside(namespace):
        listeners = impostors.has_listeners(wanted)
        reasons += map(_somebody_elses, impostors.ports_of_others(wanted))
        if not nft.exists(wanted):
            reasons.append(f"the nft table {table_name(wanted.name)} is gone: attach again")
            return Condition(made, State.STALE, tuple(reasons), listeners)
        if made.listing not in ("", nft.listing(wanted)):
            reasons.append(f"the nft table {table_name(wanted.name)} was changed: attach again")
        stats = nft.stats(wanted)
    rules = ruleset(wanted, cgroup_root())
    state = State.STALE if reasons else State.ATTACHED
    is_outdated = made.programs != nft.digest(rules)
    return Condition(made, state, tuple(reasons), listeners, stats, is_outdated)


def _lost(wanted: Wanted) -> str:
    return f"nothing leads to the network namespace {wanted.namespace.path} any more: detach"


def _examine_ebpf(made: Record) -> Condition:
    wanted = made.wanted
    pins = Pins(wanted.bpffs, wanted.name)
    config = contents.read_config(pins)
    if config is None or not config.enabled:
        return Condition(
            made, State.HALF_MADE, ("the command that attached it was killed: attach or detach",)
        )
    reasons = tuple(_reasons(made, pins))
    return Condition(
        made,
        State.STALE if reasons else State.ATTACHED,
        reasons,
        _listeners(pins),
        _stats(pins),
        made.programs != programs.digest(),
    )


def _reasons(made: Record, pins: Pins) -> Iterator[str]:
    wanted = made.wanted
    yield from _cgroups(wanted)
    yield from _links(wanted, pins)
    namespace = follow_namespace(wanted.namespace)
    if namespace is None:
        yield _lost(wanted)
        return
    with inside(namespace):
        for lacking in routing.missing(wanted.route):
            yield f"{lacking}: attach again"
        current = sysctls.read()
        own = addresses.own_networks()
        is_opaque = sockdiag.is_opaque(wanted.outbound_port)
    if is_opaque and _listeners(pins).get(Listener.OUTBOUND):
        yield (
            f"the proxy's socket at port {wanted.outbound_port} isn't transparent, so IPv4 "
            "connections wait in vain: give the proxy CAP_NET_RAW, or attach again"
        )
    for name in made.sysctls:
        if current.get(name) != sysctls.WANTED[name]:
            yield f"net/{name} was changed: attach again"
    with pins.open(f"{MAP}own") as map_:
        if map_ is not None and set(bpf.keys(map_, PREFIX_SIZE)) != set(map(prefix_key, own)):
            yield "the addresses of the network namespace have changed: attach again"


def _somebody_elses(port: int) -> str:
    return (
        f"the socket at port {port} isn't the proxy's, so connections to it are refused: it wasn't "
        f"made in --proxy-cgroup (ss -lntp sport = :{port}). One that systemd opens for the proxy "
        "is systemd's"
    )


def _cgroups(wanted: Wanted) -> Iterator[str]:
    """Yield what is wrong with the workload's cgroup and with the proxy's."""
    yield from _cgroup(wanted.cgroup, wanted.cgroup_id)
    yield from _cgroup(wanted.proxy_cgroup, wanted.proxy_cgroup_id)


def _cgroup(path: Path, id_: int) -> Iterator[str]:
    """Yield what is wrong with a cgroup: another one at its path isn't captured."""
    try:
        found = path.stat().st_ino
    except OSError:
        yield f"the cgroup {path} was removed: detach, or attach again when it is there"
        return
    if found != id_:
        yield f"the cgroup {path} was removed and made again: attach again"


def _links(wanted: Wanted, pins: Pins) -> Iterator[str]:
    targets = {**hooks.targets(wanted), **shortcut.targets(wanted)}
    maps = _map_ids(pins)
    for name in (*hooks.ORDER, *shortcut.targets(wanted)):
        with pins.open(f"{LINK}{name}") as link:
            info = None if link is None else bpf.link_info(link)
        target = targets.get(name)
        if info is None or target is None or info.target != target.id:
            yield f"the program {name} isn't attached any more: attach again"
        elif not bpf.program_maps(info.program_id) <= maps:
            yield f"the program {name} is of an attach that was killed: attach again"


def _map_ids(pins: Pins) -> set[int]:
    found = set()
    for name in (*programs.capture_object().maps, *programs.shortcut_object().maps):
        with pins.open(f"{MAP}{name}") as map_:
            if map_ is not None:
                found.add(bpf.map_id(map_))
    return found


def _listeners(pins: Pins) -> dict[Listener, bool]:
    with pins.open(f"{MAP}listeners") as map_:
        if map_ is None:
            return {}
        return {which: contents.has_listener(map_, which) for which in Listener}


def _stats(pins: Pins) -> dict[Stat, int]:
    with pins.open(f"{MAP}stats") as map_:
        return {} if map_ is None else contents.read_stats(map_)
