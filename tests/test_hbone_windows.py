"""Flow control: nobody sends more than allowed, and what was consumed comes back in halves."""

from __future__ import annotations

import pytest

from uproxy.hbone.codes import ErrorCode, TunnelError
from uproxy.hbone.windows import HELD_WINDOWS, LEAST_INCREMENT, Inflow, Stream

WINDOW = 100_000


def test_a_tunnel_gives_back_what_arrives_in_halves_of_its_window() -> None:
    inflow = Inflow(WINDOW, left=WINDOW)
    inflow.arrived(WINDOW // 2 - 1)
    assert inflow.take_increment() == 0
    inflow.arrived(1)
    assert inflow.take_increment() == WINDOW // 2
    assert inflow.left == WINDOW
    assert inflow.held == WINDOW // 2


def test_more_than_is_left_is_an_error_of_the_tunnel() -> None:
    inflow = Inflow(WINDOW, left=10)
    inflow.arrived(10)
    with pytest.raises(TunnelError, match="1 bytes of DATA, but 0 are left") as caught:
        inflow.arrived(1)
    assert caught.value.code is ErrorCode.FLOW_CONTROL_ERROR


def test_a_tunnel_is_overfull_above_four_of_its_windows() -> None:
    assert not Inflow(1000, held=4000).is_overfull
    assert Inflow(1000, held=4001).is_overfull


def test_little_is_given_back_only_when_it_is_worth_a_frame() -> None:
    inflow = Inflow(WINDOW, left=0, returning=4095)
    assert inflow.take_increment() == 0
    inflow.returning += 1
    assert inflow.take_increment() == 4096


def fill(inflow: Inflow) -> int:
    """Send all that may be sent without anything being consumed; return how much it was."""
    sent = 0
    while inflow.left:
        count = min(inflow.left, 1000)
        inflow.arrived(count)
        inflow.take_increment()
        sent += count
    return sent


def test_a_tunnel_holds_a_few_windows_and_no_more() -> None:
    inflow = Inflow(WINDOW, left=WINDOW)
    sent = fill(inflow)
    assert sent == inflow.held
    assert HELD_WINDOWS * WINDOW < sent <= (HELD_WINDOWS + 1) * WINDOW + 1000
    assert inflow.is_overfull


def test_an_overfull_tunnel_gives_back_what_is_consumed() -> None:
    inflow = Inflow(WINDOW, left=WINDOW)
    fill(inflow)
    before = inflow.returning
    inflow.consumed(LEAST_INCREMENT)
    assert inflow.take_increment() == before + LEAST_INCREMENT
    assert inflow.left == before + LEAST_INCREMENT


def test_a_tunnel_that_was_overfull_has_its_whole_window_again() -> None:
    inflow = Inflow(WINDOW, left=WINDOW)
    fill(inflow)
    while inflow.held:
        inflow.consumed(min(inflow.held, 700))
        inflow.take_increment()
    assert inflow.left + inflow.returning == WINDOW
    assert not inflow.is_overfull
    assert inflow.owed == 0


def stream(*, held: int = 0, shortfall: int = 0) -> Stream:
    return Stream(1, outgoing=0, incoming=WINDOW, held=held, shortfall=shortfall)


def test_a_stream_gives_back_what_is_consumed_in_halves_of_its_window() -> None:
    subject = stream(held=WINDOW)
    subject.incoming = 0
    subject.consumed(WINDOW // 2 - 1)
    assert subject.take_increment(WINDOW) == 0
    subject.consumed(1)
    assert subject.take_increment(WINDOW) == WINDOW // 2
    assert (subject.incoming, subject.held) == (WINDOW // 2, WINDOW // 2)
    assert subject.returning == 0


def test_a_stream_on_which_nothing_more_comes_gives_nothing_back() -> None:
    subject = stream(held=WINDOW)
    subject.received_end = True
    subject.consumed(WINDOW)
    assert subject.take_increment(WINDOW) == 0


def test_a_shortfall_goes_with_the_bytes() -> None:
    subject = stream(held=10, shortfall=100)
    assert subject.consumed(5) == 50
    assert subject.consumed(5) == 50
    assert (subject.held, subject.shortfall) == (0, 0)
    assert subject.consumed(0) == 0


def test_a_new_stream_has_had_nothing() -> None:
    new = Stream(1, 2, 3)
    assert (new.id, new.outgoing, new.incoming) == (1, 2, 3)
    assert not any((new.held, new.returning, new.shortfall, new.answered, new.informational))
    assert not any((new.sent_end, new.received_end, new.was_reset))


def test_a_stream_is_over_when_both_have_ended_and_nothing_is_held() -> None:
    subject = stream()
    assert not subject.is_over
    subject.received_end = True
    assert not subject.is_over
    subject.sent_end, subject.received_end = True, False
    assert not subject.is_over
    subject.received_end = True
    assert subject.is_over
    subject.held = 1
    assert not subject.is_over
