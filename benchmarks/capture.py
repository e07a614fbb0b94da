"""What does it cost that connections are captured, instead of made to a door?

Flow: clients in one network namespace → A there ⇢ tunnels (HBONE) ⇢ B in another one, behind a
cable (veth) → application.  With capture the clients connect to the application's own address,
and eBPF or nft brings them to A; without it they connect to a door of A.  Requests go over 16
connections that stay open; then each has a connection of its own.  CPU time is that of clients and
A: it is in the clients' connect() and send() that the kernel runs capture's programs, rules and
routes.  Before that, capture is attached and detached a few times with a stopwatch, which counts
the start of the command too.

Not measured: capturing inbound connections, other programs' rules and programs, a network.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.clients import Clients, LoadResult
from benchmarks.harness.compiled import compiled
from benchmarks.harness.figures import Figures
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import CIPHER, UPROXY, X25519, ProxyKind
from uproxy.lab.mesh import ORDERS, WEB, TunnelsIn, TunnelsOut
from uproxy.lab.pods import HOST, OUT, POD, Pod, existing, run
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

_DOOR = ProxyKind("door", "no capture: the door of A")
_EBPF = ProxyKind(UPROXY.key, "captured by eBPF")
_NFT = ProxyKind("nft", "captured by nft")
_MODES = {_EBPF.key: "ebpf", _NFT.key: "nft"}
_APPLICATION = 8080
_FEW = 16
_WARM_S = 1
_ATTACHED = 5
"""How many times capture is attached with a stopwatch."""
_KEYS: dict[str, Any] = {
    "engine": "native",
    "log": {"access": "none", "format": "json"},
    "tls": {"groups": [X25519], "ciphers": [CIPHER]},
}


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    """Measure one way to reach A."""
    mode = _MODES.get(kind.key)
    with (
        _bpffs(stage.folder / "bpffs") as bpffs,
        existing(Pod(stage.folder, bpffs, mode or "ebpf")) as world,
        _application(world),
        _tunnels(stage, world, is_captured=mode is not None) as a,
    ):
        figures = {} if mode is None else _attaching(world)
        clients = (
            Clients(a.port, inside=world.inside(world.pod, world.app))
            if mode is None
            else Clients(_APPLICATION, target=HOST, source=POD,
                         inside=world.inside(world.pod, world.app))
        )  # fmt: skip
        with clients:
            return {**figures, **_loads(stage, clients, a)}


def _attaching(world: Pod) -> Figures:
    """Attach and detach with a stopwatch; at the end it is attached."""
    attached, detached = [], []
    for _ in range(_ATTACHED):
        attached.append(_milliseconds(world.attach))
        detached.append(_milliseconds(world.detach))
    world.attach()
    return {"attach": statistics.median(attached), "detach": statistics.median(detached)}


def _milliseconds(action: Callable[[], object]) -> float:
    begun = time.monotonic()
    action()
    return (time.monotonic() - begun) * 1000


def _loads(stage: Stage, clients: Clients, a: Process) -> Figures:
    clients.open(_FEW)
    clients.run(_FEW, _WARM_S)
    few = _measured("few", clients, a, lambda: clients.run(_FEW, stage.seconds))
    clients.dial(_FEW, _WARM_S)
    short = _measured("short", clients, a, lambda: clients.dial(_FEW, stage.seconds))
    return {**few, **short}


def _measured(name: str, clients: Clients, a: Process, load: Callable[[], LoadResult]) -> Figures:
    pids = (clients.pid, a.pid)
    before = cpu_seconds(pids)
    done = load()
    cpu = cpu_seconds(pids) - before
    return {f"{name}_cpu": cpu / done.requests * 1e6, f"{name}_rate": done.rate}


@contextlib.contextmanager
def _tunnels(stage: Stage, world: Pod, *, is_captured: bool) -> Iterator[TunnelsOut]:
    """Run B on the host and A in the pod; yield A."""
    b = TunnelsIn(stage.folder, stage.files.ours(ORDERS), _APPLICATION, host=HOST, **_KEYS)
    keys = {**_KEYS, **(_captured(b.port) if is_captured else {})}
    a = TunnelsOut(
        stage.folder, stage.files.ours(WEB), f"{HOST}:{_APPLICATION}", end=b.port, **keys
    )
    b.argv = world.inside(world.host, world.cgroup / "..", *b.argv)
    a.argv = world.inside(world.pod, world.proxy_cgroup, *a.argv)
    with b, a:
        b.wait_ready(lambda: _listens(world.host, b.port))
        a.wait_ready(lambda: _listens(world.pod, OUT if is_captured else a.port))
        yield a


def _captured(end: int) -> dict[str, Any]:
    """Return what A is told instead of a door with a destination."""
    peer = {
        "match": {"addresses": [HOST], "ports": [_APPLICATION]},
        "transport": "hbone",
        "hbone_port": end,
        "identities": [ORDERS],
    }
    return {
        "outbound": [{"listen": f"127.0.0.1:{OUT}", "captured": True}],
        "destinations": {"peer": peer},
    }


@contextlib.contextmanager
def _application(world: Pod) -> Iterator[None]:
    argv = world.inside(world.host, world.cgroup / "..", compiled("application"), str(_APPLICATION))
    with Process(argv, world.folder / "application.log"):
        wait_until(lambda: _listens(world.host, _APPLICATION), "the application to listen")
        yield


def _listens(namespace: str, port: int) -> bool:
    return bool(run("ip", "netns", "exec", namespace, "ss", "-Hltn", f"sport = :{port}"))


@contextlib.contextmanager
def _bpffs(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _columns(name: str, table: str, what: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_cpu", f"CPU µs per {what}, clients + A", 1, table, ratio=True),
        Column(f"{name}_rate", f"{what}s/s", 0, table, ratio=True),
    )


_COMMAND = "the command itself"
BENCHMARK = Benchmark(
    name="capture",
    title="Capture",
    columns=(
        *_columns("few", f"requests over {_FEW} open connections", "request"),
        *_columns("short", f"a connection per request, {_FEW} at a time", "connection"),
        Column("attach", "attach: ms", 0, _COMMAND),
        Column("detach", "detach: ms", 0, _COMMAND),
    ),
    kinds=(_DOOR, _EBPF, _NFT),
    measure=measure,
    charts=("few_cpu", "short_cpu", "attach"),
    seconds=3,
    base=_DOOR,
    of_base="the door's",
)
