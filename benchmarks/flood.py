"""How long do others wait while a crowd shows bad certificates?

Flow: 64 connections ask 2,000 times a second through A and B, as in `requests`, while a crowd in
C shakes hands with B directly, 32 at a time: each with another leaf that B must not believe
(thousands, made before, of a CA with B's CA's name, expired, with two identities, of an unknown
domain), or all with a good one.  First each crowd as fast as it goes; then both at the same
rate, nine tenths of what the slower of them came to, in turns.  It judges by the p99 of the 64
beside bad certificates against the same beside as many good ones, which may not be much better:
the medians of all turns, because that of one moves by a factor of two.

Not measured: a crowd on another machine (here it takes its share of the processors in both
cases), one that gives up in the middle of its handshake, resumption (off everywhere).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.clients import Clients, Load
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import asking
from benchmarks.harness.proxies import COMPARED, TWIN, Kind
from tests.helpers.hostile_flood import Pace, bad_leaves, flooding, write_flood

_CONNECTIONS = 64
_RATE = 2_000
_SLOTS = 32
_LEAVES = 4_000
_TURNS = 3
_SHARE = 0.9
"""Of the slower crowd's rate, so that none of them is a queue."""
_WARM_S = 1
_FRONTEND = "/ns/web/sa/frontend"


def measure(stage: Stage, kind: Kind) -> Figures:
    """Nobody else, then each crowd in both ways, all with the same pair."""
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


def _asked(stage: Stage, clients: Clients) -> Load:
    clients.run(_CONNECTIONS, _WARM_S, rate=_RATE)
    return clients.run(_CONNECTIONS, stage.seconds, rate=_RATE)


def _beside(
    stage: Stage, clients: Clients, port: int, crowd: Path, rate: int = 0
) -> tuple[Load, float]:
    """What was asked beside a crowd, and how many handshakes a second that made."""
    # it comes a little longer than anybody looks
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
    kinds=(*COMPARED, TWIN),
    measure=measure,
    charts=("times", "paced_bad_p99", "paced_good_p99"),
    seconds=2,
)
