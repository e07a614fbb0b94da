"""uproxy.lab.memory: what the kernel says of a process."""

from __future__ import annotations

import os

from uproxy.lab import memory

ROLLUP = (
    "5600-7ff0 ---p 00000000 00:00 0    [rollup]\n"
    "Rss:               45056 kB\nPss:               26011 kB\nPss_Dirty:   9 kB\n"
    "Private_Clean:      1234 kB\nPrivate_Dirty:     24504 kB\nSwap:   0 kB\n"
)


def test_memory_is_read_in_bytes() -> None:
    assert memory._rollup(ROLLUP) == memory.Memory(
        rss=45056 * 1024, pss=26011 * 1024, private_dirty=24504 * 1024
    )


def test_our_own_memory_adds_up() -> None:
    ours = memory.memory(os.getpid())
    assert 0 < ours.private_dirty <= ours.pss <= ours.rss
