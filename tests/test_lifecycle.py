"""The table of states: what it must allow, and what it must never."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import pytest

from uproxy.lifecycle import DEADLINES, ENDINGS, MOVES, State, check_move
from uproxy.model import Outcome, Timeouts

LIFE = [
    State.ACCEPTED, State.HANDSHAKING_DOWNSTREAM, State.ADMITTING, State.CONNECTING,
    State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM, State.RELAYING, State.CLOSING, State.CLOSED,
]  # fmt: skip
TUNNEL = [State.ACCEPTED, State.HANDSHAKING_DOWNSTREAM, State.CARRYING, State.CLOSED]
IN_A_TUNNEL_THAT_IS_OPEN = [
    State.ACCEPTED, State.ADMITTING, State.CONNECTING, State.OPENING_STREAM, State.RELAYING,
    State.CLOSED,
]  # fmt: skip
REACHING = {State.CONNECTING, State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM}


@pytest.mark.parametrize("life", [LIFE, TUNNEL, IN_A_TUNNEL_THAT_IS_OPEN])
def test_a_whole_life_is_a_walk_through_the_table(life: list[State]) -> None:
    for now, then in pairwise(life):
        check_move(now, then)


def test_a_tunnel_is_not_relayed_itself() -> None:
    assert {state for state in State if State.CARRYING in MOVES[state]} == {
        State.HANDSHAKING_DOWNSTREAM
    }
    assert MOVES[State.CARRYING] == {State.CLOSED}


def test_every_state_but_the_last_may_end_at_once() -> None:
    assert all(State.CLOSED in MOVES[state] for state in State if state is not State.CLOSED)


def test_nothing_leaves_the_last_state() -> None:
    assert MOVES[State.CLOSED] == frozenset()
    assert State.CLOSED not in ENDINGS


def test_nothing_is_relayed_that_was_not_admitted_and_connected() -> None:
    before = {state for state in State if State.RELAYING in MOVES[state]}
    assert before == REACHING
    assert {state for state in State if State.ADMITTING in MOVES[state]} == {
        State.ACCEPTED, State.HANDSHAKING_DOWNSTREAM, *REACHING, State.RELAYING,
    }  # fmt: skip
    assert {state for state in State if State.CONNECTING in MOVES[state]} == {
        State.ADMITTING, State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM,
    }  # fmt: skip


def test_only_a_new_attempt_or_a_new_decision_goes_back() -> None:
    back = {
        (now, then)
        for now in LIFE
        for then in MOVES[now] & set(LIFE)
        if LIFE.index(then) <= LIFE.index(now)
    }
    assert back == {
        (State.OPENING_STREAM, State.CONNECTING),
        (State.OPENING_STREAM, State.ADMITTING),
        (State.HANDSHAKING_UPSTREAM, State.CONNECTING),
        (State.HANDSHAKING_UPSTREAM, State.ADMITTING),
        (State.CONNECTING, State.ADMITTING),
        (State.RELAYING, State.ADMITTING),
    }


def test_an_orderly_end_is_only_reached_through_a_half_close() -> None:
    """But for a tunnel's: its streams have ended before."""
    orderly = {state for state in ENDINGS if Outcome.CLOSED in ENDINGS[state]}
    assert orderly == {State.CLOSING, State.CARRYING}


def test_every_outcome_can_happen_somewhere() -> None:
    assert frozenset().union(*ENDINGS.values()) == frozenset(Outcome)


def test_every_state_says_how_it_may_end() -> None:
    assert set(ENDINGS) == set(State) - {State.CLOSED}
    assert set(MOVES) == set(State)


def test_every_deadline_is_a_timeout_of_the_configuration() -> None:
    assert set(DEADLINES.values()) <= {field.name for field in fields(Timeouts)}


def test_every_state_but_those_that_last_no_time_has_a_deadline() -> None:
    """A decision is made at once, or has the deadline of what it waits for."""
    assert dict(DEADLINES) == {
        State.HANDSHAKING_DOWNSTREAM: "handshake",
        State.CONNECTING: "connect",
        State.HANDSHAKING_UPSTREAM: "handshake",
        State.OPENING_STREAM: "connect",
        State.RELAYING: "idle",
        State.CLOSING: "half_close",
    }


def test_a_state_is_called_alike_in_the_code_and_in_the_log() -> None:
    assert [state.value for state in State] == [state.name.lower() for state in State]


def test_what_may_happen_at_any_time_may_happen_in_every_state() -> None:
    anywhere = {
        Outcome.RESET, Outcome.DRAINED, Outcome.LIMIT, Outcome.POLICY_CHANGED,
        Outcome.IDENTITY_EXPIRED, Outcome.IDENTITY_DISTRUSTED,
    }  # fmt: skip
    assert frozenset.intersection(*ENDINGS.values()) == anywhere


def test_a_handshake_can_fail_while_it_is_made_and_tls_1_3_tells_it_later_too() -> None:
    both = (State.HANDSHAKING_DOWNSTREAM, State.HANDSHAKING_UPSTREAM)
    for outcome in (Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED):
        assert states_that_end_with(outcome) == {*both}
    after = {State.CARRYING, State.OPENING_STREAM, State.RELAYING, State.CLOSING}
    assert states_that_end_with(Outcome.HANDSHAKE_FAILED) == {*both, *after}
    for outcome in (Outcome.PEER_REFUSED, Outcome.L7_REFUSED):
        assert states_that_end_with(outcome) == after - {State.CARRYING}


def test_an_l7_proxy_is_unavailable_before_a_byte_has_passed_or_not_at_all() -> None:
    dialling = {State.CONNECTING, State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM}
    assert states_that_end_with(Outcome.L7_UNAVAILABLE) == {State.ADMITTING, *dialling}


def test_who_is_refused_was_decided_on_and_whom_nobody_answers_was_dialled() -> None:
    """Without an identity of ours, whoever sends the first byte of a handshake is refused."""
    assert states_that_end_with(Outcome.DENIED) == {State.ADMITTING}
    # a stream that arrives with what is no CONNECT to an address isn't put to any door
    assert states_that_end_with(Outcome.NO_DESTINATION) == {State.ACCEPTED, State.ADMITTING}
    without_identity = {State.HANDSHAKING_DOWNSTREAM, State.ADMITTING}
    assert states_that_end_with(Outcome.NO_IDENTITY) == without_identity
    assert states_that_end_with(Outcome.CONNECT_FAILED) == {
        State.ADMITTING, State.CONNECTING, State.OPENING_STREAM,
    }  # fmt: skip
    assert states_that_end_with(Outcome.PROBED) == {State.HANDSHAKING_DOWNSTREAM}


def states_that_end_with(outcome: Outcome) -> set[State]:
    return {state for state, outcomes in ENDINGS.items() if outcome in outcomes}


def test_every_state_with_a_deadline_may_time_out() -> None:
    for state in DEADLINES:
        assert Outcome.TIMED_OUT in ENDINGS[state]


def test_a_move_the_table_does_not_have_is_a_defect() -> None:
    with pytest.raises(ValueError, match="can't go from accepted to relaying"):
        check_move(State.ACCEPTED, State.RELAYING)
