"""Where should the L7 proxy be?  Four places, with the same traffic.

Flow: eight callers on one node, eight services on another, each with an application of its own
(nginx, 1 KiB), four service accounts on each node; HTTP/1.1 requests, mutual TLS between the nodes.

- Envoy sidecars: caller → its Envoy → the service's Envoy → service
- one Envoy per node, with the keys of all its workloads: caller → Envoy → Envoy → service
- one Envoy per service account on each node: the same, with two workloads each
- uProxy, L7 on: caller → its uProxy → one of two shared Envoys → the service's uProxy → service
- uProxy, L7 off: caller → its uProxy → the service's uProxy → service

- uProxy, L7 off, each with every service of the mesh in its configuration (memory only)

Latency is that of one connection, less that of a connection straight to the service measured just
before; CPU time is that of all proxies, and of each hop's.  Memory is measured twice, with 10 and
with 1,000 services in the mesh, whose clusters and routes each Envoy has, as when nobody tells it
which it needs; a line through both is the model for 10,000, and two points can't tell whether it
is one.  Then every L7 proxy is replaced, one after the other, with SIGTERM (the shared ones are
marked `draining` first); the routes on the first caller's way are replaced by a file with a
mistake, and the L7 proxies that read it are started again; a Wasm module is put on the way of
requests to the first service, and crashes at one request, and loops for ever at another; the L7
proxy of the first service is killed; and a script that loops is put on the first caller's way to
the first service.

Not measured: a network between the nodes, which costs the third hop of L7 more than it does here;
the control plane; Envoys that are told of fewer services than there are; proofs of callers
(`benchmarks.proofs` has their cost).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures, Round, ratios, spread
from benchmarks.harness.markdown import TIMES
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import ENVOY, ProxyKind
from benchmarks.mesh import envoys, micro, world
from benchmarks.mesh.damage import damage
from benchmarks.mesh.http import Applications, Load, load
from benchmarks.mesh.workloads import APPLICATION, PER_NODE, SERVICES
from benchmarks.mesh.world import World, keys_of
from uproxy.lab.memory import private_dirty
from uproxy.lab.processes import Process

_SMALL, _LARGE, _MODELLED = 10, 1_000, 10_000
_BUSY = 16
_MIB = 1 << 20
_SETTLE_S = 1.0

_MAKE: dict[str, world.Make] = {
    "envoy": world.of_envoys(envoys.sidecars),
    "node": world.of_envoys(envoys.for_node),
    "account": world.of_envoys(envoys.for_accounts),
    "uproxy-l7": world.micro_and_shared,
    "uproxy": world.micro_alone,
    "uproxy-all": world.micro_that_knows_all,
}
_MEMORY_ONLY = "uproxy-all"


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure one place: first a large mesh, whose memory counts only, then a small one."""
    make = _MAKE[kind.key]
    with Applications(stage.folder, SERVICES):
        large = _memory_of_a_mesh(stage, make, _LARGE)
        folder = stage.folder / "small"
        folder.mkdir()
        with make(folder, stage.files, _SMALL) as running:
            if kind.key == _MEMORY_ONLY:
                _use(running, stage.folder)
                return _models(_memory(running), large)
            figures = _traffic(stage, running)
            small = _memory(running)
            keys = {"keys": max(keys_of(each) for each in running.proxies)}
            return {**figures, **keys, **_models(small, large), **damage(running)}


def _memory_of_a_mesh(stage: Stage, make: world.Make, services: int) -> tuple[float, float]:
    folder = stage.folder / "large"
    folder.mkdir()
    with make(folder, stage.files, services) as running:
        _use(running, folder)
        return _memory(running)


def _memory(running: World) -> tuple[float, float]:
    """Return the private memory of the proxies on a node, the mean of both, and of those on none;
    in MiB."""
    time.sleep(_SETTLE_S)
    here = [_mib(node) for node in running.nodes]
    return sum(here) / len(here), _mib(running.shared)


def _mib(processes: Sequence[Process]) -> float:
    return sum(private_dirty(each.pid) for each in processes) / _MIB


def _models(small: tuple[float, float], large: tuple[float, float]) -> Figures:
    def at(services: int, place: int) -> float:
        slope = (large[place] - small[place]) / (_LARGE - _SMALL)
        return small[place] + slope * (services - _SMALL)

    return {
        "node_small": small[0],
        "node_large": large[0],
        "growth": large[0] / small[0],
        "workload_large": large[0] / PER_NODE,
        "workload_modelled": at(_MODELLED, 0) / PER_NODE,
        "shared_large": large[1],
        "shared_modelled": at(_MODELLED, 1),
    }


def _use(running: World, folder: Path) -> None:
    for number, (host, port) in enumerate(running.doors):
        load(folder, host, port, f"s{number}", 4, 0.3)


def _traffic(stage: Stage, running: World) -> Figures:
    (host, port), direct = running.doors[0], SERVICES[0].host
    _use(running, stage.folder)

    def through(connections: int, to: str, at: int) -> Load:
        return load(stage.folder, to, at, "s0", connections, stage.seconds)

    straight, one = through(1, direct, APPLICATION), through(1, host, port)
    hops = (running.nodes[0], running.shared, running.nodes[1])
    before = [_spent(each) for each in hops]
    busy = through(_BUSY, host, port)
    # the warm-up of h2load, half a second, is in the CPU time and not among the requests
    counted = stage.seconds / (stage.seconds + 0.5) / busy.requests * 1e6
    caller, shared, called = (
        (_spent(hop) - then) * counted for hop, then in zip(hops, before, strict=True)
    )
    return {
        "p50": one.p50_us - straight.p50_us,
        "p99": one.p99_us - straight.p99_us,
        "cpu": caller + shared + called,
        "cpu_caller": caller,
        **({"cpu_shared": shared} if running.shared else {}),
        "cpu_called": called,
        "rate": busy.requests / stage.seconds,
        "connections": _connections_between_nodes(),
    }


def _spent(processes: Sequence[Process]) -> float:
    return cpu_seconds([each.pid for each in processes])


def _connections_between_nodes() -> int:
    """Return how many TCP connections are established to the ports where mutual TLS ends."""
    ports = {f"{port:04X}" for port in (envoys.IN, micro.HBONE)}
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    found = 0
    for line in lines:
        local, state = line.split()[1], line.split()[3]
        address, port = local.split(":")
        # the first byte of an address is its last in memory: 127.0.x.y is yyxx007F
        found += state == "01" and port in ports and address.endswith("007F")
    return found


def compared(rounds: Sequence[Round]) -> str:
    """Return in words where uProxy costs less than Envoy sidecars, and where more."""
    told = (
        ("uproxy-l7", "cpu", "with L7 on, CPU time per request"),
        ("uproxy-l7", "p50", "with L7 on, added latency (p50)"),
        ("uproxy", "cpu", "with L7 off, CPU time per request"),
        ("uproxy", "p50", "with L7 off, added latency (p50)"),
        ("uproxy", "node_small", f"memory of a node, {_SMALL} services in the mesh"),
        ("uproxy", "node_large", f"memory of a node, {_LARGE:,} services"),
    )
    found = [
        (f"{words} ({TIMES}{spread(values).median:.2f})", spread(values).median)
        for kind, column, words in told
        if (values := ratios(rounds, kind, ENVOY.key, column))
    ]
    more = [words for words, times in found if times > 1]
    less = [words for words, times in found if times <= 1]
    return (
        f"Beside Envoy sidecars uProxy costs more in: {'; '.join(more) or 'nothing measured here'}."
        f" It costs as much or less in: {'; '.join(less) or 'nothing measured here'}."
    )


_TRAFFIC = f"One connection (latency added), and {_BUSY} (CPU time of all proxies)"
_MEMORY = f"Private memory, {PER_NODE} workloads on a node"
_BLAST = f"Of {PER_NODE} callers, each with a service of its own"
_MODULE = f"{_BLAST}: a Wasm module of one service fails at one request"
BENCHMARK = Benchmark(
    name="architectures",
    title="Four places for the L7 proxy",
    columns=(
        Column("p50", "added p50 µs", 0, _TRAFFIC, ratio=True),
        Column("p99", "added p99 µs", 0, _TRAFFIC, ratio=True),
        Column("cpu", "CPU µs per request", 1, _TRAFFIC, ratio=True),
        Column("cpu_caller", "at the caller's node", 1, _TRAFFIC),
        Column("cpu_shared", "in the shared Envoy", 1, _TRAFFIC),
        Column("cpu_called", "at the service's node", 1, _TRAFFIC),
        Column("rate", "requests/s", 0, _TRAFFIC, ratio=True),
        Column("connections", "TLS connections, 8 services in use", 0, _TRAFFIC),
        Column("node_small", f"MiB per node, {_SMALL} services", 0, _MEMORY, ratio=True),
        Column("node_large", f"MiB per node, {_LARGE:,} services", 0, _MEMORY, ratio=True),
        Column("growth", "times as much", 2, _MEMORY),
        Column("workload_large", f"MiB per workload, {_LARGE:,}", 1, _MEMORY, ratio=True),
        Column("workload_modelled", f"MiB per workload, {_MODELLED:,} (model)", 1, _MEMORY,
               ratio=True),
        Column("shared_large", f"MiB of two shared Envoys, {_LARGE:,}", 0, _MEMORY),
        Column("shared_modelled", f"the same, {_MODELLED:,} (model)", 0, _MEMORY),
        Column("keys", "identities in one process", 0, _BLAST),
        Column("crash_down", "cut off by the crash of one L7 proxy", 0, _BLAST),
        Column("mistake_down", "cut off by a mistake in the file of routes", 0, _BLAST),
        Column("mistake_restarted", "the same, when its L7 proxies start again", 0, _BLAST),
        Column("loop_down", "cut off by a script that loops for one route", 0, _BLAST),
        Column("upgrade_hit", "with a failed request while all are replaced", 0, _BLAST),
        Column("upgrade_failed", "requests that failed meanwhile", 0, _BLAST),
        Column("module_crash_hit", "with a failed request when it crashes", 0, _MODULE),
        Column("module_crash_failed", "requests that failed", 0, _MODULE),
        Column("module_crash_s", "s until the last of them", 1, _MODULE),
        Column("module_crash_ended", "L7 proxies that ended", 0, _MODULE),
        Column("module_loop_hit", "with a failed request when it loops", 0, _MODULE),
        Column("module_loop_failed", "requests that failed", 0, _MODULE),
        Column("module_loop_s", "s until the last of them", 1, _MODULE),
        Column("module_loop_ended", "L7 proxies that ended", 0, _MODULE),
        Column("apart_loop_hit", "with a failed request when it loops apart", 0, _MODULE),
        Column("apart_loop_failed", "requests that failed", 0, _MODULE),
        Column("apart_loop_s", "s until the last of them", 1, _MODULE),
    ),
    kinds=(
        ProxyKind("envoy", "Envoy sidecars"),
        ProxyKind("node", "one Envoy per node"),
        ProxyKind("account", "one per service account per node"),
        ProxyKind("uproxy-l7", "uProxy + shared Envoy, L7 on"),
        ProxyKind("uproxy", "uProxy, L7 off"),
        ProxyKind("uproxy-all", "the same, told of every service"),
    ),
    measure=measure,
    charts=("p50", "cpu", "node_small", "node_large", "workload_modelled", "crash_down"),
    seconds=2,
    rounds=3,
    page="architectures.md",
    words=compared,
)  # fmt: skip
