"""What the kernel says a process has used: CPU time and memory, from /proc.

CPU time comes in clock ticks (10 ms as a rule), so only a difference over a second or more
means anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes with all their threads since they began, together."""
    return sum(_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids) / _TICKS_PER_S


def _ticks(stat: str) -> int:
    # the name may hold blanks and parentheses; utime and stime are fields 14 and 15 (proc(5))
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's memory, in bytes."""

    rss: int
    """Everything resident, pages of libraries shared with others included."""
    pss: int
    """The same with each shared page divided by how many processes share it."""
    private_dirty: int
    """Pages that only this process has and that it has written: what one more of it costs."""


def memory(pid: int) -> Memory:
    """What a process holds now.

    Raises:
        PermissionError: uProxy lets nobody but root look.
    """
    return _rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def _rollup(text: str) -> Memory:
    lines = (line.partition(":") for line in text.splitlines()[1:])
    size = {name: int(value.split()[0]) * 1024 for name, _, value in lines}
    return Memory(size["Rss"], size["Pss"], size["Private_Dirty"])
