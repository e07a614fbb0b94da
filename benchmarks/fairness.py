"""How long do small requests wait beside bulk streams?

Flow: as in `requests`, over 1,000 connections, while two more connections, one for each thread
of a proxy, transfer bytes as fast as they can, one in each direction.  First 2,000 requests a
second, due at fixed times, distributed over all connections; then each connection sends the next
request as soon as it has an answer, so that there is mostly a queue of 1,000.  What counts is
p99; the streams' throughput is shown too, because a proxy could improve p99 by starving them.

Not measured: which thread a proxy gave which stream, more streams than threads, a network.
"""

from __future__ import annotations

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import asking, measured
from benchmarks.harness.proxies import COMPARED, ProxyKind
from benchmarks.harness.streams import DOWN, UP, connections, moving

_CONNECTIONS = 1_000
_RATE = 2_000
_WARM_S = 1


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure both loads through one pair while the streams run."""
    with (
        asking(stage, kind) as (running, clients),
        connections(running.port, 2) as (up, down),
    ):
        clients.open(_CONNECTIONS)
        clients.run(_CONNECTIONS, _WARM_S, rate=_RATE)
        quiet = clients.run(_CONNECTIONS, stage.seconds, rate=_RATE)
        with moving([up], UP) as up_moved, moving([down], DOWN) as down_moved:
            clients.run(_CONNECTIONS, _WARM_S, rate=_RATE)
            paced = measured(
                "paced", running, lambda: clients.run(_CONNECTIONS, stage.seconds, rate=_RATE)
            )
            full = measured("full", running, lambda: clients.run(_CONNECTIONS, stage.seconds))
    return {
        **paced,
        **full,
        "quiet_p99": quiet.p99_us,
        "bulk": up_moved[0].gbit_s + down_moved[0].gbit_s,
    }


_PACED = f"{_RATE:,} requests a second over {_CONNECTIONS:,} connections"
_FULL = f"{_CONNECTIONS:,} connections as fast as they go"
BENCHMARK = Benchmark(
    name="fairness",
    title="Small requests beside bulk streams",
    columns=(
        Column("quiet_p99", "p99 µs without the streams", 0, _PACED, ratio=True),
        Column("paced_p50", "p50 µs", 0, _PACED),
        Column("paced_p99", "p99 µs", 0, _PACED, ratio=True, summary="p99 µs beside bulk"),
        Column("full_p50", "p50 µs", 0, _FULL),
        Column("full_p99", "p99 µs", 0, _FULL, ratio=True),
        Column("full_rate", "requests/s", 0, _FULL, ratio=True),
        Column("bulk", "both streams, during both loads: Gbit/s", 2, _FULL, ratio=True),
    ),
    kinds=COMPARED,
    measure=measure,
    charts=("paced_p99", "full_p99", "bulk"),
    seconds=3,
)
