"""The arithmetic of repeated measurements: medians with their extremes, and ratios.

Pure.  A ratio is between two figures of the same round, because the machine's other load differs
less within a round than between rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Figures = Mapping[str, float]
"""One measurement: values by column."""
Round = Mapping[str, Figures]
"""One measurement of each kind of proxy, one after the other."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the extremes of repeated measurements."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Highest minus lowest, divided by the median (0 if that is 0)."""
        return (self.high - self.low) / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the extremes of at least one value."""
    return Spread(median(values), min(values), max(values))


def series(rounds: Sequence[Round], kind: str, column: str) -> list[float]:
    """Return the values of one kind in one column; rounds without it are left out."""
    return [one[kind][column] for one in rounds if column in one.get(kind, {})]


def ratios(rounds: Sequence[Round], kind: str, base: str, column: str) -> list[float]:
    """Return `kind` divided by `base`, round by round; rounds without both, or in which `base`
    is 0, are left out."""
    both = (
        (one[kind][column], one[base][column])
        for one in rounds
        if column in one.get(kind, {}) and column in one.get(base, {})
    )
    return [ours / theirs for ours, theirs in both if theirs]
