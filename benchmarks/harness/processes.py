"""What the kernel says of processes and connections: CPU time, and who is connected; from /proc.

CPU time comes in clock ticks (10 ms as a rule), so only a difference over a second or more
means anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_ESTABLISHED = "01"
"""TCP_ESTABLISHED, in /proc/net/tcp."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time of these processes, with all their threads, since they
    started."""
    return sum(_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids) / _TICKS_PER_S


def connected(port: int) -> int:
    """Return how many connections over IPv4 are established to a port, seen from their clients."""
    ended = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split()[2:4] for line in lines]
    return sum(remote.endswith(ended) and state == _ESTABLISHED for remote, state in fields)


def _ticks(stat: str) -> int:
    # the name may hold blanks and parentheses; utime and stime are fields 14 and 15 (proc(5))
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
