"""A bounded queue and a thread that writes it to a file descriptor.

`put` never waits: what doesn't fit is dropped and counted.  Only the thread ever waits for
the descriptor, and it is a daemon: a process whose standard output is blocked can still end.
A descriptor that fails (a closed pipe) loses lines, which are counted too; it stops nothing.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable

QUEUE_LINES = 10_000
"""Lines that wait for a blocked descriptor: some megabytes."""

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
        self._lines: queue.Queue[Line | None] = queue.Queue(lines)  # None: the end
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
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            with self._puts:
                self._unfit += 1

    def close(self, timeout: float) -> None:
        """Write what is queued and end, but wait at most `timeout` seconds for it."""
        try:
            self._lines.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            try:
                line = self._lines.get(timeout=_IDLE_S)
            except queue.Empty:
                self._idle()
                continue
            if line is None:
                return
            self._write(line)
            self._say_drops()

    def _say_drops(self) -> None:
        unfit = self._unfit
        if unfit > self._said:
            more, self._said = unfit - self._said, unfit
            self._write(lambda: self._drops(more))

    def _write(self, line: Line) -> None:
        left = memoryview((line() + "\n").encode("utf-8", "backslashreplace"))
        try:
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    # somebody made the descriptor non-blocking: it may be shared with a shell
                    select.select((), (self._fd,), ())
        except OSError:
            self._lost += 1
