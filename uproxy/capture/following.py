"""Keeps a capture's list of own addresses up to date while the namespace's addresses change."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Final

from uproxy.capture import contents, orphans, record, routing
from uproxy.capture.pins import MAP, Pins
from uproxy.capture.places import follow_namespace, inside, living
from uproxy.capture.record import Mode, Record, Wanted
from uproxy.errors import UproxyError, UsageError

_GROUPS: Final = 1 << 4 | 1 << 8 | 1 << 6 | 1 << 10
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE."""
_LOOK_EVERY_S: Final = 2.0
"""Seconds until a capture's end is noticed."""
_LARGEST: Final = 1 << 16


def follow(folder: Path, name: str) -> None:
    """Follow the addresses until the capture is detached or its network namespace is gone.

    Raises:
        UsageError: there is none of that name, or it is no eBPF capture.
        UproxyError: its record is lost meanwhile, and nobody knows what to follow.
    """
    made = record.load(folder, name)
    if made is None:
        raise record.unknown(folder, name)
    if made.wanted.mode != Mode.EBPF:
        raise UsageError(f"capture {name} needs nobody who follows: nft asks the kernel itself")
    with _changes(made) as changes:
        while _refresh_locked(folder, made.wanted):
            _wait(changes)


def _refresh_locked(folder: Path, wanted: Wanted) -> bool:
    """Refresh a capture, unless it is detached; return whether there still is one."""
    with record.locked(folder):
        made = record.load(folder, wanted.name)
        if made is None and Pins(wanted.bpffs, wanted.name).exist():
            raise UproxyError(f"capture {wanted.name}: {orphans.REASON}")
        return made is not None and refresh(made)


def refresh(made: Record) -> bool:
    """Bring the map of own addresses, and the routes, up to date; return whether the network
    namespace still is there."""
    wanted = made.wanted
    namespace = follow_namespace(wanted.namespace)
    if namespace is None:
        return False
    with inside(namespace):
        routing.add(wanted.route)  # they name an address
    with Pins(wanted.bpffs, wanted.name).open(f"{MAP}own") as map_:
        if map_ is not None:
            contents.write_own(map_, contents.own_networks(namespace))
    return True


def _changes(made: Record) -> socket.socket:
    """Return a netlink socket that receives a message for every change of addresses and routes in
    the capture's network namespace."""
    with inside(living(made.wanted.namespace)):
        changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    changes.bind((0, _GROUPS))
    changes.settimeout(_LOOK_EVERY_S)
    return changes


def _wait(changes: socket.socket) -> None:
    """Wait for a message, at most `_LOOK_EVERY_S` seconds; then read all that have come."""
    try:
        changes.recv(_LARGEST)
        changes.setblocking(False)
        while True:
            changes.recv(_LARGEST)
    except (TimeoutError, BlockingIOError):
        pass
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # more than fits: then everything is looked at again
            raise
    finally:
        changes.settimeout(_LOOK_EVERY_S)
