"""What does a connection cost that is a stream of a tunnel (HBONE)?

Flow: clients → A (plaintext in, a stream of a tunnel out) → B → application, as in `requests`,
`handshakes`, `bulk`, `fairness` and `memory`, with the tunnels of Envoy beside those of uProxy.
Requests go over open connections; then each has a connection of its own, which costs a stream and
no handshake; then bytes in bulk; then requests over 1,000 connections beside a bulk stream up and
one down, with the tunnels that a uProxy makes by default (100 streams each), and with as many
streams in each tunnel as Envoy has, so that most requests share their tunnel with bulk; then
5,000 connections that are idle.

Not measured: the handshakes of the tunnels, a network, Envoy's other limits of a tunnel than the
number of streams.
"""

from __future__ import annotations

from benchmarks import memory
from benchmarks.harness.application import Application
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.clients import Clients, LoadResult
from benchmarks.harness.figures import Figures
from benchmarks.harness.loads import columns, measured
from benchmarks.harness.processes import connected, cpu_seconds
from benchmarks.harness.proxies import FULL_TUNNELS, TUNNELS, ProxyKind, Running, pair
from benchmarks.harness.streams import DOWN, UP, connections, move, moving

_FEW, _MANY, _CROWD = 16, 64, 1_000
_RATE = 2_000
_WARM_S = 1
_FLOWS = (("up", UP), ("down", DOWN))
_COUNTS = (1, 4)


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure everything through one pair, one load after the other."""
    full = next(each for each in FULL_TUNNELS if each.key == kind.key)
    with Application(stage.folder) as application:
        with pair(full, stage.folder, stage.files, application.port) as running:
            crowded = _beside(stage, running, "full")
        with pair(kind, stage.folder, stage.files, application.port) as running:
            a, b = running.proxies
            return {
                **_requests(stage, running),
                **_bulk(stage, running),
                **_beside(stage, running, "beside"),
                **crowded,
                **memory.per_connection(a, b),
            }


def _requests(stage: Stage, running: Running) -> Figures:
    """Measure requests on open connections, and a connection for each."""
    figures: Figures = {}
    with Clients(running.port) as clients:
        for name, count in ("few", _FEW), ("many", _MANY):
            clients.open(count)
            clients.run(count, _WARM_S)

            def load(count: int = count) -> LoadResult:
                return clients.run(count, stage.seconds)

            figures = {**figures, **measured(name, running, load)}
        clients.dial(_FEW, _WARM_S)
        short = measured("short", running, lambda: clients.dial(_FEW, stage.seconds))
    return {**figures, **short}


def _bulk(stage: Stage, running: Running) -> Figures:
    """Measure both directions, one after the other, with each number of streams."""
    figures: dict[str, float] = {}
    for count in _COUNTS:
        with connections(running.port, count) as streams:
            for name, direction in _FLOWS:
                move(streams, direction, _WARM_S / 2)
                before = cpu_seconds(running.pids)
                moved = move(streams, direction, stage.seconds)
                cpu = cpu_seconds(running.pids) - before
                figures[f"{name}{count}"] = moved.gbit_s
                figures[f"{name}{count}_cpu"] = cpu / moved.gb
    return figures


def _beside(stage: Stage, running: Running, name: str) -> Figures:
    """Measure requests at fixed times while two streams move as much as they can."""
    with (
        Clients(running.port) as clients,
        connections(running.port, 2) as (up, down),
    ):
        clients.open(_CROWD)
        with moving([up], UP), moving([down], DOWN):
            clients.run(_CROWD, _WARM_S, rate=_RATE)
            paced = clients.run(_CROWD, stage.seconds, rate=_RATE)
        tunnels = connected(running.proxies[1].port)
    return {
        f"{name}_p50": paced.p50_us,
        f"{name}_p99": paced.p99_us,
        f"{name}_tunnels": tunnels,
    }


def _flow(count: int) -> tuple[Column, ...]:
    table = f"bulk, {count} stream{'s' if count > 1 else ''}"
    return tuple(
        column
        for name, _direction in _FLOWS
        for column in (
            Column(f"{name}{count}_cpu", f"{name}: CPU s per GB, A + B", 2, table, ratio=True),
            Column(f"{name}{count}", f"{name}: Gbit/s", 2, table, ratio=True),
        )
    )


_BESIDE = f"{_RATE:,} requests a second over {_CROWD:,} connections, beside a bulk stream each way"
_FULL = f"{_BESIDE}, as many streams in a tunnel as Envoy has"
_IDLE = "5,000 idle connections"
BENCHMARK = Benchmark(
    name="tunnels",
    title="Tunnels (HBONE)",
    columns=(
        *columns("few", f"{_FEW} connections", summaries=("CPU µs per request", "requests/s")),
        *columns("many", f"{_MANY} connections"),
        *columns("short", f"a connection per request, {_FEW} at a time", what="connection"),
        *(column for count in _COUNTS for column in _flow(count)),
        Column("beside_p50", "p50 µs", 0, _BESIDE),
        Column("beside_p99", "p99 µs", 0, _BESIDE, ratio=True),
        Column("beside_tunnels", "tunnels", 0, _BESIDE),
        Column("full_p50", "p50 µs", 0, _FULL),
        Column("full_p99", "p99 µs", 0, _FULL, ratio=True),
        Column("full_tunnels", "tunnels", 0, _FULL),
        Column("connection_a", "KiB per connection, A", 1, _IDLE, ratio=True),
        Column("connection_b", "KiB per connection, B", 1, _IDLE, ratio=True),
    ),
    kinds=TUNNELS,
    measure=measure,
    charts=("few_cpu", "short_cpu", "short_rate", "up1_cpu", "full_p99"),
    seconds=3,
)
