"""The clients that send small requests: starts clients.c, sends it commands, reads its answers.

One process for each run keeps its connections from one load to the next.  Each run uses another
loopback address, so that it doesn't meet ports that an earlier run left in TIME_WAIT.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.harness.compiled import compiled

_sources = itertools.cycle(f"127.0.0.{last}" for last in range(2, 255))


def next_source() -> str:
    """Return a loopback address that none of the last runs used."""
    return next(_sources)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of one load."""

    requests: int
    """How many were answered."""
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Clients:
    """Connections to a port, inside the `with` block.

    The port is on loopback, unless it is to be reached at the address `target` from `source`;
    `inside` begins a command that runs another one elsewhere, in a network namespace, say.

    Each method returns when its load is done.

    Raises:
        RuntimeError: a connection failed, closed early, or was silent for 10 s.
    """

    def __init__(
        self,
        port: int,
        *,
        target: str | None = None,
        source: str | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        argv = [*inside, str(compiled("clients")), str(port), source or next_source()]
        argv += [] if target is None else [target]
        pipe = subprocess.PIPE
        self._popen: subprocess.Popen[str] = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def open(self, count: int) -> None:
        """Open connections until there are `count`; each has one request answered."""
        self._do(f"open {count}")

    def run(self, busy: int, seconds: float, *, rate: int = 0) -> LoadResult:
        """Send requests over the first `busy` connections: `rate` a second in all, or without a
        rate as fast as possible, one request at a time on each."""
        return read(self._do(f"run {busy} {seconds} {rate}"))

    def dial(self, slots: int, seconds: float) -> LoadResult:
        """Open a new connection for each request, `slots` at a time."""
        return read(self._do(f"dial {slots} {seconds}"))

    def _do(self, command: str) -> str:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(f"{command}\n")
        self._popen.stdin.flush()

        answer = self._popen.stdout.readline()
        if not answer:
            assert self._popen.stderr is not None
            raise RuntimeError(f"clients: {command}: {self._popen.stderr.read().strip()}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        with self._popen:
            self._popen.kill()


def read(line: str) -> LoadResult:
    """Parse the program's answer about a load.

    Raises:
        RuntimeError: not one request was answered.
    """
    found = json.loads(line)
    if not found["requests"]:
        raise RuntimeError(f"no request was answered: {line.strip()}")
    return LoadResult(
        found["requests"], found["duration_us"] / 1e6, found["p50_us"], found["p99_us"]
    )
