"""Who listens at the proxy's ports, by the cgroup in which the socket was made, as nft sees it."""

from __future__ import annotations

import os
from pathlib import Path

from uproxy.capture.layout import Listener
from uproxy.capture.places import cgroup_root
from uproxy.capture.record import Wanted
from uproxy.capture.sockdiag import listening_cgroups


def has_listeners(wanted: Wanted) -> dict[Listener, bool]:
    """Return whether the proxy listens at its ports in this network namespace."""
    found = {port for port, is_proxy in _listening(wanted) if is_proxy}
    return {
        Listener.OUTBOUND: wanted.outbound_port in found,
        Listener.INBOUND: wanted.inbound_port in found,
    }


def ports_of_others(wanted: Wanted) -> list[int]:
    """Return at which of the proxy's ports somebody else listens in this network namespace."""
    ports = wanted.proxy_ports
    others = {port for port, is_proxy in _listening(wanted) if port in ports and not is_proxy}
    return sorted(others)


def _listening(wanted: Wanted) -> list[tuple[int, bool]]:
    """Return (port, whether it is the proxy's) of each socket that listens."""
    found = listening_cgroups()
    proxy = wanted.proxy_cgroup
    theirs = _ids(wanted.cgroup) if wanted.cgroup.is_relative_to(proxy) else set[int]()
    if proxy == cgroup_root():
        return [(port, id_ not in theirs) for port, id_ in found]
    ours = _ids(proxy) - theirs
    return [(port, id_ in ours) for port, id_ in found]


def _ids(cgroup: Path) -> set[int]:
    """Return the numbers of a cgroup and of those below it."""
    folders = [Path(folder) for folder, _, _ in os.walk(cgroup)]
    return {found for each in folders if (found := _id(each))}


def _id(folder: Path) -> int:
    try:
        return folder.stat().st_ino
    except OSError:  # removed meanwhile
        return 0
