"""A bounded queue of log lines, and a thread that writes them to a file descriptor.

`put` never waits: a line that finds the queue full is dropped and counted.  Only the thread
waits for the descriptor, and it is a daemon thread, so a process whose standard output is
blocked can still exit.  If writing fails (a closed pipe), the lines are counted as dropped.
Lines that wait are written together, because each write releases the GIL, and under load the
thread would wait longer to get it back than it takes to write a hundred lines.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable

from uproxy import signals
from uproxy.errors import UproxyError

QUEUE_LINES = 10_000
"""How many lines may wait for a blocked descriptor; some megabytes."""

BATCH_BYTES = select.PIPE_BUF
"""The most that one write takes, unless one line is longer.  PIPE_BUF bytes go into a pipe in
one piece, even if other processes write there too."""

Line = Callable[[], str]
"""Returns the formatted line.  Called on the writer thread, so it may only use immutable
values."""

_IDLE_S = 1.0  # seconds between calls of `on_idle` while the queue is empty


class Pipe:
    """Writes lines to the descriptor `fd`."""

    def __init__(
        self,
        fd: int,
        *,
        drop_line: Callable[[int], str],
        on_idle: Callable[[], None],
        lines: int = QUEUE_LINES,
    ) -> None:
        """Prepare the queue; `start` begins to write.

        Args:
            drop_line: returns the line that reports how many lines were dropped.
            on_idle: called on the writer thread about once a second while the queue is empty.
            lines: how many lines may wait in the queue.
        """
        self._fd = fd
        self._drop_line = drop_line
        self._on_idle = on_idle
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()  # None: stop
        self._max_lines = lines
        self._dropped_lines = 0  # lines dropped because the queue was full
        self._failed_lines = 0  # lines whose write failed; only the thread changes it
        self._reported = 0  # drops already reported in the log; only the thread uses it
        self._drop_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    @property
    def dropped(self) -> int:
        """How many lines were dropped or failed to be written so far."""
        return self._dropped_lines + self._failed_lines

    def start(self) -> None:
        """Start the writer thread.

        Raises:
            UproxyError: the thread can't be started.
        """
        try:
            signals.start_without(self._thread)
        except RuntimeError as error:
            raise UproxyError(
                f"no thread for the log ({error}): raise the limit of processes (ulimit -u, "
                "TasksMax) or of memory"
            ) from None

    def put(self, line: Line) -> None:
        """Queue a line, or drop it if the queue is full.  Callable on any thread; never waits."""
        # two threads may both see room for one more: one line too many does no harm
        if self._lines.qsize() < self._max_lines:
            self._lines.put(line)
        else:
            with self._drop_lock:
                self._dropped_lines += 1

    def close(self, timeout: float) -> None:
        """Write what is queued and stop the thread, waiting for it at most `timeout` seconds."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        """Write lines until the end of the queue; runs on the writer thread."""
        more = True
        while more:
            try:
                line = self._lines.get(timeout=_IDLE_S)
            except queue.Empty:
                self._on_idle()
                continue
            more = self._write_from(line)
            self._report_drops()

    def _write_from(self, line: Line | None) -> bool:
        """Write `line` and the lines queued behind it; return False if `close` has marked the
        end."""
        batch: list[bytes] = []
        size = 0
        while line is not None:
            rendered = _encoded(line)
            if size + len(rendered) > BATCH_BYTES:
                self._write(b"".join(batch))
                self._report_drops()
                batch, size = [], 0
            batch.append(rendered)
            size += len(rendered)
            if self._lines.empty():
                break
            line = self._lines.get()  # doesn't block: no other thread takes lines
        self._write(b"".join(batch))
        return line is not None

    def _report_drops(self) -> None:
        """Write how many lines were dropped since the last report, if any."""
        unfit = self._dropped_lines
        if unfit > self._reported:
            more, self._reported = unfit - self._reported, unfit
            self._write(_encoded(lambda: self._drop_line(more)))

    def _write(self, lines: bytes) -> None:
        """Write these bytes; when that fails, count their lines as dropped."""
        left = memoryview(lines)
        try:
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    # a shell or another process sharing the descriptor made it non-blocking
                    select.select((), (self._fd,), ())
        except OSError:
            self._failed_lines += bytes(left).count(b"\n")


def _encoded(line: Line) -> bytes:
    return (line() + "\n").encode("utf-8", "backslashreplace")
