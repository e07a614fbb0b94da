"""What a benchmark consists of: a question, columns with the answers, and how to measure a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.figures import Figures, Round
from benchmarks.harness.proxies import ENVOY, ProxyKind
from uproxy.lab.mesh import AgentWorld, FileWorld


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a row."""

    key: str
    title: str
    digits: int = 0
    """Digits after the decimal point."""
    table: str = ""
    """The title of its table; columns of one table must follow each other."""
    ratio: bool = False
    """Whether the table also shows the ratio to the base's figure of the same round."""
    summary: str = ""
    """The title in the summary of all benchmarks; empty: not in the summary."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a measurement is given."""

    folder: Path
    """For the files of the processes."""
    files: FileWorld
    agent: AgentWorld | None
    """A running Workload API; None unless the benchmark has `workload_api`."""
    seconds: float
    """How long one measurement takes."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One question."""

    name: str
    title: str
    columns: tuple[Column, ...]
    kinds: tuple[ProxyKind, ...]
    """The rows, in the order in which they are shown, and measured within a round."""
    measure: Callable[[Stage, ProxyKind], Figures]
    """Measures one row once, with new processes and ports.  A column may be absent."""
    charts: tuple[str, ...]
    """The columns that are drawn."""
    seconds: float
    rounds: int = 5
    workload_api: bool = False
    """Whether a development authority runs meanwhile."""
    base: ProxyKind = ENVOY
    """The row that ratios are to."""
    of_base: str = "Envoy's"
    """Whose figures those are, in words."""
    words: Callable[[Sequence[Round]], str] | None = None
    """Says in a sentence what the figures say; None: they stand for themselves."""
    page: str = "benchmarks.md"
    """The page of docs/ that has its figures."""
