"""What does a connection cost that carries one request?

Flow: as in `requests`, but wrk closes after each answer, so every request is a TCP connection
to A, a full mutual handshake between A and B, and a TCP connection to nginx.  It judges by
the CPU time of A and B together.

Not measured: resumption (off everywhere), pooled tunnels, a cold cache of verified
certificates beyond the first connection, RSA.
"""

from __future__ import annotations

from benchmarks.harness import wrk
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.origin import Origin
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import (
    ENVOY,
    ENVOY_PQ,
    GHOSTUNNEL,
    NONE,
    UPROXY,
    UPROXY_PQ,
    Kind,
    pair,
)

_WARM_S = 1


def measure(stage: Stage, kind: Kind) -> Figures:
    """A new connection for every request."""
    with (
        Origin(stage.folder, close=True) as origin,
        pair(kind, stage.folder, stage.files, origin.port) as running,
    ):
        wrk.run(running.port, _WARM_S, close=True)
        before = cpu_seconds(running.pids)
        load = wrk.run(running.port, stage.seconds, close=True)
        after = cpu_seconds(running.pids)
    figures = {"rate": load.rate, "p50": load.p50_us, "p99": load.p99_us}
    if running.pids:
        figures["cpu"] = (after - before) / load.requests * 1e6
    return figures


BENCHMARK = Benchmark(
    name="handshakes",
    title="A connection per request",
    columns=(
        Column("cpu", "CPU µs per connection, A + B", ratio=True, summary="CPU µs per handshake"),
        Column("rate", "connections/s", ratio=True, summary="handshakes/s"),
        Column("p50", "p50 µs"),
        Column("p99", "p99 µs"),
    ),
    kinds=(NONE, ENVOY, ENVOY_PQ, GHOSTUNNEL, UPROXY, UPROXY_PQ),
    measure=measure,
    chart="cpu",
    seconds=3,
)
