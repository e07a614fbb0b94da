"""How much memory a process holds, from /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


def private_dirty(pid: int) -> int:
    """As `memory`, what one more of the process costs: bytes."""
    return memory(pid).private_dirty


def _rollup(text: str) -> Memory:
    lines = (line.partition(":") for line in text.splitlines()[1:])
    size = {name: int(value.split()[0]) * 1024 for name, _, value in lines}
    return Memory(size["Rss"], size["Pss"], size["Private_Dirty"])
