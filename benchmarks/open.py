"""Does a request cost more when thousands of other connections are open?

Flow: as in `requests`, over 16 connections as fast as possible: first when they are the only
ones, then through the same processes when 5,000 are open, all of which have carried a request
and of which the same 16 are busy.  What counts is the CPU time of A and B together, the second
divided by the first, of each kind of proxy by itself.

Not measured: connections that come and go, or that are busy now and then.
"""

from __future__ import annotations

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import asking, columns, measured
from benchmarks.harness.proxies import COMPARED, ProxyKind

_BUSY = 16
_OPEN = 5_000
_WARM_S = 1


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure few connections, then the same among many."""
    with asking(stage, kind) as (running, clients):
        found: dict[str, float] = {}
        for name, count in ("alone", _BUSY), ("among", _OPEN):
            clients.open(count)
            clients.run(_BUSY, _WARM_S)
            found |= measured(name, running, lambda: clients.run(_BUSY, stage.seconds))
    return {**found, "times": found["among_cpu"] / found["alone_cpu"]}


_ALONE, _AMONG = f"{_BUSY} busy of {_BUSY}", f"{_BUSY} busy of {_OPEN:,}"
BENCHMARK = Benchmark(
    name="open",
    title="Busy connections among many open ones",
    columns=(
        Column(
            "times",
            f"CPU per request, {_BUSY} of {_OPEN:,} to {_BUSY} of {_BUSY}",
            2,
            summary="CPU, 5,000 open to 16",
        ),
        *columns("alone", _ALONE),
        *columns("among", _AMONG),
    ),
    kinds=COMPARED,
    measure=measure,
    charts=("times", "among_cpu", "among_p99"),
    seconds=3,
)
