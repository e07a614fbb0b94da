"""The rates of the last quarter of an hour."""

from __future__ import annotations

import sys

from uproxy.metrics.history import KEPT, STEP_S, History, Totals


def test_before_the_first_step_there_is_nothing() -> None:
    assert History(0.0).rates() == ((), (), (), ())


def test_a_rate_is_what_happened_in_a_step_by_its_real_length() -> None:
    history = History(100.0)
    history.take(Totals(30, 3, 3000, 60), 115.0)
    history.take(Totals(90, 3, 3000, 120), 145.0)  # the loop was late
    assert history.rates() == ((2.0, 2.0), (0.2, 0.0), (200.0, 0.0), (4.0, 2.0))


def test_rates_are_told_to_a_thousandth() -> None:
    history = History(0.0)
    history.take(Totals(2, 0, 0, 0), 3.0)
    history.take(Totals(2, 1, 0, 0), 3.5)
    assert history.rates()[:2] == ((0.667, 0.0), (0.0, 2.0))


def test_two_looks_at_the_same_time_are_one() -> None:
    history = History(0.0)
    history.take(Totals(15), 15.0)
    history.take(Totals(99), 15.0)
    assert history.rates()[0] == (1.0,)


def test_a_quarter_of_an_hour_is_kept_and_no_more() -> None:
    history = History(0.0)
    for step in range(1, 3 * KEPT):
        history.take(Totals(step * step, 0, step << 40, step << 50), step * STEP_S)
    opened, *_ = history.rates()
    assert len(opened) * STEP_S == 15 * 60
    assert opened[-1] == round((2 * (3 * KEPT - 1) - 1) / STEP_S, 3)


def test_it_takes_a_few_kib() -> None:
    history = History(0.0)
    for step in range(1, 2 * KEPT):
        history.take(Totals(step * 7, step * 3, step << 40, step << 50), step * STEP_S)
    steps = history._steps
    held = sum(sys.getsizeof(step) + sum(map(sys.getsizeof, step)) for step in steps)
    assert held + sys.getsizeof(steps) < 16 * 1024
