"""The client of requests and handshakes: wrk, one thread, a request of 64 bytes."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.origin import RESPONSE_BYTES

CONNECTIONS = 16
_SCRIPT = Path(__file__).with_suffix(".lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What one run came to."""

    requests: int
    """Answered."""
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(port: int, seconds: float, *, close: bool = False, pause_ms: int = 0) -> Load:
    """Ask an origin behind `port` for whole seconds, over 16 connections, or with `close` over
    a new one for each request; `pause_ms` is waited before each.

    Raises:
        RuntimeError: a request failed, or an answer wasn't the origin's.
    """
    argv = [
        "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{math.ceil(seconds)}s", "--timeout", "10s",
        "-s", str(_SCRIPT),
        f"http://127.0.0.1:{port}/", "--", "close" if close else "keep", str(pause_ms),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return read(done.stdout)


def read(output: str) -> Load:
    """What wrk and our script printed.

    Raises:
        RuntimeError: a request failed, or an answer wasn't the origin's.
    """
    said = json.loads(output.splitlines()[-1])
    requests, duration_us = said["requests"], said["duration_us"]
    if said["errors"] or not requests:
        raise RuntimeError(f"{said['errors']} errors in {requests} requests\n{output}")
    # an answer that was under way when time was up is counted in bytes only
    if not 0 <= said["bytes"] - requests * RESPONSE_BYTES <= CONNECTIONS * RESPONSE_BYTES:
        raise RuntimeError(f"{said['bytes']} bytes in {requests} answers\n{output}")
    return Load(requests, duration_us / 1e6, said["p50_us"], said["p99_us"])
