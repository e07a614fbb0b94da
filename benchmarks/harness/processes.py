"""What the kernel says processes have used of CPU time, from /proc.

CPU time comes in clock ticks (10 ms as a rule), so only a difference over a second or more
means anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time of these processes, with all their threads, since they
    started."""
    return sum(_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids) / _TICKS_PER_S


def _ticks(stat: str) -> int:
    # the name may hold blanks and parentheses; utime and stime are fields 14 and 15 (proc(5))
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
