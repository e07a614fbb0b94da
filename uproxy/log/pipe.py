"""A bounded queue and a thread that writes it to a file descriptor.

`put` never waits: what doesn't fit is dropped and counted.  Only the thread ever waits for
the descriptor, and it is a daemon: a process whose standard output is blocked can still end.
A descriptor that fails (a closed pipe) loses lines, which are counted too; it stops nothing.
Lines that wait together are written together: each write lets go of the interpreter, and under
load the thread would wait as long to get it back as a hundred lines take.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable

QUEUE_LINES = 10_000
"""Lines that wait for a blocked descriptor: some megabytes."""

BATCH_BYTES = select.PIPE_BUF
"""Written together at most, unless one line is longer: so much goes into a pipe in one piece,
whoever else writes there."""

Line = Callable[[], str]
"""Rendered by the writer thread, so it may refer to nothing that changes."""

_IDLE_S = 1.0  # how often `idle` is called while nothing is written


class Pipe:
    """Lines on their way to `fd`."""

    def __init__(
        self,
        fd: int,
        *,
        drops: Callable[[int], str],
        idle: Callable[[], None],
        lines: int = QUEUE_LINES,
    ) -> None:
        """`drops` renders the line that tells how many had no room.  `idle` is called on the
        writer thread, about once a second while the queue is empty."""
        self._fd = fd
        self._drops = drops
        self._idle = idle
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()  # None: the end
        self._room = lines
        self._unfit = 0  # lines that found no room; written by whoever puts
        self._lost = 0  # lines the descriptor didn't take; written by the thread
        self._said = 0  # drops already told in the log; the thread's
        self._puts = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._unfit + self._lost

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, line: Line) -> None:
        """Write `line` when its turn comes, or drop it now.  From any thread; never waits."""
        # two threads may both find the last room: a line more does no harm
        if self._lines.qsize() < self._room:
            self._lines.put(line)
        else:
            with self._puts:
                self._unfit += 1

    def close(self, timeout: float) -> None:
        """Write what is queued and end, but wait at most `timeout` seconds for it."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        more = True
        while more:
            try:
                line = self._lines.get(timeout=_IDLE_S)
            except queue.Empty:
                self._idle()
                continue
            more = self._write_from(line)
            self._say_drops()

    def _write_from(self, line: Line | None) -> bool:
        """Write `line` and those behind it; False at the end."""
        batch: list[bytes] = []
        size = 0
        while line is not None:
            rendered = _encoded(line)
            if size + len(rendered) > BATCH_BYTES:
                self._write(b"".join(batch))
                self._say_drops()
                batch, size = [], 0
            batch.append(rendered)
            size += len(rendered)
            if self._lines.empty():
                break
            line = self._lines.get()  # this thread alone takes
        self._write(b"".join(batch))
        return line is not None

    def _say_drops(self) -> None:
        unfit = self._unfit
        if unfit > self._said:
            more, self._said = unfit - self._said, unfit
            self._write(_encoded(lambda: self._drops(more)))

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    # somebody made the descriptor non-blocking: it may be shared with a shell
                    select.select((), (self._fd,), ())
        except OSError:
            self._lost += bytes(left).count(b"\n")


def _encoded(line: Line) -> bytes:
    return (line() + "\n").encode("utf-8", "backslashreplace")
