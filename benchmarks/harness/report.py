"""Results as JSON, and the part of docs/benchmarks.md that is made from them.

The page is written by hand around `<!-- figures: NAME -->` and `<!-- end: NAME -->`; what
stands between is replaced.  Every row is shown, whoever it flatters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Column
from benchmarks.harness.chart import chart
from benchmarks.harness.figures import Round, Spread, ratios, series, spread
from benchmarks.harness.proxies import ENVOY, Kind

NOTHING = "\N{EN DASH}"
"""In a cell that nothing was measured for."""
_TO, _TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of a benchmark found."""

    name: str
    machine: dict[str, str]
    """Name to value: hardware, versions, date."""
    seconds: float
    """How long each measurement looked."""
    observed: dict[str, str]
    """What was negotiated, by kind of proxy."""
    rounds: Sequence[Round]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Result:
        return cls(**json.loads(text))


def block(benchmark: Benchmark, result: Result) -> str:
    """A benchmark's part of the page, in Markdown."""
    facts = "; ".join(f"{name} {value}" for name, value in result.machine.items())
    seen = "; ".join(
        f"{kind.title}: {result.observed[kind.key]}"
        for kind in benchmark.kinds
        if kind.key in result.observed
    )
    rounds = len(result.rounds)
    return "\n".join(
        (
            f"![{benchmark.title}](images/bench-{benchmark.name}.svg)",
            "",
            table(benchmark, result.rounds),
            "",
            f"Medians of {rounds} {'round' if rounds == 1 else 'rounds'} of "
            f"{result.seconds:g} s, (lowest{_TO}highest), {_TIMES} how many times Envoy's "
            f"of the same round. Repeat: `make bench ARGS={benchmark.name}`.",
            "",
            f"Machine: {facts}.",
            "",
            f"Seen on the wire between A and B: {seen}.",
        )
    )


def table(benchmark: Benchmark, rounds: Sequence[Round]) -> str:
    """One row per kind of proxy, in Markdown."""
    head = ["", *(column.title for column in benchmark.columns)]
    rows = [head, ["---", *("--:" for _ in benchmark.columns)]]
    for kind in benchmark.kinds:
        cells = (_cell(kind, column, rounds) for column in benchmark.columns)
        rows.append([kind.title, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(kind: Kind, column: Column, rounds: Sequence[Round]) -> str:
    values = series(rounds, kind.key, column.key)
    if not values:
        return NOTHING
    text = _spread(spread(values), column.digits)
    against = ratios(rounds, kind.key, ENVOY.key, column.key)
    if not column.ratio or kind is ENVOY or not against:
        return text
    return f"{text}<br>{_TIMES}{_spread(spread(against), 2)}"


def _spread(values: Spread, digits: int) -> str:
    median, low, high = (f"{each:,.{digits}f}" for each in (values.median, values.low, values.high))
    return f"{median} ({low}{_TO}{high})"


def summary(answers: Sequence[tuple[Benchmark, Result]]) -> str:
    """One table of what matters most in all benchmarks, medians only, in Markdown."""
    columns = [
        (result.rounds, column)
        for benchmark, result in answers
        for column in benchmark.columns
        if column.summary
    ]
    # a kind has one row, under the name it has in the first benchmark
    titles: dict[str, Kind] = {}
    for benchmark, _ in answers:
        for kind in benchmark.kinds:
            titles.setdefault(kind.key, kind)
    rows = [["", *(column.summary for _, column in columns)], ["---", *("--:" for _ in columns)]]
    rows += (
        [kind.title, *(_brief(kind, column, rounds) for rounds, column in columns)]
        for kind in titles.values()
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _brief(kind: Kind, column: Column, rounds: Sequence[Round]) -> str:
    values = series(rounds, kind.key, column.key)
    if not values:
        return NOTHING
    text = f"{spread(values).median:,.{column.digits}f}"
    against = ratios(rounds, kind.key, ENVOY.key, column.key)
    if not column.ratio or kind is ENVOY or not against:
        return text
    return f"{text} {_TIMES}{spread(against).median:.2f}"


def replace(page: str, name: str, text: str) -> str:
    """The page with the block of a benchmark replaced.

    Raises:
        ValueError: the page has no place for it.
    """
    pattern = re.compile(
        rf"(<!-- figures: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)", re.DOTALL
    )
    changed, count = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"{count} places for the figures of {name}, where one is needed")
    return changed


def publish(benchmark: Benchmark, result: Result, root: Path) -> None:
    """Keep a result under benchmarks/results and put it into docs/benchmarks.md.

    Raises:
        ValueError: the page has no place for it.
    """
    page = root / "docs" / "benchmarks.md"
    whole = replace(page.read_text(), benchmark.name, block(benchmark, result))
    _kept(benchmark, root).write_text(result.to_json())
    picture = root / "docs" / "images" / f"bench-{benchmark.name}.svg"
    picture.write_text(chart(benchmark, result.rounds))
    page.write_text(whole)


def publish_summary(benchmarks: Sequence[Benchmark], root: Path) -> None:
    """Put the newest kept results of all benchmarks into the page's first table.

    Raises:
        ValueError: the page has no place for it.
    """
    answers = [
        (benchmark, Result.from_json(_kept(benchmark, root).read_text()))
        for benchmark in benchmarks
        if _kept(benchmark, root).exists()
    ]
    page = root / "docs" / "benchmarks.md"
    page.write_text(replace(page.read_text(), "all", summary(answers)))


def _kept(benchmark: Benchmark, root: Path) -> Path:
    return root / "benchmarks" / "results" / f"{benchmark.name}.json"
