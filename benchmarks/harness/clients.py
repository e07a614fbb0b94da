"""The clients of small requests: clients.c, told what to do, and what it says of it.

One program per run, which keeps its connections from one load to the next.  Each run comes
from another address of loopback, so that what an earlier one left in TIME_WAIT isn't met.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.harness.compiled import compiled

_sources = itertools.cycle(f"127.0.0.{last}" for last in range(2, 255))


def next_source() -> str:
    """An address of loopback that none of the last runs came from."""
    return next(_sources)


@dataclass(frozen=True, slots=True)
class Load:
    """What one load came to."""

    requests: int
    """Answered."""
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Clients:
    """Connections to a port of loopback, while its `with` block lasts.

    Every method waits until what it asks for has been done.

    Raises:
        RuntimeError: a connection failed, closed early, or was silent for 10 s.
    """

    def __init__(self, port: int) -> None:
        argv = [str(compiled("clients")), str(port), next_source()]
        pipe = subprocess.PIPE
        self._popen: subprocess.Popen[str] = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def open(self, count: int) -> None:
        """Have so many connections, each with a request answered."""
        self._do(f"open {count}")

    def run(self, busy: int, seconds: float, *, rate: int = 0) -> Load:
        """Ask over the first `busy` connections: `rate` a second together, or as fast as it
        goes, one request at a time on each."""
        return read(self._do(f"run {busy} {seconds} {rate}"))

    def dial(self, slots: int, seconds: float) -> Load:
        """A new connection for every request, `slots` at a time."""
        return read(self._do(f"dial {slots} {seconds}"))

    def _do(self, command: str) -> str:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(f"{command}\n")
        self._popen.stdin.flush()
        said = self._popen.stdout.readline()
        if not said:
            assert self._popen.stderr is not None
            raise RuntimeError(f"clients: {command}: {self._popen.stderr.read().strip()}")
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with self._popen:
            self._popen.kill()


def read(line: str) -> Load:
    """What the program said of a load.

    Raises:
        RuntimeError: not one request was answered.
    """
    said = json.loads(line)
    if not said["requests"]:
        raise RuntimeError(f"no request was answered: {line.strip()}")
    return Load(said["requests"], said["duration_us"] / 1e6, said["p50_us"], said["p99_us"])
