from __future__ import annotations

from uproxy.contract import PLAIN, Candidate, Upstream
from uproxy.l7 import MAX_ENDS_TRIED, by_way_of
from uproxy.model import TcpAddress

A, B, C = (TcpAddress(f"10.1.0.{n}", 8080) for n in (1, 2, 3))
ENDS: tuple[Upstream, ...] = tuple(type(PLAIN)() for _ in range(5))
"""Ways that are told apart by identity."""
PAST = type(PLAIN)()


def ways(candidates: tuple[Candidate, ...]) -> list[tuple[object, int | str]]:
    """Each candidate's address, and by which end it is reached."""

    def named(upstream: Upstream | None) -> int | str:
        if upstream is PAST:
            return "past"
        [at] = [number for number, end in enumerate(ENDS) if end is upstream]
        return at

    return [(each.addresses[0], named(each.upstream)) for each in candidates]


def app(*addresses: TcpAddress) -> Candidate:
    return Candidate("reviews", addresses, "reviews.test")


def test_the_best_application_is_tried_through_each_end_then_the_others_through_the_best() -> None:
    found = by_way_of([app(A), app(B)], ENDS[:2], None)
    assert ways(found) == [(A, 0), (A, 1), (B, 0)]


def test_who_waits_is_not_led_to_more_ends_than_a_few() -> None:
    assert MAX_ENDS_TRIED == 3
    assert ways(by_way_of([app(A)], ENDS, None)) == [(A, 0), (A, 1), (A, 2)]


def test_past_the_l7_proxy_is_the_last_way_and_only_where_there_is_one() -> None:
    assert ways(by_way_of([app(A), app(B)], ENDS[:1], PAST)) == [
        (A, 0), (B, 0), (A, "past"), (B, "past"),
    ]  # fmt: skip
    assert ways(by_way_of([app(A)], (), PAST)) == [(A, "past")]


def test_addresses_that_would_race_are_tried_one_after_the_other() -> None:
    found = by_way_of([app(A, B), app(B, A), app(C)], ENDS[:1], None)
    assert ways(found) == [(A, 0), (B, 0), (C, 0)]
    assert all(len(each.addresses) == 1 for each in found)


def test_an_l7_proxy_is_shown_no_server_name_and_the_destination_is() -> None:
    first, last = by_way_of([app(A)], ENDS[:1], PAST)
    assert (first.server_name, last.server_name) == (None, "reviews.test")
