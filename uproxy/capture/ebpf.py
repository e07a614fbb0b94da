"""Capture by eBPF: attaches the programs and makes the policy route; undoes both.

Rules: what is attached does nothing until `config.enabled` is set, which one write does after
everything else is there; so a command that was killed leaves either all of it or nothing that
acts.  Attaching again, with another policy or newer programs, replaces the programs one by one
while connections stay open and keep their marks; if that fails, the former are put back.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from uproxy.capture import (
    contents,
    draining,
    hooks,
    programs,
    record,
    routing,
    shortcut,
    sockdiag,
    sysctls,
)
from uproxy.capture.pins import LINK, MAP, Pins, check_bpffs, pinned
from uproxy.capture.places import follow_namespace, inside, living
from uproxy.capture.record import Mode, Record, Wanted
from uproxy.capture.restoring import put_back_on_error
from uproxy.errors import UproxyError

_LISTENERS: Final = "listeners"
_KEPT: Final = (_LISTENERS, "stats")
"""The maps that stay, with their contents, when newer programs take the place of older ones."""


def attach(folder: Path, wanted: Wanted) -> tuple[str, ...]:
    """Attach, or bring what is attached up to date; return the programs of which this kernel can
    only run the variant for older ones.

    Raises:
        UproxyError: nothing was changed, or what was begun is undone.
    """
    check_bpffs(wanted.bpffs)
    pins = Pins(wanted.bpffs, wanted.name)
    earlier = record.load(folder, wanted.name) or contents.read_record(pins)
    if earlier is not None and is_attached(earlier) and _is_there(earlier.wanted):
        _check_same(earlier.wanted, wanted)
        _check_shortcut(wanted)
        return _upgrade(folder, earlier, wanted, pins)
    namespace = living(wanted.namespace)
    with inside(namespace):
        _check_alone(folder, wanted)
        routing.check_permitted(wanted.route)
        routing.check_unused(wanted.route)
    programs.check()  # before anything is undone or made
    _check_shortcut(wanted)
    if earlier is not None or pins.exist():
        detach(folder, earlier or Record(wanted))
    return _attach_anew(folder, wanted, pins)


def _attach_anew(folder: Path, wanted: Wanted, pins: Pins) -> tuple[str, ...]:
    namespace = living(wanted.namespace)
    with inside(namespace):
        made = Record(wanted, sysctls.read(), programs.digest())
    record.save(folder, made)
    try:
        pins.create()
        contents.write_record(pins, made)
        with inside(namespace):
            sysctls.write({name: sysctls.WANTED[name] for name in made.sysctls})
            routing.add(wanted.route)
        with programs.loaded({}) as loaded:
            _put_in_place(wanted, loaded, pins, is_enabled=False)
            contents.write_config(wanted, namespace, loaded.maps["config"], is_enabled=True)
            return loaded.fallbacks
    except BaseException:
        detach(folder, made)
        raise


def _upgrade(folder: Path, earlier: Record, wanted: Wanted, pins: Pins) -> tuple[str, ...]:
    with inside(living(wanted.namespace)):
        sysctls.write({name: sysctls.WANTED[name] for name in earlier.sysctls})
        routing.add(wanted.route)  # what somebody else removed
    kept = _KEPT if _proxy(earlier.wanted) == _proxy(wanted) else ("stats",)
    with contextlib.ExitStack() as stack:
        reused = {name: stack.enter_context(pins.open(f"{MAP}{name}")) for name in kept}
        loaded = stack.enter_context(
            programs.loaded({name: each for name, each in reused.items() if each is not None})
        )
        made = replace(earlier, wanted=wanted, programs=programs.digest())
        with record.replaced(folder, made), put_back_on_error(pins):
            contents.write_record(pins, made)
            _put_in_place(wanted, loaded, pins, is_enabled=True)
        return loaded.fallbacks


def _put_in_place(wanted: Wanted, loaded: programs.Loaded, pins: Pins, *, is_enabled: bool) -> None:
    """Fill the maps, attach the programs or put them in their predecessors' places, pin all."""
    namespace = living(wanted.namespace)
    maps = loaded.maps
    contents.write_config(wanted, namespace, maps["config"], is_enabled=is_enabled)
    contents.write_policy(wanted, maps)
    contents.write_own(maps["own"], contents.own_networks(namespace))
    # first: where they know no listener, the programs refuse every connection, or let it pass
    contents.register_listeners(wanted, namespace, maps[_LISTENERS])
    hooks.attach_all(wanted, loaded.programs, pins)
    shortcut.attach(wanted, maps, pins)
    # of a proxy that began to listen between the two
    contents.register_listeners(wanted, namespace, maps[_LISTENERS], only_missing=True)
    for name, descriptor in maps.items():
        pins.put(f"{MAP}{name}", descriptor)


def detach(folder: Path, made: Record, drain_s: float = 0.0) -> None:
    """Undo everything, however much of it there is.

    Captured connections have `drain_s` seconds to end and are reset then: without the route
    they would go on, in clear, to where the workload meant them to go.
    """
    wanted = made.wanted
    pins = Pins(wanted.bpffs, wanted.name)
    namespace = follow_namespace(wanted.namespace)
    if namespace is not None:
        with inside(namespace):
            routing.check_permitted(wanted.route)  # before anything is undone
            for name in hooks.CAPTURING:
                pins.remove(f"{LINK}{name}")
            draining.end(partial(sockdiag.marked, wanted.route.mark), drain_s)
            routing.remove(wanted.route)
            sysctls.restore(made.sysctls)
    pins.clear()
    record.forget(folder, wanted.name)


def is_attached(made: Record) -> bool:
    """Return whether everything of a capture was attached: the last step of `attach` sets
    `enabled`."""
    config = contents.read_config(Pins(made.wanted.bpffs, made.wanted.name))
    return config is not None and config.enabled


def _check_shortcut(wanted: Wanted) -> None:
    if wanted.short_circuit is not None:
        shortcut.check(living(wanted.namespace), wanted.short_circuit)


def _proxy(wanted: Wanted) -> tuple[int, int, int]:
    """Return the ports and the cgroup that say whose listening sockets get the connections."""
    return wanted.outbound_port, wanted.inbound_port, wanted.proxy_cgroup_id


def _check_same(earlier: Wanted, wanted: Wanted) -> None:
    """Refuse to change what can't be changed under living connections."""
    for option, is_same in (
        ("--netns", earlier.namespace.is_same(wanted.namespace)),
        ("--mark or --table", earlier.route == wanted.route),
        ("--bpffs", earlier.bpffs == wanted.bpffs),
    ):
        if not is_same:
            raise UproxyError(
                f"capture {wanted.name} is attached with another {option}: detach it first"
            )


def _check_alone(folder: Path, wanted: Wanted) -> None:
    """Refuse a second eBPF capture in one namespace: `lookup` can't see whose a mark is."""
    names = {*record.names(folder), *(each.name for each in pinned(wanted.bpffs))}
    for name in sorted(names):
        other = record.load(folder, name) or contents.read_record(Pins(wanted.bpffs, name))
        if (
            other is not None
            and name != wanted.name
            and other.wanted.mode == Mode.EBPF
            and other.wanted.namespace.is_same(wanted.namespace)
        ):
            raise UproxyError(
                f"capture {name} has this network namespace: detach it, or use --mode nft, of "
                "which there may be several"
            )


def _is_there(wanted: Wanted) -> bool:
    return follow_namespace(wanted.namespace) is not None
