"""Flow control: nobody sends more than allowed, and what was consumed comes back in halves."""

from __future__ import annotations

import pytest

from tests.helpers.hbone_sessions import client_of, data
from uproxy.hbone.codes import ErrorCode, TunnelError
from uproxy.hbone.session import Session
from uproxy.hbone.windows import (
    FAST_S,
    HELD_WINDOWS,
    LEAST_INCREMENT,
    MOST_EXTRA,
    MOST_EXTRA_OF_ALL,
    Growth,
    Inflow,
    Stream,
)
from uproxy.model import TunnelSettings

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
    inflow = Inflow(WINDOW, left=0, held=5 * WINDOW - 4095)
    assert inflow.returning == 4095
    assert inflow.take_increment() == 0
    inflow.consumed(1)
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
    return Stream(1, outgoing=0, incoming=WINDOW, returned_at=0.0, held=held, shortfall=shortfall)


def given(
    subject: Stream, inflow: Inflow | None = None, *, share: int = 0, now: float = 0.0
) -> int:
    """Return what a stream gives back now, which may have grown by `share`."""
    return subject.take_increment(WINDOW, inflow or Inflow(10 * WINDOW), share, now)


def test_a_stream_gives_back_what_is_consumed_in_halves_of_its_window() -> None:
    subject = stream(held=WINDOW)
    subject.incoming = 0
    subject.consumed(WINDOW // 2 - 1)
    assert given(subject) == 0
    subject.consumed(1)
    assert given(subject) == WINDOW // 2
    assert (subject.incoming, subject.held) == (WINDOW // 2, WINDOW // 2)
    assert subject.returning == 0


def test_a_stream_on_which_nothing_more_comes_gives_nothing_back() -> None:
    subject = stream(held=WINDOW)
    subject.received_end = True
    subject.consumed(WINDOW)
    assert given(subject) == 0


def read(subject: Stream, inflow: Inflow, *, share: int, now: float) -> int:
    """Let all that a stream may be sent come and be read at once; return its window."""
    count, subject.incoming = subject.incoming, 0
    inflow.arrived(count)
    subject.held += count
    subject.consumed(count)
    inflow.consumed(count)
    given(subject, inflow, share=share, now=now)
    inflow.take_increment()
    return subject.incoming


def large() -> Inflow:
    """The windows of a tunnel, of which 400,000 bytes may be extra."""
    return Inflow(WINDOW, left=WINDOW)


def test_a_window_doubles_while_it_is_read_quickly_as_far_as_its_share_goes() -> None:
    subject, inflow, now = stream(), large(), 0.0
    windows = []
    for _ in range(4):
        now += FAST_S * 0.99
        windows.append(read(subject, inflow, share=250_000, now=now))
    assert windows == [200_000, 350_000, 350_000, 350_000]
    assert inflow.extra == subject.extra == 250_000
    assert inflow.left + inflow.returning == WINDOW + 250_000


def test_a_window_that_has_grown_is_given_back_in_halves_of_what_it_is_now() -> None:
    subject, inflow = stream(), large()
    assert read(subject, inflow, share=WINDOW, now=0.1) == 2 * WINDOW
    subject.incoming, subject.held = 0, 2 * WINDOW
    subject.consumed(WINDOW - 1)
    assert given(subject, inflow, share=WINDOW, now=0.2) == 0
    subject.consumed(1)
    assert given(subject, inflow, share=WINDOW, now=0.2) == WINDOW


def test_a_window_that_is_read_less_quickly_stays_and_one_that_is_read_slowly_is_the_first() -> (
    None
):
    subject, inflow = stream(), large()
    assert read(subject, inflow, share=WINDOW, now=0.25) == WINDOW
    assert read(subject, inflow, share=WINDOW, now=0.375) == 2 * WINDOW
    assert read(subject, inflow, share=WINDOW, now=1.375) == 2 * WINDOW
    assert read(subject, inflow, share=WINDOW, now=2.376) == WINDOW
    assert (subject.extra, inflow.extra) == (0, 0)
    assert inflow.left + inflow.returning == WINDOW


def test_a_window_does_not_grow_while_some_of_it_is_not_read() -> None:
    subject = stream(held=WINDOW)
    subject.incoming = 0
    subject.consumed(WINDOW - 1)
    assert given(subject, large(), share=WINDOW) == WINDOW - 1
    assert subject.extra == 0


def test_a_window_shrinks_when_its_share_does_by_no_more_than_what_was_consumed() -> None:
    subject, inflow = stream(), large()
    assert read(subject, inflow, share=300_000, now=0.1) == 200_000
    assert read(subject, inflow, share=300_000, now=0.2) == 400_000
    inflow.arrived(200_000)
    subject.incoming -= 200_000
    subject.held = 200_000
    subject.consumed(200_000)
    inflow.consumed(200_000)
    assert given(subject, inflow, share=0, now=0.3) == 0
    assert (subject.incoming, subject.extra, inflow.extra) == (200_000, WINDOW, WINDOW)
    assert inflow.left <= inflow.window + inflow.extra


def test_the_streams_of_a_tunnel_grow_by_four_of_its_windows_and_4_mib_at_most() -> None:
    inflow = large()
    subjects = [stream() for _ in range(5)]
    for _ in range(3):
        for subject in subjects:
            read(subject, inflow, share=MOST_EXTRA, now=0.1)
    assert sum(subject.extra for subject in subjects) == inflow.extra == 4 * WINDOW
    assert Inflow(1 << 30).most_extra == 4 << 20


def test_a_tunnel_leaves_as_much_as_it_has_until_another_is_gone() -> None:
    growth = Growth()
    others = [Inflow(1 << 20, extra=MOST_EXTRA, growth=growth) for _ in range(3)]
    others.append(Inflow(1 << 20, extra=MOST_EXTRA_OF_ALL - 3 * MOST_EXTRA - 7, growth=growth))
    subject, inflow = stream(), Inflow(WINDOW, left=WINDOW, growth=growth)
    assert read(subject, inflow, share=WINDOW, now=0.1) == WINDOW + 3
    assert growth.left == 4
    del others[0]
    assert read(subject, inflow, share=WINDOW, now=0.2) == 2 * WINDOW
    assert growth.left == MOST_EXTRA + 7 - WINDOW


def test_tunnels_that_were_quick_once_and_are_quiet_leave_some_to_each_that_follows() -> None:
    growth = Growth()
    tunnels: list[Inflow] = []
    for _ in range(6):
        subject, inflow = stream(), Inflow(1 << 20, left=1 << 20, growth=growth)
        for _ in range(10):
            read(subject, inflow, share=MOST_EXTRA, now=0.1)
        tunnels.append(inflow)
    grown = [each.extra for each in tunnels]
    assert grown == [4 << 20, 4 << 20, 4 << 20, 2 << 20, 1 << 20, 1 << 19]
    assert growth.left == 1 << 19


def test_a_session_that_is_closed_leaves_all_to_others_while_it_is_kept() -> None:
    growth = Growth()
    subject = Session(server=True, settings=TunnelSettings(), now=0.0, growth=growth)
    client = client_of(subject)
    client.connect()
    client.say(*(data(1, bytes(16_384)) for _ in range(8)))
    subject.consumed(1, 1 << 20, 0.0)
    assert growth.left == MOST_EXTRA_OF_ALL - (256 << 10)
    subject.close(ErrorCode.NO_ERROR, "")
    assert growth.left == MOST_EXTRA_OF_ALL


def test_a_stream_on_which_nothing_more_comes_needs_no_larger_window() -> None:
    subject, inflow = stream(), large()
    read(subject, inflow, share=WINDOW, now=0.1)
    assert inflow.extra == WINDOW
    subject.held, subject.received_end = 1, True
    assert given(subject, inflow, share=WINDOW) == 0
    assert inflow.extra == WINDOW
    subject.consumed(1)
    assert given(subject, inflow, share=WINDOW) == 0
    assert (subject.extra, inflow.extra) == (0, 0)


def test_what_has_grown_is_given_back_only_as_it_is_consumed() -> None:
    """So that a tunnel holds no more than five of its windows and what they have grown by."""
    inflow = Inflow(WINDOW, left=3 * WINDOW, extra=2 * WINDOW)
    sent = fill(inflow)
    assert sent == inflow.held
    assert (HELD_WINDOWS + 2) * WINDOW < sent <= (HELD_WINDOWS + 3) * WINDOW + 1000
    assert inflow.is_overfull
    inflow.consumed(inflow.held - 4 * WINDOW)
    inflow.take_increment()
    assert inflow.owed == 2 * WINDOW
    assert inflow.left + inflow.returning == WINDOW
    assert not inflow.is_overfull


def test_a_shortfall_goes_with_the_bytes() -> None:
    subject = stream(held=10, shortfall=100)
    assert subject.consumed(5) == 50
    assert subject.consumed(5) == 50
    assert (subject.held, subject.shortfall) == (0, 0)
    assert subject.consumed(0) == 0


def test_a_new_stream_has_had_nothing() -> None:
    new = Stream(1, 2, 3, 4.0)
    assert (new.id, new.outgoing, new.incoming, new.returned_at) == (1, 2, 3, 4.0)
    assert not any(
        (new.extra, new.held, new.returning, new.shortfall, new.answered, new.informational)
    )
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
