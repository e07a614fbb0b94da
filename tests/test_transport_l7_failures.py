from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers.tunnels import outbound_door
from uproxy.contract import PLAIN, Candidate, Refusal, Route, Tunnel
from uproxy.lifecycle import ENDINGS, State
from uproxy.model import Outcome, TcpAddress, Timeouts
from uproxy.transport.l7_failures import cut_off, l7_proxy_of, left_after, named

ONE, OTHER = (TcpAddress(f"10.0.0.{n}", 15008) for n in (9, 10))
APP, REPLICA = (TcpAddress(f"10.1.0.{n}", 8080) for n in (1, 2))
MADE = outbound_door(15008, APP).answer
assert isinstance(MADE, Route)
STRAIGHT = MADE.upstream


def to(app: TcpAddress, end: TcpAddress | None) -> Candidate:
    """By way of an L7 proxy's address; None: straight there."""
    assert isinstance(STRAIGHT, Tunnel)
    upstream = STRAIGHT if end is None else replace(STRAIGHT, end=end, via="l7")
    return Candidate(str(app), (app,), upstream=upstream)


FIRST, SECOND, THIRD, LAST = to(APP, ONE), to(APP, OTHER), to(REPLICA, ONE), to(APP, None)
ROUTE = Route("reviews", (FIRST, SECOND, THIRD, LAST), PLAIN, Timeouts())


def test_the_l7_proxy_of_a_candidate_is_the_one_at_its_tunnels_end() -> None:
    assert [l7_proxy_of(ROUTE, each) for each in (FIRST, LAST)] == ["l7", None]
    assert l7_proxy_of(ROUTE, Candidate("reviews", (APP,))) is None


@pytest.mark.parametrize(
    ("outcome", "setting"),
    [
        (Outcome.CONNECT_FAILED, ""),
        (Outcome.TIMED_OUT, ""),
        (
            Outcome.HANDSHAKE_FAILED,
            " (l7_proxies.l7.addresses: is this where it takes tunnels?)",
        ),
    ],
)
def test_who_cannot_be_reached_or_does_not_answer_is_unavailable(
    outcome: Outcome, setting: str
) -> None:
    why = named("l7", ONE, Refusal(outcome, "no answer"))
    assert why == Refusal(
        Outcome.L7_UNAVAILABLE, f"L7 proxy l7 at 10.0.0.9:15008: no answer{setting}"
    )
    assert named(None, ONE, Refusal(outcome, "no answer")).outcome is outcome


@pytest.mark.parametrize(
    ("outcome", "setting"),
    [
        (Outcome.PEER_UNEXPECTED, " (l7_proxies.l7.identities)"),
        (Outcome.PEER_UNTRUSTED, ""),
        (Outcome.L7_REFUSED, ""),
    ],
)
def test_who_has_refused_or_proves_another_identity_is_named(
    outcome: Outcome, setting: str
) -> None:
    why = named("l7", ONE, Refusal(outcome, "no", "X5-2"))
    assert why == Refusal(outcome, f"L7 proxy l7 at 10.0.0.9:15008: no{setting}", "X5-2")


@pytest.mark.parametrize("outcome", [Outcome.DRAINED, Outcome.LIMIT, Outcome.POLICY_CHANGED])
def test_what_has_nothing_to_do_with_it_is_left_as_it_is(outcome: Outcome) -> None:
    assert named("l7", ONE, Refusal(outcome, "no")) == Refusal(outcome, "no")


def test_an_address_that_is_unavailable_is_asked_for_no_other_application() -> None:
    gone = Refusal(Outcome.L7_UNAVAILABLE, "gone")
    assert left_after(ROUTE, FIRST, gone, (SECOND, THIRD, LAST)) == (SECOND, LAST)
    assert left_after(ROUTE, SECOND, gone, (LAST,)) == (LAST,)
    clear = Candidate("reviews", (APP,))
    assert left_after(ROUTE, FIRST, gone, (clear,)) == (clear,)


@pytest.mark.parametrize(
    "outcome", [Outcome.L7_REFUSED, Outcome.PEER_UNEXPECTED, Outcome.PEER_UNTRUSTED]
)
def test_nobody_goes_past_one_that_refuses_or_is_somebody_else(outcome: Outcome) -> None:
    left = left_after(ROUTE, FIRST, Refusal(outcome, "no"), (SECOND, THIRD, LAST))
    assert left == (SECOND, THIRD)


def test_where_no_l7_proxy_is_in_the_way_all_others_are_tried() -> None:
    failed = Refusal(Outcome.CONNECT_FAILED, "gone")
    elsewhere = to(REPLICA, None)
    assert left_after(ROUTE, LAST, failed, (FIRST, elsewhere)) == (FIRST, elsewhere)


def test_what_is_cut_off_before_its_first_byte_has_probably_been_refused_behind_it() -> None:
    why = cut_off("l7", ONE)
    assert why.outcome is Outcome.L7_REFUSED
    assert why.reason.startswith("L7 proxy l7 at 10.0.0.9:15008: reset before the first byte: ")
    assert all(why.outcome in ENDINGS[state] for state in (State.RELAYING, State.CLOSING))
