"""What does a request cost on connections that stay open?

Flow: wrk, 16 connections → A (plaintext in, mutual TLS out) → B → nginx; 64 bytes there,
1 KiB back.  Once as fast as it goes, once with a pause of 15 ms before each request, because
CPU per request falls with load.  It judges by the CPU time of A and B together: wrk and nginx
share the cores, so rates are compressed, and a proxy of no cost would still not show a
direct connection's.

Not measured: handshakes (none falls into the time), large messages, many clients, a network.
"""

from __future__ import annotations

from benchmarks.harness import wrk
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.origin import Origin
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import ENVOY, GHOSTUNNEL, NONE, UPROXY, Kind, pair

_WARM_S = 1
_PAUSE_MS = 15


def measure(stage: Stage, kind: Kind) -> Figures:
    """Both loads through one pair."""
    with (
        Origin(stage.folder) as origin,
        pair(kind, stage.folder, stage.files, origin.port) as running,
    ):
        wrk.run(running.port, _WARM_S)
        before = cpu_seconds(running.pids)
        full = wrk.run(running.port, stage.seconds)
        between = cpu_seconds(running.pids)
        paced = wrk.run(running.port, stage.seconds, pause_ms=_PAUSE_MS)
        after = cpu_seconds(running.pids)
    figures = {
        "rate": full.rate,
        "p50": full.p50_us,
        "p99": full.p99_us,
        "paced_rate": paced.rate,
        "paced_p50": paced.p50_us,
    }
    if running.pids:
        figures["cpu"] = (between - before) / full.requests * 1e6
        figures["paced_cpu"] = (after - between) / paced.requests * 1e6
    return figures


BENCHMARK = Benchmark(
    name="requests",
    title="Requests on open connections",
    columns=(
        Column("cpu", "CPU µs per request, A + B", 1, ratio=True, summary="CPU µs per request"),
        Column("rate", "requests/s", ratio=True, summary="requests/s"),
        Column("p50", "p50 µs"),
        Column("p99", "p99 µs"),
        Column("paced_cpu", "paced: CPU µs per request", 1, ratio=True),
        Column("paced_rate", "paced: requests/s"),
        Column("paced_p50", "paced: p50 µs"),
    ),
    kinds=(NONE, ENVOY, GHOSTUNNEL, UPROXY),
    measure=measure,
    chart="cpu",
    seconds=3,
)
