"""Budgets are spent, and refilled by time and by what they are in relation to."""

from __future__ import annotations

import pytest

from uproxy.hbone.budgets import BUCKETS, Budgets, Flood, FloodError
from uproxy.hbone.codes import ErrorCode


def spent(budgets: Budgets, flood: Flood, now: float) -> int:
    """How many are left, by taking all of them."""
    count = 0
    while spend(budgets, flood, now):
        count += 1
    with pytest.raises(FloodError) as caught:
        budgets.spend(flood, now)
    assert (caught.value.flood, caught.value.code) == (flood, ErrorCode.ENHANCE_YOUR_CALM)
    return count


def spend(budgets: Budgets, flood: Flood, now: float) -> bool:
    """Whether there was one to take."""
    try:
        budgets.spend(flood, now)
    except FloodError:
        return False
    return True


@pytest.mark.parametrize("flood", BUCKETS)
def test_a_burst_is_allowed_and_no_more(flood: Flood) -> None:
    budgets = Budgets(7.0)
    assert spent(budgets, flood, 7.0) == BUCKETS[flood].burst
    assert spent(budgets, flood, 7.0) == 0


@pytest.mark.parametrize("flood", BUCKETS)
def test_time_refills_a_budget_up_to_its_burst(flood: Flood) -> None:
    budgets, (burst, rate) = Budgets(0.0), BUCKETS[flood]
    spent(budgets, flood, 0.0)
    assert spent(budgets, flood, 2.0) == 2 * rate
    assert spent(budgets, flood, 1e9) == burst


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budgets = Budgets(100.0)
    spent(budgets, Flood.PINGS, 100.0)
    assert spent(budgets, Flood.PINGS, 0.0) == 0


def test_one_kind_does_not_pay_for_another() -> None:
    budgets = Budgets(0.0)
    spent(budgets, Flood.PINGS, 0.0)
    budgets.spend(Flood.SETTINGS, 0.0)


def test_what_is_given_lasts_longer_than_a_burst_but_not_without_bound() -> None:
    budgets, burst = Budgets(0.0), BUCKETS[Flood.WINDOW_UPDATES].burst
    budgets.give(Flood.WINDOW_UPDATES, 10)
    assert spent(budgets, Flood.WINDOW_UPDATES, 50.0) == burst + 10
    budgets.give(Flood.WINDOW_UPDATES, 1e9)
    assert spent(budgets, Flood.WINDOW_UPDATES, 50.0) == 10 * burst


@pytest.mark.parametrize("flood", Flood)
def test_every_flood_says_in_words_what_there_was_too_much_of(flood: Flood) -> None:
    assert str(FloodError(flood)).startswith("the peer sent too many ")
