"""How many processors this process may use, by its CPU affinity and its cgroup's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def allowed(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of usable processors, at least 1; a quota of 1.5 counts as 2.

    Args:
        cgroups: where the cgroup file system is mounted.
        own: the file that names this process's cgroup (cgroups(7)).
    """
    quotas = [*_quotas_v2(cgroups, own), *_quotas_v1(cgroups)]
    return max(1, min((len(os.sched_getaffinity(0)), *map(math.ceil, quotas))))


def _quotas_v2(cgroups: Path, own: Path) -> list[float]:
    """Return the quotas, in processors, of our cgroup and all its parents: each of them
    applies."""
    path = next((line[3:] for line in _lines(own) if line.startswith("0::")), "/")
    inside = cgroups / path.lstrip("/")
    found = []
    for folder in (inside, *inside.parents):
        if not folder.is_relative_to(cgroups):
            break
        for line in _lines(folder / "cpu.max"):
            quota, _, period = line.partition(" ")
            if quota != "max":
                found.append(int(quota) / int(period))
    return found


def _quotas_v1(cgroups: Path) -> list[float]:
    """Return the quota of cgroup version 1, in processors; empty if there is none."""
    quota = _lines(cgroups / "cpu" / "cpu.cfs_quota_us")
    period = _lines(cgroups / "cpu" / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return []
    return [int(quota[0]) / int(period[0])]


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it can't be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # this version of cgroups isn't in use
