"""What the loader writes into the maps: configuration, policy, own addresses, listeners."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from uproxy import originals
from uproxy.capture import addresses, bpf
from uproxy.capture.elf import MapDefinition
from uproxy.capture.layout import (
    CONFIG_SIZE,
    PREFIX_SIZE,
    Config,
    Flag,
    Listener,
    Network,
    Stat,
    prefix_key,
    sum_counters,
    word,
)
from uproxy.capture.listeners import find_listener
from uproxy.capture.pins import MAP, Pins
from uproxy.capture.places import Namespace, inside
from uproxy.capture.record import Record, Wanted, parse
from uproxy.errors import NotPermittedError

_LONG: Final = 8
"""Bytes of a value of `listeners`, and of a counter."""
_RECORD: Final = "record"
_ARRAY: Final = 2
"""BPF_MAP_TYPE_ARRAY."""
_PROCESSORS: Final = Path("/sys/devices/system/cpu/possible")


def write_config(wanted: Wanted, namespace: Namespace, map_: int, *, is_enabled: bool) -> None:
    """Write the configuration that the eBPF programs read, into the map `config`."""
    flags = wanted.policy.flags | (Flag.FAIL_OPEN if wanted.fail_open else Flag(0))
    config = Config(
        is_enabled, wanted.route.mark, flags, wanted.outbound_port, wanted.inbound_port,
        namespace.cookie, wanted.exempt_cgroup_id,
    )  # fmt: skip
    bpf.update(map_, word(0), config.pack())


def read_config(pins: Pins) -> Config | None:
    """Return the configuration that the attached programs read; None: none are attached."""
    with pins.open(f"{MAP}config") as map_:
        data = None if map_ is None else bpf.lookup(map_, word(0), CONFIG_SIZE)
    return None if data is None else Config.unpack(data)


def write_record(pins: Pins, made: Record) -> None:
    """Pin a copy of the record, from which a capture can be undone that has lost it."""
    text = made.to_json().encode()
    map_ = bpf.create_map(_RECORD, MapDefinition(_ARRAY, 4, len(text), 1, 0))
    try:
        bpf.update(map_, word(0), text)
        pins.put(f"{MAP}{_RECORD}", map_)
    finally:
        os.close(map_)


def read_record(pins: Pins) -> Record | None:
    """Return what was written; None: nothing is.  Its bpffs is the one it was found in: whoever
    wrote it, in a container say, may have had that at another path.

    Raises:
        UproxyError: another version of uProxy wrote it.
    """
    with pins.open(f"{MAP}{_RECORD}") as map_:
        text = None if map_ is None else bpf.lookup(map_, word(0), bpf.value_size(map_))
    if text is None:
        return None
    made = parse(text.decode(), pins.folder)
    return replace(made, wanted=replace(made.wanted, bpffs=pins.bpffs))


def write_policy(wanted: Wanted, maps: Mapping[str, int]) -> None:
    """Write the rules about addresses and ports into the maps `addresses` and `ports`, which must
    be empty."""
    for key, action in wanted.policy.address_rules().items():
        bpf.update(maps["addresses"], key, word(action))
    for key, action in wanted.policy.port_rules().items():
        bpf.update(maps["ports"], key, word(action))


def write_own(map_: int, networks: Iterable[Network]) -> None:
    """Make a map hold these prefixes and no other."""
    wanted = {prefix_key(each) for each in networks}
    there = set(bpf.keys(map_, PREFIX_SIZE))
    for key in wanted - there:  # first: an own address that is missing would be captured
        bpf.update(map_, key, word(1))
    for key in there - wanted:
        bpf.delete(map_, key)


def own_networks(namespace: Namespace) -> set[Network]:
    """Return the prefixes of which a network namespace takes all addresses for its own."""
    with inside(namespace):
        return addresses.own_networks()


def register_listeners(
    wanted: Wanted, namespace: Namespace, map_: int, *, only_missing: bool = False
) -> None:
    """Tell the programs the sockets at which the proxy listens already, unless they know them; and
    make the one for outbound connections transparent (IP_TRANSPARENT), because the proxy may
    lack the privilege to do that itself.  With `only_missing` nothing is done about those that
    they know.

    Raises:
        NotPermittedError: we may not look for one that they don't know.
    """
    apart = None if wanted.exempt_cgroup_id else wanted.cgroup
    ports = {Listener.OUTBOUND: wanted.outbound_port, Listener.INBOUND: wanted.inbound_port}
    for which, port in ports.items():
        is_known = has_listener(map_, which)
        if is_known and (only_missing or which != Listener.OUTBOUND):
            continue
        try:
            found = find_listener(namespace, wanted.proxy_cgroup, port, apart)
        except NotPermittedError:
            if not is_known:
                raise
            continue
        if found is not None:
            _register(found, which, map_)


def _register(descriptor: int, which: Listener, map_: int) -> None:
    """Tell the programs a listening socket, and close our descriptor of it."""
    with socket.socket(fileno=descriptor) as listener:
        if which == Listener.OUTBOUND:
            originals.make_transparent(listener)
        bpf.update(map_, word(which), struct.pack("=Q", descriptor))


def has_listener(map_: int, which: Listener) -> bool:
    """Return whether the programs know a listening socket of the proxy for this direction."""
    return bpf.lookup(map_, word(which), _LONG) is not None


def read_stats(map_: int) -> dict[Stat, int]:
    """Return the programs' counters, each summed over all processors."""
    size = _LONG * _possible_processors()
    return {stat: sum_counters(bpf.lookup(map_, word(stat), size) or b"") for stat in Stat}


def _possible_processors() -> int:
    """Return how many values a counter has: one for each processor that could be plugged in."""
    ranges = _PROCESSORS.read_text().strip().split(",")
    return int(ranges[-1].rpartition("-")[2]) + 1
