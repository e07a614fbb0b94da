"""How many processors this process may use: its affinity, and the quota of its cgroup."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def allowed(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """One at least.  A quota of 1.5 processors counts as 2.

    Args:
        cgroups: where the kernel shows them.
        own: which of them this process is in (cgroups(7)).
    """
    quotas = [*_quotas_v2(cgroups, own), *_quotas_v1(cgroups)]
    return max(1, min((len(os.sched_getaffinity(0)), *map(math.ceil, quotas))))


def _quotas_v2(cgroups: Path, own: Path) -> list[float]:
    """Of each cgroup from our own up to the root: every one of them binds."""
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
    quota = _lines(cgroups / "cpu" / "cpu.cfs_quota_us")
    period = _lines(cgroups / "cpu" / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return []
    return [int(quota[0]) / int(period[0])]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # the other version of cgroups, or none
