"""What a benchmark is: a question, the columns that answer it, and how to measure one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.figures import Figures
from benchmarks.harness.proxies import Kind
from uproxy.lab.mesh import AgentWorld, FileWorld


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a row."""

    key: str
    title: str
    digits: int = 0
    """Behind the decimal point."""
    table: str = ""
    """The title of the table that it is in; columns of one table follow one another."""
    ratio: bool = False
    """Whether the table says how it relates to Envoy's of the same round."""
    summary: str = ""
    """Its title in the table of all benchmarks; empty: it isn't there."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a measurement has to work with."""

    folder: Path
    """For files of the processes."""
    files: FileWorld
    agent: AgentWorld | None
    """A running Workload API, for a benchmark that asked for one."""
    seconds: float
    """How long one measurement should look."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One question."""

    name: str
    title: str
    columns: tuple[Column, ...]
    kinds: tuple[Kind, ...]
    """The rows, in the order they are shown in, and measured in within a round."""
    measure: Callable[[Stage, Kind], Figures]
    """One row once: fresh processes on fresh ports.  A column may be absent."""
    charts: tuple[str, ...]
    """The columns that are drawn."""
    seconds: float
    rounds: int = 5
    workload_api: bool = False
    """Whether a development authority runs beside."""
