"""How long something took, counted in the buckets of a histogram."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from uproxy.metrics.client import number

Buckets = list[tuple[str, float]]
"""Upper bound as text, and how many took at most so long; the last is +Inf."""


class Durations:
    """One histogram's numbers."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: the buckets' upper ends in seconds, ascending."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Something took so long."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> Buckets:
        """As a scrape shows them: each includes those before it."""
        bounds = (*map(number, self._bounds), "+Inf")
        return list(zip(bounds, accumulate(self._counts), strict=True))
