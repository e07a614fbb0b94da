"""What does a connection cost that carries one request?

Flow: as in `requests`, but each request has a TCP connection to A, a full mutual handshake
between A and B, and a TCP connection to the application, which closes after its answer; 16 at
a time.  Latency is from before the client's connect to the last byte of the answer.  What
counts is the CPU time of A and B together.

Not measured: resumption (off everywhere), pooled tunnels, an empty cache of verified
certificates after the first connection, RSA.
"""

from __future__ import annotations

from benchmarks.harness.benchmark import Benchmark, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import asking, columns, measured
from benchmarks.harness.proxies import (
    COMPARED,
    ENVOY_PQ,
    NONE,
    PYTHON_ENGINE,
    UPROXY_LOGGING,
    UPROXY_PQ,
    ProxyKind,
)

_AT_ONCE = 16
_WARM_S = 1


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure with a new connection for each request."""
    with asking(stage, kind) as (running, clients):
        clients.dial(_AT_ONCE, _WARM_S)
        return measured("full", running, lambda: clients.dial(_AT_ONCE, stage.seconds))


BENCHMARK = Benchmark(
    name="handshakes",
    title="A connection per request",
    columns=columns(
        "full",
        f"{_AT_ONCE} connections at a time, a full handshake each",
        summaries=("CPU µs per handshake", "handshakes/s"),
        what="connection",
    ),
    kinds=(NONE, *COMPARED, UPROXY_LOGGING, PYTHON_ENGINE, ENVOY_PQ, UPROXY_PQ),
    measure=measure,
    charts=("full_cpu", "full_rate", "full_p99"),
    seconds=3,
)
