"""Durations, counted in the buckets of a histogram."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from uproxy.lean.prometheus import number

Buckets = list[tuple[str, float]]
"""(upper bound in seconds as text, how many durations were at most that); the last is +Inf."""


class Durations:
    """The counts of one histogram."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: the upper bounds of the buckets in seconds, ascending."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> Buckets:
        """Return the cumulative counts, as a scrape shows them."""
        bounds = (*map(number, self._bounds), "+Inf")
        return list(zip(bounds, accumulate(self._counts), strict=True))
