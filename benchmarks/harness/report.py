"""Stores results as JSON, and renders them into docs/benchmarks.md, or a page of their own.

The pages are written by hand, except for what is between `<!-- figures: NAME -->` and
`<!-- end: NAME -->`.  Every row is shown, whoever it favors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Column
from benchmarks.harness.chart import chart
from benchmarks.harness.figures import Round, ratios, series, spread
from benchmarks.harness.goals import goals_table
from benchmarks.harness.markdown import NOTHING, TIMES, TO, interval, replace, rows
from benchmarks.harness.proxies import ENVOY, ProxyKind


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run of a benchmark."""

    name: str
    command: str
    """The command with which it was run."""
    machine: dict[str, str]
    """Name to value: hardware, versions, date, load average."""
    seconds: float
    """How long each measurement took."""
    observed: dict[str, str]
    """What was negotiated, by kind of proxy."""
    rounds: Sequence[Round]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Result:
        return cls(**json.loads(text))


def block(benchmark: Benchmark, result: Result) -> str:
    """Return a benchmark's part of the page in Markdown."""
    facts = "; ".join(f"{name} {value}" for name, value in result.machine.items())
    seen = "; ".join(
        f"{kind.title}: {result.observed[kind.key]}"
        for kind in benchmark.kinds
        if kind.key in result.observed
    )
    rounds = len(result.rounds)
    parts = (
        f"![{benchmark.title}](images/bench-{benchmark.name}.svg)",
        tables(benchmark, result.rounds),
        "" if benchmark.words is None else benchmark.words(result.rounds),
        f"Medians of {rounds} {'round' if rounds == 1 else 'rounds'} of "
        f"{result.seconds:g} s, (lowest{TO}highest), {TIMES} how many times {benchmark.of_base} "
        f"of the same round. Made by `{result.command}`; repeat: "
        f"`make bench ARGS={benchmark.name}`.",
        noise(benchmark, result.rounds),
        f"Machine: {facts}.",
        f"Seen on the wire between A and B: {seen}." if seen else "",
    )
    return "\n\n".join(part for part in parts if part)


def tables(benchmark: Benchmark, rounds: Sequence[Round]) -> str:
    """Return the tables of a benchmark in Markdown, one row for each kind of proxy."""
    parts = []
    for title, columns in groupby(benchmark.columns, lambda column: column.table):
        text = _table(benchmark, list(columns), rounds)
        parts.append(f"**{title}**\n\n{text}" if title else text)
    return "\n\n".join(parts)


def _table(benchmark: Benchmark, columns: Sequence[Column], rounds: Sequence[Round]) -> str:
    body = (
        [kind.title, *(_cell(kind, benchmark.base, each, rounds) for each in columns)]
        for kind in benchmark.kinds
    )
    return rows([["", *(each.title for each in columns)], _alignment(len(columns)), *body])


def _alignment(columns: int) -> list[str]:
    return ["---", *("--:" for _ in range(columns))]


def _cell(kind: ProxyKind, base: ProxyKind, column: Column, rounds: Sequence[Round]) -> str:
    values = series(rounds, kind.key, column.key)
    if not values:
        return NOTHING
    text = interval(spread(values), column.digits)
    against = ratios(rounds, kind.key, base.key, column.key)
    if not column.ratio or kind is base or not against:
        return text
    return f"{text}<br>{TIMES}{interval(spread(against), 2)}"


def noise(benchmark: Benchmark, rounds: Sequence[Round]) -> str:
    """Return how much the base's own figures vary, in words; empty after a single round."""
    parts = []
    for title, columns in groupby(benchmark.columns, lambda column: column.table):
        widths = [
            f"{column.title} {spread(values).width:.0%}"
            for column in columns
            if column.ratio and len(values := series(rounds, benchmark.base.key, column.key)) > 1
        ]
        if widths:
            parts.append(f"{f'{title}: ' if title else ''}{', '.join(widths)}")
    if not parts:
        return ""
    return f"Noise, how far {benchmark.of_base} own rounds lie apart: {'; '.join(parts)}."


def summary(answers: Sequence[tuple[Benchmark, Result]]) -> str:
    """Return a table in Markdown with the most important figures of all benchmarks, medians
    only."""
    columns = [
        (result.rounds, column)
        for benchmark, result in answers
        for column in benchmark.columns
        if column.summary
    ]
    # a kind has one row, under the name it has in the first benchmark
    titles: dict[str, ProxyKind] = {}
    for benchmark, _ in answers:
        if any(column.summary for column in benchmark.columns):
            for kind in benchmark.kinds:
                titles.setdefault(kind.key, kind)
    body = (
        [kind.title, *(_brief(kind, column, rounds) for rounds, column in columns)]
        for kind in titles.values()
    )
    return rows([["", *(column.summary for _, column in columns)], _alignment(len(columns)), *body])


def _brief(kind: ProxyKind, column: Column, rounds: Sequence[Round]) -> str:
    values = series(rounds, kind.key, column.key)
    if not values:
        return NOTHING
    text = f"{spread(values).median:,.{column.digits}f}"
    against = ratios(rounds, kind.key, ENVOY.key, column.key)
    if not column.ratio or kind is ENVOY or not against:
        return text
    return f"{text} {TIMES}{spread(against).median:.2f}"


def keep(benchmark: Benchmark, result: Result, root: Path) -> None:
    """Store a result under benchmarks/results, in place of the last one."""
    kept = _kept(benchmark, root)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(result.to_json())


def render(benchmark: Benchmark, root: Path) -> None:
    """Render the stored result of a benchmark into its page and draw its chart; do nothing if there
    is none.

    Raises:
        ValueError: the page has no place for it.
    """
    if not _kept(benchmark, root).exists():
        return
    result = Result.from_json(_kept(benchmark, root).read_text())
    page = root / "docs" / benchmark.page
    page.write_text(replace(page.read_text(), benchmark.name, block(benchmark, result)))
    picture = root / "docs" / "images" / f"bench-{benchmark.name}.svg"
    picture.write_text(chart(benchmark, result.rounds))


def render_summary(benchmarks: Sequence[Benchmark], root: Path) -> None:
    """Render the goals and the most important figures of all stored results into the page.

    Raises:
        ValueError: the page has no place for them.
    """
    answers = [
        (benchmark, Result.from_json(_kept(benchmark, root).read_text()))
        for benchmark in benchmarks
        if _kept(benchmark, root).exists()
    ]
    page = root / "docs" / "benchmarks.md"
    text = replace(page.read_text(), "all", summary(answers))
    goals = goals_table({benchmark.name: result.rounds for benchmark, result in answers})
    page.write_text(replace(text, "goals", goals))


def _kept(benchmark: Benchmark, root: Path) -> Path:
    return root / "benchmarks" / "results" / f"{benchmark.name}.json"
