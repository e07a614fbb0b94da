"""How many bytes a process has allocated and not freed.

The kernel's figures can't tell a leak from an allocator that keeps pages for later; what `malloc`
has handed out and not got back, it knows to the byte.
"""

from __future__ import annotations

import signal
import sys
from typing import TypeVar

from uproxy.lab.processes import Process, Uproxy
from uproxy.lab.waiting import wait_until

P = TypeVar("P", bound=Process)

_UPROXY = "from uproxy.cli import main; sys.exit(main())"

_TELLING = """\
import ctypes, gc, os, signal, sys

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    )]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2

def tell(*_):
    gc.collect()
    found = mallinfo2()
    os.write(1, b'{"in_use": %d}\\n' % (found.uordblks + found.hblkhd))

signal.signal(signal.SIGRTMIN, tell)
"""
"""Writes the bytes in use, in every arena and in maps of their own, at SIGRTMIN."""

_EXACT = ("PYTHONMALLOC=malloc", "GLIBC_TUNABLES=glibc.malloc.tcache_count=0")
"""No pools of Python's and no caches of threads, in which what is free counts as in use."""


def counted(process: P, code: str = _UPROXY) -> P:
    """Prepare a process that hasn't started for `in_use`; it runs `code` with its arguments."""
    words = process.argv[3:] if isinstance(process, Uproxy) else process.argv[1:]
    process.argv = ["/usr/bin/env", *_EXACT, sys.executable, "-c", _TELLING + code, *words]
    return process


def in_use(process: Process) -> int:
    """Return the bytes in use in a process that is `counted`, without what is garbage."""
    before = len(_told(process))
    process.send(signal.SIGRTMIN)
    return wait_until(lambda: _told(process)[before:], "the bytes in use")[0]


def _told(process: Process) -> list[int]:
    lines = process.output.splitlines()
    start = '{"in_use": '
    return [int(line[len(start) : -1]) for line in lines if line.startswith(start)]
