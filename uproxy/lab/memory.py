"""How much memory a process uses, from /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's memory, in bytes."""

    rss: int
    """All resident pages, including pages shared with other processes."""
    pss: int
    """As `rss`, with the size of each shared page divided by the number of processes."""
    private_dirty: int
    """Pages that only this process has and has written: what one more process would cost."""


def memory(pid: int) -> Memory:
    """Return the memory that a process uses now.

    Raises:
        PermissionError: for a uProxy, only root may read it.
    """
    return _rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def private_dirty(pid: int) -> int:
    """Return the bytes that one more such process would cost."""
    return memory(pid).private_dirty


def _rollup(text: str) -> Memory:
    lines = (line.partition(":") for line in text.splitlines()[1:])
    size = {name: int(value.split()[0]) * 1024 for name, _, value in lines}
    return Memory(size["Rss"], size["Pss"], size["Private_Dirty"])
