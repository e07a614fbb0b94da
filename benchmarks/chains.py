"""What do large chains of strangers cost, and how long do known clients wait for a handshake?

Flow: clients make a new connection for each request through A and B, as in `handshakes`, two at a
time, all with leaves that B has seen.  Meanwhile a C program makes 60 handshakes a second with B
directly, with a valid certificate, or with chains that B refuses: the largest that are read at
all (ten certificates, all with the root's name and as many extensions as one may have, the leaf
with nearly as many names too), and those that are too large to be read (70 certificates, and one
of 59 KB).  What counts is the clients' median beside each, compared with that beside as many valid
handshakes.  Then each crowd comes alone, 200 a second, and what counts is the CPU time of B for
each of its handshakes, compared with that for a valid one, which B lets in and dials the
application for.

Not measured: clients on another machine, TLS 1.2, where OpenSSL reads ten certificates.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.clients import Clients
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import asking
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import COMPARED, PYTHON_ENGINE, ProxyKind
from uproxy.lab.software.flood import Pace, chains_beyond, flooding, largest_chain, write_flood

_FRONTEND = "/ns/web/sa/frontend"
_CROWD = 60
_ALONE = 200
_SLOTS = 32
_DIALLING = 2
_TURNS = 3
_WARM_S = 0.5
_KINDS = ("good", "largest", "beyond")


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure beside each crowd in turns, then each crowd alone."""
    ca = stage.files.ca
    crowds = {
        "good": write_flood(stage.folder / "good.pem", [ca.issue(_FRONTEND)]),
        "largest": write_flood(stage.folder / "largest.pem", [largest_chain(ca)]),
        "beyond": write_flood(stage.folder / "beyond.pem", chains_beyond(ca)),
    }
    with asking(stage, kind) as (running, clients):
        b = running.proxies[1]
        quiet = clients.dial(_DIALLING, stage.seconds).p50_us
        turns = [
            {name: _beside(stage, clients, b.port, crowds[name]) for name in _KINDS}
            for _ in range(_TURNS)
        ]
        cpu = {name: _alone(stage, b.pid, b.port, crowds[name]) for name in _KINDS}
    p50 = {name: median(turn[name] for turn in turns) for name in _KINDS}
    figures = {"quiet_p50": quiet}
    for name in _KINDS:
        figures[f"{name}_p50"], figures[f"{name}_cpu"] = p50[name], cpu[name]
    for name in _KINDS[1:]:
        figures[f"{name}_wait"] = p50[name] / p50["good"]
        figures[f"{name}_cost"] = cpu[name] / cpu["good"]
    return figures


def _beside(stage: Stage, clients: Clients, port: int, crowd: Path) -> float:
    """Return the clients' median in µs."""
    pace = Pace(_SLOTS, rate=_CROWD, seconds=_WARM_S + stage.seconds + 0.5)
    with flooding(port, crowd, pace):
        clients.dial(_DIALLING, _WARM_S)
        return clients.dial(_DIALLING, stage.seconds).p50_us


def _alone(stage: Stage, pid: int, port: int, crowd: Path) -> float:
    """Return the CPU time of B for each handshake, in µs."""
    before = cpu_seconds([pid])
    with flooding(port, crowd, Pace(_SLOTS, rate=_ALONE, seconds=stage.seconds)) as done:
        pass
    time.sleep(_WARM_S)  # the last ones are still logged
    return (cpu_seconds([pid]) - before) / done[0].begun * 1e6


_BESIDE = (
    f"A connection per request, {_DIALLING} at a time, and a crowd of {_CROWD} handshakes a second"
)
_COST = f"The crowd alone, {_ALONE} handshakes a second: CPU time of B for each"
BENCHMARK = Benchmark(
    name="chains",
    title="Known clients beside large chains of strangers",
    columns=(
        Column("quiet_p50", "p50 µs without the crowd", 0, _BESIDE),
        Column("good_p50", "p50 µs beside valid ones", 0, _BESIDE),
        Column("largest_p50", "p50 µs beside the largest chains", 0, _BESIDE),
        Column("beyond_p50", "p50 µs beside larger ones", 0, _BESIDE),
        Column("largest_wait", "largest against valid", 2, _BESIDE),
        Column("beyond_wait", "larger against valid", 2, _BESIDE),
        Column("good_cpu", "µs, valid", 0, _COST),
        Column("largest_cpu", "µs, largest chains", 0, _COST),
        Column("beyond_cpu", "µs, larger ones", 0, _COST),
        Column("largest_cost", "largest against valid", 2, _COST),
        Column("beyond_cost", "larger against valid", 2, _COST),
    ),
    kinds=(*COMPARED, PYTHON_ENGINE),
    measure=measure,
    charts=("largest_cost", "beyond_cost"),
    seconds=2,
)
