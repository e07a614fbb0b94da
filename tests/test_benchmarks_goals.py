"""benchmarks.harness.goals: which goals are met, by the medians of the rounds."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import NAMES, _find
from benchmarks.harness.figures import Spread
from benchmarks.harness.goals import GOALS, Goal, goals_table
from benchmarks.harness.markdown import TIMES

CHEAP = Goal("cost", "sample", "cpu", must=0.85, aim=0.65)
FAST = Goal("rate", "sample", "rate", must=1.10, aim=1.3, more_is_better=True)
SMALL = Goal("memory", "sample", "private", must=22, aim=17, unit=" MiB")
ROUNDS = [
    {"envoy": {"cpu": 10.0, "rate": 100.0}, "uproxy": {"cpu": 9.0, "rate": 120.0, "private": 18.0}},
    {"envoy": {"cpu": 20.0, "rate": 100.0}, "uproxy": {"cpu": 14.0, "rate": 90.0, "private": 20.0}},
    {"envoy": {"cpu": 10.0, "rate": 100.0}, "uproxy": {"cpu": 6.0, "rate": 140.0, "private": 30.0}},
]


def test_a_goal_is_a_factor_of_envoys_figure_in_the_same_round() -> None:
    assert CHEAP.found(ROUNDS) == Spread(0.7, 0.6, 0.9)
    assert FAST.found(ROUNDS) == Spread(1.2, 0.9, 1.4)


def test_a_goal_with_a_unit_is_a_figure_of_its_own() -> None:
    assert SMALL.found(ROUNDS) == Spread(20.0, 18.0, 30.0)


def test_nothing_is_found_where_nothing_was_measured() -> None:
    assert CHEAP.found([{"envoy": {"cpu": 1.0}}]) is None
    assert SMALL.found([]) is None


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (CHEAP, 0.85, True),
        (CHEAP, 0.86, False),
        (FAST, 1.10, True),
        (FAST, 1.09, False),
    ],
)
def test_a_bound_itself_is_still_met(goal: Goal, value: float, met: bool) -> None:
    assert goal.is_met(value, goal.must) is met


def test_the_table_says_what_was_measured_and_what_was_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_aim = Goal("waits", "other", "p99", must=1.0)
    monkeypatch.setattr("benchmarks.harness.goals.GOALS", (CHEAP, FAST, SMALL, without_aim))
    said, _, head, _, *body = goals_table({"sample": ROUNDS}).splitlines()
    assert said == "**3 of 3 goals are met**. Aims beyond them that are reached: 0 of 3."
    assert head == "|  | measured | must |  | aim |  |"
    assert body == [
        "| cost | ×0.70 (0.60–0.90) | ≤ ×0.85 | met | ≤ ×0.65 | not yet |",  # noqa: RUF001
        "| rate | ×1.20 (0.90–1.40) | ≥ ×1.1 | met | ≥ ×1.3 | not yet |",  # noqa: RUF001
        "| memory | 20.00 (18.00–30.00) MiB | ≤ 22 MiB | met | ≤ 17 MiB | not yet |",  # noqa: RUF001
        "| waits | – | ≤ ×1 | not measured | – |  |",  # noqa: RUF001
    ]


def test_what_must_be_met_and_is_not_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    dear = Goal("dear", "sample", "cpu", must=0.5, aim=0.4)
    near = Goal("near", "sample", "rate", must=1.0, aim=1.1, more_is_better=True)
    monkeypatch.setattr("benchmarks.harness.goals.GOALS", (dear, near))
    said, *_, last = goals_table({"sample": ROUNDS}).splitlines()
    assert (
        said == "**1 of 2 goals are met**; missed: dear. Aims beyond them that are reached: 1 of 2."
    )
    assert last.endswith("| ≥ ×1 | met | ≥ ×1.1 | met |")  # noqa: RUF001


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.title)
def test_every_goal_is_measured_by_a_benchmark(goal: Goal) -> None:
    assert goal.benchmark in NAMES
    benchmark = _find(goal.benchmark)
    assert goal.column in {column.key for column in benchmark.columns}
    measured = {"envoy", "uproxy"} if goal.unit == TIMES else {"uproxy"}
    assert measured <= {kind.key for kind in benchmark.kinds}
    if goal.aim is not None:
        assert goal.is_met(goal.aim, goal.must), "the aim is beyond what must be"
