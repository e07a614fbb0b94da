"""How long do others wait while a crowd shows bad certificates?

Flow: 64 connections ask 2,000 times a second through A and B, as in `requests`, while a crowd in
C shakes hands with B directly, 32 at a time: first as fast as it goes, each with another leaf
that B must not believe (thousands, made before, of a CA with B's CA's name, expired, with two
identities, of an unknown domain); then with a good one, at the rate that the first came to.  It
judges by the p99 of the 64 in the first case against the second, because a bad certificate may
cost others no more than a good one does.

Not measured: a crowd on another machine (here it takes its share of the processors in both
cases), one that gives up in the middle of its handshake, resumption (off everywhere).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.application import Application
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.clients import Clients, Load
from benchmarks.harness.figures import Figures
from benchmarks.harness.proxies import ENVOY, GHOSTUNNEL, HAPROXY, TWIN, UPROXY, Kind, pair
from tests.helpers.hostile_flood import Pace, bad_leaves, flooding, write_flood

_CONNECTIONS = 64
_RATE = 2_000
_SLOTS = 32
_LEAVES = 4_000
_WARM_S = 1
_FRONTEND = "/ns/web/sa/frontend"


def measure(stage: Stage, kind: Kind) -> Figures:
    """Nobody else, the bad crowd, then as many good ones, all with the same pair."""
    ca = stage.files.ca
    bad = write_flood(stage.folder / "bad.pem", (leaf for _, leaf in bad_leaves(ca, _LEAVES)))
    good = write_flood(stage.folder / "good.pem", [ca.issue(_FRONTEND)])
    with (
        Application(stage.folder) as application,
        pair(kind, stage.folder, stage.files, application.port) as running,
        Clients(running.port) as clients,
    ):
        _, inbound = running.proxies

        def asked() -> Load:
            clients.run(_CONNECTIONS, _WARM_S, rate=_RATE)
            return clients.run(_CONNECTIONS, stage.seconds, rate=_RATE)

        def beside(crowd: Path, rate: int) -> tuple[Load, float]:
            return _beside(asked, inbound.port, crowd, Pace(_SLOTS, 0, rate, _length(stage)))

        clients.open(_CONNECTIONS)
        quiet = asked()
        refused, refusals = beside(bad, 0)
        served, services = beside(good, round(refusals))
    return {
        "quiet_p99": quiet.p99_us,
        "bad_rate": refusals,
        "bad_p50": refused.p50_us,
        "bad_p99": refused.p99_us,
        "good_rate": services,
        "good_p50": served.p50_us,
        "good_p99": served.p99_us,
        "times": refused.p99_us / served.p99_us,
    }


def _length(stage: Stage) -> float:
    """How long a crowd comes: a little longer than anybody looks."""
    return stage.seconds + _WARM_S + 0.5


def _beside(asked: Callable[[], Load], port: int, crowd: Path, pace: Pace) -> tuple[Load, float]:
    """A load beside a crowd, and how many handshakes a second that made."""
    with flooding(port, crowd, pace) as done:
        load = asked()
    return load, done[0].shaken / done[0].seconds


_TABLE = f"{_RATE:,} requests a second over {_CONNECTIONS} connections, and a crowd"
BENCHMARK = Benchmark(
    name="flood",
    title="Small requests beside bad certificates",
    columns=(
        Column("quiet_p99", "p99 µs without the crowd", 0, _TABLE),
        Column("bad_rate", "bad handshakes/s", 0, _TABLE),
        Column("bad_p50", "p50 µs", 0, _TABLE),
        Column("bad_p99", "p99 µs", 0, _TABLE),
        Column("good_rate", "good handshakes/s instead", 0, _TABLE),
        Column("good_p50", "p50 µs", 0, _TABLE),
        Column("good_p99", "p99 µs", 0, _TABLE),
        Column("times", "p99, bad against good", 2, _TABLE),
    ),
    kinds=(ENVOY, HAPROXY, GHOSTUNNEL, UPROXY, TWIN),
    measure=measure,
    charts=("times", "bad_p99", "good_p99"),
    seconds=3,
)
