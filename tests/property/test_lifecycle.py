"""Walks through the table of states, drawn at random."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.lifecycle import ENDINGS, MOVES, State, check_move


@st.composite
def walks(draw: st.DrawFn) -> list[State]:
    """A life from its beginning, as long as it lasts or is looked at."""
    walk = [State.ACCEPTED]
    while MOVES[walk[-1]] and len(walk) < 30:
        walk.append(draw(st.sampled_from(sorted(MOVES[walk[-1]]))))
    return walk


@given(walks())
def test_who_relays_was_admitted_and_connected_first(walk: list[State]) -> None:
    if State.RELAYING in walk:
        before = walk[: walk.index(State.RELAYING)]
        assert before.index(State.ADMITTING) < before.index(State.CONNECTING)
        # whatever decides again, it is connected anew or found to lead to the same place
        assert before[-1] in (
            State.CONNECTING, State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM,
        )  # fmt: skip


@given(walks())
def test_a_life_ends_once_and_relays_again_only_if_it_is_admitted_again(walk: list[State]) -> None:
    relays = [at for at, state in enumerate(walk) if state is State.RELAYING]
    for one, other in itertools.pairwise(relays):
        assert walk[one + 1] is State.ADMITTING
        assert State.CONNECTING in walk[one:other]
    assert walk.count(State.CLOSED) <= 1
    assert State.CLOSED not in walk[:-1]


@given(walks())
def test_wherever_a_life_is_it_can_end_with_a_word(walk: list[State]) -> None:
    for state in walk:
        if state is not State.CLOSED:
            check_move(state, State.CLOSED)
            assert ENDINGS[state]


@given(st.sampled_from(State), st.sampled_from(State))
def test_the_door_to_change_state_is_the_table(now: State, then: State) -> None:
    if then in MOVES[now]:
        check_move(now, then)
    else:
        with pytest.raises(ValueError, match="can't go from"):
            check_move(now, then)
