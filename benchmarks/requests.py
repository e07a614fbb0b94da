"""What does a request cost on connections that stay open?

Flow: clients → A (plaintext in, mutual TLS out) → B → application; 64 bytes there, 1 KiB
back.  Over 16 and over 64 connections, each of which sends the next request when it has an
answer; and 2,000 a second, due at fixed times, because CPU per request falls with load.  What
counts is the CPU time of A and B together: clients and application use the same cores, so
differences between rates are compressed, and even a proxy without any cost would not reach the
rate of a direct connection.

Not measured: handshakes (there are none during the measurement), large messages, many clients,
a network.
"""

from __future__ import annotations

from benchmarks.harness.benchmark import Benchmark, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import asking, columns, measured
from benchmarks.harness.proxies import COMPARED, NONE, PYTHON_ENGINE, ProxyKind

FEW, MANY = 16, 64
RATE = 2_000
"""Requests per second of the paced load."""
_WARM_S = 1


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure the three loads through one pair."""
    with asking(stage, kind) as (running, clients):
        clients.open(FEW)
        clients.run(FEW, _WARM_S)
        few = measured("few", running, lambda: clients.run(FEW, stage.seconds))
        paced = measured("paced", running, lambda: clients.run(FEW, stage.seconds, rate=RATE))
        clients.open(MANY)
        clients.run(MANY, _WARM_S)
        many = measured("many", running, lambda: clients.run(MANY, stage.seconds))
    return {**few, **many, **paced}


BENCHMARK = Benchmark(
    name="requests",
    title="Requests on open connections",
    columns=(
        *columns("few", f"{FEW} connections", summaries=("CPU µs per request", "requests/s")),
        *columns("many", f"{MANY} connections"),
        *columns("paced", f"{RATE:,} requests a second over {FEW} connections"),
    ),
    kinds=(NONE, *COMPARED, PYTHON_ENGINE),
    measure=measure,
    charts=("few_cpu", "few_rate", "few_p99", "many_cpu", "paced_cpu"),
    seconds=3,
)
