"""Small requests through a pair of proxies, and the figures of such a load."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from benchmarks.harness.application import Application
from benchmarks.harness.benchmark import Column, Stage
from benchmarks.harness.clients import Clients, LoadResult
from benchmarks.harness.figures import Figures
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import ProxyKind, Running, pair


@contextlib.contextmanager
def asking(stage: Stage, kind: ProxyKind) -> Iterator[tuple[Running, Clients]]:
    """Start an application, a pair of proxies and clients; the clients have no connection yet."""
    with (
        Application(stage.folder) as application,
        pair(kind, stage.folder, stage.files, application.port) as running,
        Clients(running.port) as clients,
    ):
        yield running, clients


def measured(name: str, running: Running, load: Callable[[], LoadResult]) -> Figures:
    """Run `load` and return its figures: `NAME_rate` in 1/s, `NAME_p50` and `NAME_p99` in µs,
    and, unless there is no proxy, `NAME_cpu`, the CPU time of A and B for each request in
    µs."""
    before = cpu_seconds(running.pids)
    done = load()
    cpu = cpu_seconds(running.pids) - before
    figures = {f"{name}_rate": done.rate, f"{name}_p50": done.p50_us, f"{name}_p99": done.p99_us}
    return figures | ({f"{name}_cpu": cpu / done.requests * 1e6} if running.pids else {})


def columns(
    name: str, table: str, *, summaries: tuple[str, str] = ("", ""), what: str = "request"
) -> tuple[Column, ...]:
    """Return the columns of those figures, in a table of their own; `summaries` are the titles
    of CPU time and rate in the summary."""
    cpu, rate = summaries
    return (
        Column(f"{name}_cpu", f"CPU µs per {what}, A + B", 1, table, ratio=True, summary=cpu),
        Column(f"{name}_rate", f"{what}s/s", 0, table, ratio=True, summary=rate),
        Column(f"{name}_p50", "p50 µs", 0, table),
        Column(f"{name}_p99", "p99 µs", 0, table, ratio=True),
    )
