"""Makes system calls of a child process fail on demand, as when the kernel lacks resources.

A small library (faults.c, compiled when first used) is preloaded into the process and reads from a
shared file which calls fail.  Unrealistic: only these calls fail, while a real lack of memory
would affect everything at once.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_suffix(".c")
_CALLS: Final = ("accept", "socket", "connect", "recv", "send", "epoll_ctl", "socket6")
"""`socket6` is `socket` for IPv6 only."""
_FAULT: Final = struct.Struct("=iiii")
_ERROR, _PORT, _LEFT, _FAILED = range(0, 16, 4)
"""Where a fault's words are, in bytes."""


class Faults:
    """The shared file, and the environment in which a process uses it."""

    def __init__(self, folder: Path) -> None:
        library = folder / "faults.so"
        compiling = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror",
                     "-o", str(library), str(_SOURCE), "-ldl"]  # fmt: skip
        clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        subprocess.run(compiling, check=True, env=clean)
        shared = folder / "faults"
        shared.write_bytes(bytes(len(_CALLS) * _FAULT.size))
        with shared.open("r+b") as file:
            self._words = mmap.mmap(file.fileno(), 0)
        # a sanitizer's library wants to stay the first
        preloaded = [path for path in (os.environ.get("LD_PRELOAD"), str(library)) if path]
        self.env = {"LD_PRELOAD": ":".join(preloaded), "UPROXY_FAULTS": str(shared)}

    @contextmanager
    def failing(self, call: str, error: int, *, port: int = 0, times: int = -1) -> Iterator[None]:
        """Let `call` fail with the errno `error` inside the block, at most `times` (negative:
        always), and only on sockets of `port` unless that is 0."""
        at = _CALLS.index(call) * _FAULT.size
        self._write(at + _LEFT, times)
        self._write(at + _PORT, port)
        self._write(at + _FAILED, 0)
        self._write(at + _ERROR, error)  # last: from here on it fails
        try:
            yield
        finally:
            self._write(at + _ERROR, 0)

    def failed(self, call: str) -> int:
        """Return how many calls have failed since `failing` was last entered."""
        (count,) = struct.unpack_from("=i", self._words, _CALLS.index(call) * 16 + _FAILED)
        return int(count)

    def close(self) -> None:
        self._words.close()

    def _write(self, at: int, value: int) -> None:
        struct.pack_into("=i", self._words, at, value)
