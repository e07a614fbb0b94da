"""Small requests through a pair: who asks and answers, and what a load took, under a name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from benchmarks.harness.application import Application
from benchmarks.harness.benchmark import Column, Stage
from benchmarks.harness.clients import Clients, Load
from benchmarks.harness.figures import Figures
from benchmarks.harness.processes import cpu_seconds
from benchmarks.harness.proxies import Kind, Running, pair


@contextlib.contextmanager
def asking(stage: Stage, kind: Kind) -> Iterator[tuple[Running, Clients]]:
    """A pair in front of an application, and its clients, without a connection yet."""
    with (
        Application(stage.folder) as application,
        pair(kind, stage.folder, stage.files, application.port) as running,
        Clients(running.port) as clients,
    ):
        yield running, clients


def measured(name: str, running: Running, load: Callable[[], Load]) -> Figures:
    """Do `load`, and say its rate, latencies, and (unless there is no proxy) the CPU time of
    A and B together: `NAME_rate` in 1/s, `NAME_p50` and `NAME_p99` and `NAME_cpu` in µs."""
    before = cpu_seconds(running.pids)
    done = load()
    cpu = cpu_seconds(running.pids) - before
    figures = {f"{name}_rate": done.rate, f"{name}_p50": done.p50_us, f"{name}_p99": done.p99_us}
    return figures | ({f"{name}_cpu": cpu / done.requests * 1e6} if running.pids else {})


def columns(
    name: str, table: str, *, summaries: tuple[str, str] = ("", ""), what: str = "request"
) -> tuple[Column, ...]:
    """The columns of those figures, in a table of their own; `summaries` are the titles of CPU
    and rate in the table of all benchmarks."""
    cpu, rate = summaries
    return (
        Column(f"{name}_cpu", f"CPU µs per {what}, A + B", 1, table, ratio=True, summary=cpu),
        Column(f"{name}_rate", f"{what}s/s", 0, table, ratio=True, summary=rate),
        Column(f"{name}_p50", "p50 µs", 0, table),
        Column(f"{name}_p99", "p99 µs", 0, table, ratio=True),
    )
