"""benchmarks.harness.figures: medians, extremes, and ratios within a round."""

from __future__ import annotations

import pytest

from benchmarks.harness.figures import Spread, ratios, series, spread

ROUNDS = [
    {"envoy": {"cpu": 10.0, "rate": 4.0}, "uproxy": {"cpu": 20.0}},
    {"envoy": {"cpu": 40.0, "rate": 0.0}, "uproxy": {"cpu": 60.0, "rate": 8.0}},
    {"envoy": {"cpu": 20.0, "rate": 2.0}, "uproxy": {"cpu": 20.0, "rate": 1.0}},
]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], Spread(3.0, 3.0, 3.0)),
        ([9.0, 1.0, 2.0], Spread(2.0, 1.0, 9.0)),
        ([1.0, 2.0, 4.0, 9.0], Spread(3.0, 1.0, 9.0)),
    ],
)
def test_a_spread_is_the_median_between_the_extremes(values: list[float], expected: Spread) -> None:
    assert spread(values) == expected


def test_nothing_measured_has_no_spread() -> None:
    with pytest.raises(ValueError, match="median"):
        spread([])


def test_a_series_leaves_out_rounds_without_the_figure() -> None:
    assert series(ROUNDS, "uproxy", "rate") == [8.0, 1.0]
    assert series(ROUNDS, "none", "cpu") == []


def test_a_ratio_is_taken_within_each_round() -> None:
    # of the medians, 20 and 20, it would be 1
    assert ratios(ROUNDS, "uproxy", "envoy", "cpu") == [2.0, 1.5, 1.0]


def test_a_ratio_needs_both_figures_and_a_base() -> None:
    assert ratios(ROUNDS, "uproxy", "envoy", "rate") == [0.5]
    assert ratios(ROUNDS, "uproxy", "none", "cpu") == []
