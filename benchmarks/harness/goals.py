"""The goals for uProxy's figures, and which of them are met.

A goal is a factor of Envoy's figure in the same round, or an absolute figure; the median over
the rounds decides.  `must` has to be reached, `aim` should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.figures import Round, Spread, ratios, series, spread
from benchmarks.harness.markdown import NOTHING, TIMES, interval, rows
from benchmarks.harness.proxies import ENVOY, UPROXY


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for one figure."""

    title: str
    benchmark: str
    column: str
    must: float
    aim: float | None = None
    more_is_better: bool = False
    unit: str = TIMES
    """The unit of an absolute figure; TIMES: the figure is a factor of Envoy's."""

    def is_met(self, value: float, bound: float) -> bool:
        """Return whether a figure is on the right side of `bound`."""
        return value >= bound if self.more_is_better else value <= bound

    def found(self, rounds: Sequence[Round]) -> Spread | None:
        """Return what was measured; None: nothing."""
        if self.unit == TIMES:
            values = ratios(rounds, UPROXY.key, ENVOY.key, self.column)
        else:
            values = series(rounds, UPROXY.key, self.column)
        return spread(values) if values else None


def _cost(title: str, benchmark: str, *columns: tuple[str, str], must: float, aim: float
          ) -> tuple[Goal, ...]:  # fmt: skip
    return tuple(Goal(f"{title}, {name}", benchmark, key, must, aim) for name, key in columns)


def _rate(title: str, benchmark: str, *columns: tuple[str, str], must: float, aim: float
          ) -> tuple[Goal, ...]:  # fmt: skip
    return tuple(Goal(f"{title}, {name}", benchmark, key, must, aim, True) for name, key in columns)


_FEW, _MANY, _PACED = "16 connections", "64 connections", "2,000 a second"
_FLOWS = (
    ("up, 1 stream", "up1"),
    ("down, 1 stream", "down1"),
    ("up, 4", "up4"),
    ("down, 4", "down4"),
)

GOALS = (
    *_cost("CPU per request", "requests", (_FEW, "few_cpu"), (_MANY, "many_cpu"),
           must=0.85, aim=0.65),
    *_rate("requests/s", "requests", (_FEW, "few_rate"), (_MANY, "many_rate"), must=1.10, aim=1.3),
    *_cost("p99", "requests", (_FEW, "few_p99"), (_MANY, "many_p99"), (_PACED, "paced_p99"),
           must=1.0, aim=0.7),
    Goal("CPU per full handshake", "handshakes", "full_cpu", 1.10, 0.9),
    Goal("full handshakes/s", "handshakes", "full_rate", 0.93, 1.1, True),
    *_cost("CPU per GB", "bulk", *((name, f"{key}_cpu") for name, key in _FLOWS),
           must=1.0, aim=0.8),
    *_rate("Gbit/s", "bulk", *_FLOWS, must=1.05, aim=1.3),
    *_cost("memory per idle connection", "memory", ("A", "connection_a"), ("B", "connection_b"),
           must=1.05, aim=0.8),
    Goal("idle RSS", "memory", "rss", 0.65, 0.5),
    Goal("private memory, Workload API stream open, metrics scraped", "memory", "private",
         22, 17, unit=" MiB"),
    Goal("exec to ready", "memory", "ready", 500, 250, unit=" ms"),
    Goal("CPU per request, 16 busy of 5,000 open, by itself with 16 of 16", "open", "times",
         1.15, 1.05, unit=" times"),
    Goal("p99 of 1,000 connections beside bulk, 2,000 requests/s", "fairness", "paced_p99", 1.0),
    Goal("p99 of 1,000 connections beside bulk, as fast as they go", "fairness", "full_p99", 1.0),
    Goal("p99 beside bad certificates, by itself beside as many good ones", "flood", "times",
         1.5, unit=" times"),
    Goal("known clients' median beside the largest chains of strangers, by itself beside as many "
         "good ones", "chains", "largest_wait", 1.5, unit=" times"),
    Goal("the same beside larger chains", "chains", "beyond_wait", 1.5, unit=" times"),
    Goal("CPU to refuse the largest chains, by itself for a good handshake", "chains",
         "largest_cost", 2.0, unit=" times"),
    Goal("CPU to refuse larger chains, by itself for a good handshake", "chains", "beyond_cost",
         2.0, unit=" times"),
    *_cost("tunnels: CPU per request", "tunnels", (_FEW, "few_cpu"), (_MANY, "many_cpu"),
           must=0.9, aim=0.7),
    *_rate("tunnels: requests/s", "tunnels", (_FEW, "few_rate"), (_MANY, "many_rate"),
           must=1.1, aim=1.3),
    Goal("tunnels: CPU per short connection", "tunnels", "short_cpu", 1.0, 0.75),
    Goal("tunnels: short connections/s", "tunnels", "short_rate", 1.0, 1.3, True),
    *_cost("tunnels: CPU per GB", "tunnels", *((name, f"{key}_cpu") for name, key in _FLOWS),
           must=1.0, aim=0.85),
    *_rate("tunnels: Gbit/s", "tunnels", *_FLOWS, must=1.0, aim=1.2),
    Goal("tunnels: p99 of 1,000 connections beside bulk", "tunnels", "beside_p99", 1.0, 0.5),
    Goal("tunnels: the same, as many streams in a tunnel as in Envoy's", "tunnels", "full_p99",
         1.0, 0.5),
    Goal("tunnels: memory per idle stream, A", "tunnels", "connection_a", 6, 3, unit=" KiB"),
    Goal("tunnels: memory per idle stream, B", "tunnels", "connection_b", 6, 3, unit=" KiB"),
    Goal("attaching a capture, eBPF", "capture", "attach", 300, unit=" ms"),
    Goal("no L7 proxy in the path: added p50, by an Envoy sidecar pair's", "architectures", "p50",
         0.9),
    Goal("the same: memory with 1,000 services in the mesh, by itself with 10", "architectures",
         "growth", 1.05, unit=" times"),
    Goal("longest answer during a reload of 1,000 destinations and rules", "reload", "held", 50,
         unit=" ms"),
)  # fmt: skip


Results = Mapping[str, Sequence[Round]]
"""The rounds by benchmark."""


def goals_table(results: Results) -> str:
    """Return in Markdown how many goals are met, which aren't, and a table with one row for each
    goal."""
    found = [(goal, goal.found(results.get(goal.benchmark, ()))) for goal in GOALS]
    head = ["", "measured", "must", "", "aim", ""]
    body = (_row(goal, values) for goal, values in found)
    table = rows([head, ["---", "--:", "--:", "---", "--:", "---"], *body])
    return f"{_summary(found)}\n\n{table}"


def _summary(found: Sequence[tuple[Goal, Spread | None]]) -> str:
    """Return a paragraph that says what was met, and what must be met and isn't."""
    musts = [(goal, values.median) for goal, values in found if values is not None]
    missed = [goal.title for goal, value in musts if not goal.is_met(value, goal.must)]
    aims = [goal.is_met(value, goal.aim) for goal, value in musts if goal.aim is not None]
    said = f"**{len(musts) - len(missed)} of {len(musts)} goals are met**"
    if missed:
        said += f"; missed: {'; '.join(missed)}"
    return f"{said}. Aims beyond them that are reached: {sum(aims)} of {len(aims)}."


def _row(goal: Goal, found: Spread | None) -> list[str]:
    digits = 0 if goal.unit == " ms" else 2
    measured = NOTHING if found is None else _with_unit(goal, interval(found, digits))
    cells = [goal.title, measured]
    for bound, missed in ((goal.must, "**missed**"), (goal.aim, "not yet")):
        cells += (
            [NOTHING, ""]
            if bound is None
            else [_bound(goal, bound), _verdict(goal, found, bound, missed)]
        )
    return cells


def _bound(goal: Goal, bound: float) -> str:
    sign = "≥" if goal.more_is_better else "≤"
    return f"{sign} {_with_unit(goal, f'{bound:g}')}"


def _verdict(goal: Goal, found: Spread | None, bound: float, missed: str) -> str:
    if found is None:
        return "not measured"
    return "met" if goal.is_met(found.median, bound) else missed


def _with_unit(goal: Goal, figure: str) -> str:
    return f"{TIMES}{figure}" if goal.unit == TIMES else f"{figure}{goal.unit}"
