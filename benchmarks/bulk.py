"""What do bytes cost on one connection, there and back?

Flow: a client in Python → A (plaintext in, mutual TLS out) → B → an application in Python
that takes or gives zeros in blocks of 1 MiB; one direction at a time, timed until the last
byte has arrived.  It judges by the CPU time of A and B together per GB (10⁹ bytes).

Not measured: several connections at once, both directions at once, a network's delay and
loss, disks.  A direct connection shows what the two ends in Python can do.
"""

from __future__ import annotations

import socket

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import ENVOY, GHOSTUNNEL, NONE, UPROXY, Kind, Running, pair
from benchmarks.harness.streams import Warehouse, transfer

_STEP = 64 << 20
_WARM = 16 << 20
_DIRECTIONS = {"up": b"U", "down": b"D"}


def measure(stage: Stage, kind: Kind) -> Figures:
    """Both directions, one after the other, on one connection."""
    figures: dict[str, float] = {}
    with (
        Warehouse(stage.folder) as warehouse,
        pair(kind, stage.folder, stage.files, warehouse.port) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=60.0) as sock,
    ):
        for name, direction in _DIRECTIONS.items():
            transfer(sock, direction, _WARM)
            rate, cost = _move(sock, direction, running, stage.seconds)
            figures[name] = rate
            if running.pids:
                figures[f"{name}_cpu"] = cost
    return figures


def _move(
    sock: socket.socket, direction: bytes, running: Running, seconds: float
) -> tuple[float, float]:
    """Gbit/s, and CPU seconds per GB."""
    took, size = 0.0, 0
    before = cpu_seconds(running.pids)
    while took < seconds:
        took += transfer(sock, direction, _STEP)
        size += _STEP
    cost = cpu_seconds(running.pids) - before
    return size * 8 / took / 1e9, cost / (size / 1e9)


BENCHMARK = Benchmark(
    name="bulk",
    title="Bytes on one connection",
    columns=(
        Column("up_cpu", "up: CPU s per GB, A + B", 2, ratio=True, summary="CPU s per GB, up"),
        Column("up", "up: Gbit/s", 2, ratio=True, summary="Gbit/s, up"),
        Column("down_cpu", "down: CPU s per GB, A + B", 2, ratio=True),
        Column("down", "down: Gbit/s", 2, ratio=True),
    ),
    kinds=(NONE, ENVOY, GHOSTUNNEL, UPROXY),
    measure=measure,
    chart="up_cpu",
    seconds=2,
)
