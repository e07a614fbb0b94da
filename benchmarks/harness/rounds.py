"""Repeats a benchmark: each kind of proxy once, one after the other, then in reverse order.

So the machine's other load affects all of them, a ratio compares neighbors, and none always
follows the same other one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.machine import describe
from benchmarks.harness.observe import observe
from benchmarks.harness.report import Result
from uproxy.lab.authorities import DevAuthority
from uproxy.lab.mesh import AgentWorld, FileWorld


def run(benchmark: Benchmark, command: str) -> Result:
    """Check what is negotiated, then measure; `command` is stored with the result.

    Raises:
        UnfairError: the proxies don't do the same.
    """
    machine = describe()
    with _stage(benchmark) as stage:
        observed = {
            kind.key: observe(kind, stage.folder, stage.files)
            for kind in benchmark.kinds
            if kind.inbound is not None
        }
        rounds = [_round(benchmark, stage, number) for number in range(1, benchmark.rounds + 1)]
    return Result(
        name=benchmark.name,
        command=command,
        machine=machine,
        seconds=benchmark.seconds,
        observed=observed,
        rounds=rounds,
    )


def _round(benchmark: Benchmark, stage: Stage, number: int) -> dict[str, Figures]:
    """Measure each kind of proxy once, in odd rounds in order, in even ones in reverse."""
    figures: dict[str, Figures] = {}
    for kind in benchmark.kinds if number % 2 else reversed(benchmark.kinds):
        with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
            own = dataclasses.replace(stage, folder=Path(folder))
            try:
                figures[kind.key] = benchmark.measure(own, kind)
            except Exception as error:
                error.add_note(f"{benchmark.name}, round {number}, {kind.title}")
                raise
        values = ", ".join(f"{key} {value:.4g}" for key, value in figures[kind.key].items())
        print(f"  {benchmark.name} {number}/{benchmark.rounds} {kind.key}: {values}", flush=True)
    return figures


@contextlib.contextmanager
def _stage(benchmark: Benchmark) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder, agent = Path(name), None
        if benchmark.workload_api:
            authority = stack.enter_context(DevAuthority(folder, AgentWorld.domains()))
            agent = AgentWorld(folder, authority)
        yield Stage(folder, FileWorld(folder), agent, benchmark.seconds)
