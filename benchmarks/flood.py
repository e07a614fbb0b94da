"""How long do other clients wait while many clients present invalid certificates?

Flow: 64 connections send 2,000 requests a second through A and B, as in `requests`, while a C
program does handshakes with B directly, 32 at a time.  Each handshake has another invalid leaf
(thousands, made beforehand, of a CA with the name of B's CA, expired, with two identities, of
an unknown domain), or all have the same valid one.  First invalid and valid ones are each sent
as fast as possible; then both at the same rate, nine tenths of the slower one, in turns.  What
counts is the p99 of the 64 connections beside invalid certificates, compared with p99 beside as
many valid ones: medians of all turns, because single ones vary by a factor of two.

Not measured: clients on another machine (here they use the same processors, in both cases),
clients that leave during the handshake, resumption (off everywhere).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.clients import Clients, LoadResult
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import asking
from benchmarks.harness.proxies import COMPARED, PYTHON_ENGINE, ProxyKind
from uproxy.lab.software.flood import Pace, bad_leaves, flooding, write_flood

_CONNECTIONS = 64
_RATE = 2_000
_SLOTS = 32
_LEAVES = 4_000
_TURNS = 3
_SHARE = 0.9
"""The paced rate as a share of the slower full rate, so that neither builds a queue."""
_WARM_S = 1
_FRONTEND = "/ns/web/sa/frontend"


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure without other clients, then beside invalid and valid ones, all with the same
    pair."""
    ca = stage.files.ca
    bad = write_flood(stage.folder / "bad.pem", (leaf for _, leaf in bad_leaves(ca, _LEAVES)))
    good = write_flood(stage.folder / "good.pem", [ca.issue(_FRONTEND)])
    with asking(stage, kind) as (running, clients):
        beside = partial(_beside, stage, clients, running.proxies[1].port)
        clients.open(_CONNECTIONS)
        quiet = _asked(stage, clients)
        full_bad, bad_rate = beside(bad)
        full_good, good_rate = beside(good)
        same = round(_SHARE * min(bad_rate, good_rate))
        turns = [(beside(bad, same), beside(good, same)) for _ in range(_TURNS)]
    paced_bad = median(load.p99_us for (load, _), _ in turns)
    paced_good = median(load.p99_us for _, (load, _) in turns)
    return {
        "quiet_p99": quiet.p99_us,
        "full_bad_rate": bad_rate,
        "full_bad_p99": full_bad.p99_us,
        "full_good_rate": good_rate,
        "full_good_p99": full_good.p99_us,
        "paced_rate": same,
        "paced_bad_p99": paced_bad,
        "paced_good_p99": paced_good,
        "times": paced_bad / paced_good,
    }


def _asked(stage: Stage, clients: Clients) -> LoadResult:
    clients.run(_CONNECTIONS, _WARM_S, rate=_RATE)
    return clients.run(_CONNECTIONS, stage.seconds, rate=_RATE)


def _beside(
    stage: Stage, clients: Clients, port: int, crowd: Path, rate: int = 0
) -> tuple[LoadResult, float]:
    """Measure beside a flood of handshakes; return the load and the handshakes per second."""

    # the flood lasts a little longer than the measurement
    pace = Pace(_SLOTS, rate=rate, seconds=_WARM_S + stage.seconds + 0.5)
    with flooding(port, crowd, pace) as done:
        load = _asked(stage, clients)
    return load, done[0].shaken / done[0].seconds


_FULL = (
    f"{_RATE:,} requests a second over {_CONNECTIONS} connections, and a crowd as fast as it goes"
)
_PACED = f"The same, and a crowd at a rate that both kinds can have, {_TURNS} turns each"
BENCHMARK = Benchmark(
    name="flood",
    title="Small requests beside bad certificates",
    columns=(
        Column("quiet_p99", "p99 µs without the crowd", 0, _FULL),
        Column("full_bad_rate", "bad handshakes/s", 0, _FULL),
        Column("full_bad_p99", "p99 µs beside them", 0, _FULL),
        Column("full_good_rate", "good handshakes/s", 0, _FULL),
        Column("full_good_p99", "p99 µs beside them", 0, _FULL),
        Column("paced_rate", "handshakes/s", 0, _PACED),
        Column("paced_bad_p99", "p99 µs beside bad ones", 0, _PACED),
        Column("paced_good_p99", "p99 µs beside good ones", 0, _PACED),
        Column("times", "bad against good", 2, _PACED),
    ),
    kinds=(*COMPARED, PYTHON_ENGINE),
    measure=measure,
    charts=("times", "paced_bad_p99", "paced_good_p99"),
    seconds=2,
)
