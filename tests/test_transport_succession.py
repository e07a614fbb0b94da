from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers.engines import RecordingDoor, plan, route, verifier
from uproxy.contract import Candidate, PeerSvid, Refusal, RefusedError, Tls, Tunnel
from uproxy.lab.pki import Authority
from uproxy.lifecycle import ENDINGS, State
from uproxy.model import Direction, Outcome, Role, TcpAddress
from uproxy.transport.succession import followed, same_way, successor, successor_of_open

A, B, C = (TcpAddress(f"10.0.0.{n}", 1) for n in (1, 2, 3))
NO = Refusal(Outcome.DENIED, "no")
OURS = Authority("example.org")
PEER = verifier(Role.SERVER, OURS)(OURS.issue("/peer").der)
TLS = plan(Role.CLIENT, OURS.issue("/a"), verifier(Role.SERVER, OURS))


def test_the_door_that_the_listener_has_now_decides() -> None:
    one, other = RecordingDoor(Direction.INBOUND, NO), RecordingDoor(Direction.INBOUND, NO)
    assert successor(one, other) is other


@pytest.mark.parametrize("now", [None, RecordingDoor(Direction.OUTBOUND, NO)])
def test_an_arrival_has_no_door_where_none_is_left_or_one_of_the_other_direction(
    now: RecordingDoor | None,
) -> None:
    with pytest.raises(RefusedError) as caught:
        successor(RecordingDoor(Direction.INBOUND, NO, name="db"), now)
    refusal = caught.value.refusal
    assert refusal.outcome is Outcome.POLICY_CHANGED
    assert refusal.reason.startswith("while it was arriving, inbound door db ")
    assert all(refusal.outcome in ENDINGS[state] for state in State if state is not State.CLOSED)


def test_the_reason_says_whether_the_door_went_or_another_came() -> None:
    for now, words in (
        (None, "door db was taken away: dial again"),
        (
            RecordingDoor(Direction.OUTBOUND, NO, name="cache"),
            "door db gave its address to outbound cache: dial again",
        ),
    ):
        with pytest.raises(RefusedError) as caught:
            successor(RecordingDoor(Direction.INBOUND, NO, name="db"), now)
        assert caught.value.refusal.reason.endswith(words)


@pytest.mark.parametrize("direction", Direction)
def test_what_was_open_is_decided_again_by_the_door_that_the_listener_has_now(
    direction: Direction,
) -> None:
    now = RecordingDoor(direction, NO)
    assert successor_of_open(direction, now) is now


@pytest.mark.parametrize("now", [None, RecordingDoor(Direction.INBOUND, NO)])
def test_what_was_open_ends_where_no_door_is_left_or_one_of_the_other_direction(
    now: RecordingDoor | None,
) -> None:
    with pytest.raises(RefusedError) as caught:
        successor_of_open(Direction.OUTBOUND, now)
    assert caught.value.refusal == Refusal(
        Outcome.POLICY_CHANGED,
        "the L7 proxy was lost before the first byte, and so was the door: dial again",
    )


def test_a_route_that_never_led_there_keeps_nothing() -> None:
    assert same_way(route(B), route(A), A) is None
    assert same_way(route(), route(A), A) is None


def test_what_was_dialled_from_another_address_is_dialled_again() -> None:
    here, there = (replace(route(A), dial_from=each) for each in (None, B))
    assert same_way(here, there, A) is None
    assert same_way(there, here, A) is None
    assert same_way(there, there, A) is not None


def test_of_a_race_the_address_that_won_is_kept_alone() -> None:
    race = replace(route(A), candidates=(Candidate("db", (A, B)),))
    kept = same_way(race, race, B)
    assert kept is not None
    assert [each.addresses for each in kept.candidates] == [(B,)]


def test_a_handshake_is_kept_for_nobody_unknown_and_for_nothing_in_clear() -> None:
    renewed = plan(Role.CLIENT, OURS.issue("/a"), verifier(Role.SERVER, OURS))
    assert same_way(route(A, tls=TLS), route(A, tls=renewed), A, None) is None
    assert same_way(route(A, tls=TLS), route(A), A, PEER) is None
    assert same_way(route(A), route(A, tls=TLS), A, PEER) is None


def test_a_peer_that_the_new_plan_does_not_expect_is_shaken_hands_with_anew() -> None:
    def unexpected(chain: tuple[bytes, ...]) -> PeerSvid:
        raise RefusedError(Refusal(Outcome.PEER_UNEXPECTED, "somebody else"))

    other = plan(Role.CLIENT, OURS.issue("/a"), unexpected)
    assert same_way(route(A, tls=TLS), route(A, tls=other), A, PEER) is None
    # who judges alike isn't asked again
    alike = replace(other, trust_id=TLS.trust_id)
    assert same_way(route(A, tls=TLS), route(A, tls=alike), A, PEER) is not None


def test_what_was_reached_is_kept_where_the_new_route_leads_there_too() -> None:
    kept = same_way(route(A, B), replace(route(C, B), revision=7), B)
    assert kept is not None
    assert ([each.addresses for each in kept.candidates], kept.revision) == ([(B,)], 7)


def test_what_was_reached_is_left_if_the_new_route_does_not_lead_there_or_not_in_that_way() -> None:
    assert same_way(route(A), route(B), A) is None
    assert same_way(route(A), route(A), None) is None
    assert same_way(route(A), route(A, tls=TLS), A) is None
    assert same_way(route(A, tls=TLS), route(A), A) is None
    assert same_way(route(A, tls=TLS), route(A, tls=TLS), A) is not None
    other = plan(Role.CLIENT, OURS.issue("/b"), verifier(Role.SERVER, OURS))
    assert same_way(route(A, tls=TLS), route(A, tls=other), A, PEER) is None
    named = replace(route(A, tls=TLS), candidates=(Candidate("a", (A,), "a.test"),))
    assert same_way(route(A, tls=TLS), named, A) is None


def test_a_handshake_is_kept_if_the_new_plan_believes_the_peer_and_shows_the_same_identity() -> (
    None
):
    renewed = plan(Role.CLIENT, OURS.issue("/a"), verifier(Role.SERVER, OURS))
    kept = same_way(route(A, tls=TLS), route(A, tls=renewed), A, PEER)
    assert kept is not None
    assert kept.upstream == Tls(TLS)
    stranger = plan(Role.CLIENT, OURS.issue("/a"), verifier(Role.SERVER, Authority("example.org")))
    assert same_way(route(A, tls=TLS), route(A, tls=stranger), A, PEER) is None


def test_a_stream_is_kept_only_if_it_would_be_opened_alike_by_way_of_the_same_l7_proxy() -> None:
    here, there = (Tunnel(TLS, end, via="l7", headers=(("x", "1"),)) for end in (B, C))
    before = replace(route(A), candidates=(Candidate("a", (A,), upstream=here),))
    both = tuple(Candidate("a", (A,), upstream=each) for each in (there, here))
    kept = same_way(before, replace(before, candidates=both), A)
    assert kept is not None
    assert (kept.upstream, [each.upstream for each in kept.candidates]) == (here, [None])
    assert same_way(route(A, tls=TLS), replace(before, candidates=both), A, PEER) is None
    assert same_way(replace(before, candidates=both[1:]), route(A, tls=TLS), A, PEER) is None
    elsewhere = replace(before, candidates=both, dial_from=B)
    assert same_way(before, elsewhere, A) is None
    for change in ({"end": C}, {"via": None}, {"headers": ()}):
        other = Candidate("a", (A,), upstream=replace(here, **change))
        assert same_way(before, replace(before, candidates=(other,)), A, PEER) is None


def test_what_a_door_answers_is_followed_unless_it_refuses() -> None:
    assert followed(route(A)) == route(A)
    with pytest.raises(RefusedError) as caught:
        followed(NO)
    assert caught.value.refusal is NO


def test_a_stream_is_kept_only_if_it_would_be_opened_in_the_same_way() -> None:
    through = replace(route(A), upstream=Tunnel(TLS, A))
    assert same_way(through, through, A, PEER) is not None
    assert same_way(through, route(A, tls=TLS), A, PEER) is None
    assert same_way(through, replace(through, upstream=Tunnel(TLS, 15008)), A, PEER) is None


def test_a_stream_is_kept_though_an_svid_of_ours_was_renewed_while_it_was_opened() -> None:
    through = replace(route(A), upstream=Tunnel(TLS, A))
    renewed = plan(Role.CLIENT, OURS.issue("/a"), verifier(Role.SERVER, OURS))
    kept = same_way(through, replace(through, upstream=Tunnel(renewed, A)), A, PEER)
    assert kept is not None
    assert kept.upstream == Tunnel(TLS, A)
    assert same_way(through, replace(through, upstream=Tunnel(renewed, A)), A, None) is None
    assert same_way(through, replace(through, upstream=Tunnel(renewed, B)), A, PEER) is None
