"""What does it cost to relay bytes, in each direction, on one connection and on four?

Flow: a Python client → A (plaintext in, mutual TLS out) → B → the application, which discards
or sends zeros; one direction at a time, in blocks of 1 MiB, counted when they have arrived.
What counts is the CPU time of A and B together for each GB (10⁹ bytes).

Not measured: both directions at once, a network's delay and loss, disks.  The row of a direct
connection shows the limit of client and application.
"""

from __future__ import annotations

from benchmarks.harness.application import Application
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import COMPARED, NONE, ProxyKind, pair
from benchmarks.harness.streams import DOWN, UP, connections, move

_STREAMS = (1, 4)
_WARM_S = 0.2


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure both directions, one after the other, with each number of streams."""
    figures: dict[str, float] = {}
    with (
        Application(stage.folder) as application,
        pair(kind, stage.folder, stage.files, application.port) as running,
    ):
        for count in _STREAMS:
            with connections(running.port, count) as streams:
                for name, direction in ("up", UP), ("down", DOWN):
                    move(streams, direction, _WARM_S)
                    before = cpu_seconds(running.pids)
                    moved = move(streams, direction, stage.seconds)
                    cpu = cpu_seconds(running.pids) - before
                    figures[f"{name}{count}"] = moved.gbit_s
                    if running.pids:
                        figures[f"{name}{count}_cpu"] = cpu / moved.gb
    return figures


def _columns(count: int) -> tuple[Column, ...]:
    table = "1 stream" if count == 1 else f"{count} streams"
    cost, rate = ("CPU s per GB, up", "Gbit/s, up") if count == 1 else ("", "")
    return (
        Column(f"up{count}_cpu", "up: CPU s per GB, A + B", 2, table, ratio=True, summary=cost),
        Column(f"up{count}", "up: Gbit/s", 2, table, ratio=True, summary=rate),
        Column(f"down{count}_cpu", "down: CPU s per GB, A + B", 2, table, ratio=True),
        Column(f"down{count}", "down: Gbit/s", 2, table, ratio=True),
    )


BENCHMARK = Benchmark(
    name="bulk",
    title="Bytes in bulk",
    columns=tuple(column for count in _STREAMS for column in _columns(count)),
    kinds=(NONE, *COMPARED),
    measure=measure,
    charts=("up1_cpu", "down1_cpu", "up1", "down1"),
    seconds=2,
)
