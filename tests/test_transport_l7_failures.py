from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from tests.helpers.tunnels import outbound_door
from uproxy.contract import PLAIN, Candidate, Refusal, Route, Tunnel
from uproxy.libssl import TlsError
from uproxy.lifecycle import ENDINGS, State
from uproxy.model import Outcome, TcpAddress, Timeouts
from uproxy.transport.l7_failures import (
    failed,
    l7_proxy_of,
    left_after,
    named,
    refused_handshake,
    stranded,
)

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
    gone = Refusal(Outcome.CONNECT_FAILED, "gone")
    elsewhere = to(REPLICA, None)
    assert left_after(ROUTE, LAST, gone, (FIRST, elsewhere)) == (FIRST, elsewhere)


def test_what_is_cut_off_before_its_first_byte_has_probably_been_refused_behind_it() -> None:
    why = failed("l7", ONE, errno.ECONNRESET, is_soon=True)
    assert why is not None
    assert why.outcome is Outcome.L7_REFUSED
    assert why.reason.startswith("L7 proxy l7 at 10.0.0.9:15008: reset before the first byte: ")
    assert all(why.outcome in ENDINGS[state] for state in (State.RELAYING, State.CLOSING))


@pytest.mark.parametrize("error", [errno.ECONNRESET, errno.ETIMEDOUT, None])
def test_a_reset_that_comes_late_is_the_proxys_no_more_than_any_other_failure(
    error: int | None,
) -> None:
    assert failed("l7", ONE, error, is_soon=error != errno.ECONNRESET) is None


@pytest.mark.parametrize("is_soon", [False, True])
def test_what_is_lost_with_its_tunnel_was_refused_by_nobody(is_soon: bool) -> None:
    why = failed("l7", ONE, errno.ENOLINK, is_soon=is_soon)
    words = "L7 proxy l7 at 10.0.0.9:15008: its tunnel was lost, and what was under way on it"
    assert why == Refusal(Outcome.RESET, words)


def test_what_is_lost_before_a_byte_has_passed_goes_on() -> None:
    ending = stranded("l7", ONE, 2.5)
    assert ending.goes_on
    assert (ending.outcome, ending.state) == (Outcome.L7_UNAVAILABLE, State.RELAYING)
    assert (ending.duration, ending.bytes_sent, ending.bytes_received) == (2.5, 0, 0)
    assert ending.reason == "L7 proxy l7 at 10.0.0.9:15008: lost before a byte had passed"


UNKNOWN_CA = 48


@pytest.mark.parametrize(
    ("at_l7", "outcome"), [(True, Outcome.L7_REFUSED), (False, Outcome.HANDSHAKE_FAILED)]
)
def test_an_alert_instead_of_an_answer_is_a_refusal_of_our_certificate(
    at_l7: bool, outcome: Outcome
) -> None:
    error = TlsError("tlsv1 alert unknown ca", UNKNOWN_CA)
    why = refused_handshake("the peer", error, "spiffe://example.org/web", at_l7=at_l7)
    assert why is not None
    assert why.outcome is outcome
    assert why.reason == (
        "the peer refused our certificate (unknown ca): it may lack a bundle for example.org"
    )
    unknown = refused_handshake("the peer", error, None, at_l7=at_l7)
    assert unknown is not None
    assert unknown.reason.endswith("it may lack a bundle for our trust domain")


@pytest.mark.parametrize(
    "error", [TlsError("bad record mac"), ConnectionResetError(104, "reset"), ValueError("48")]
)
@pytest.mark.parametrize("at_l7", [True, False])
def test_any_other_end_of_a_tunnel_refuses_nobody(error: Exception, at_l7: bool) -> None:
    assert refused_handshake("the peer", error, "spiffe://example.org/web", at_l7=at_l7) is None
