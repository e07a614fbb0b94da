from __future__ import annotations

from tests.helpers.destinations import Destination
from uproxy.addresses import Addresses
from uproxy.contract import Candidate
from uproxy.destinations import LATELY_S, MAX_FAILING, AllEndpoints, Endpoints, EndpointStatus
from uproxy.model import Address, Direction, TcpAddress, UnixAddress

A, B, C = (TcpAddress(f"10.0.0.{n}", 5432) for n in (1, 2, 3))
NAME = TcpAddress("db.internal", 5432)
A6, B6 = (TcpAddress(f"fd00::{n}", 5432) for n in (1, 2))


def firsts(candidates: tuple[Candidate, ...]) -> list[Address]:
    return [candidate.addresses[0] for candidate in candidates]


def opened(destination: Destination, address: Address) -> None:
    destination.opened((), address, 0.0)


def test_every_address_is_a_candidate_and_equals_take_turns() -> None:
    destination = Destination((A, B, C))
    turns = [firsts(destination.candidates(0.0)) for _ in range(4)]
    assert turns == [[A, B, C], [B, C, A], [C, A, B], [A, B, C]]


def test_the_endpoint_with_the_fewest_connections_comes_first() -> None:
    destination = Destination((A, B, C))
    for address in (A, A, B):
        opened(destination, address)
    assert [firsts(destination.candidates(0.0)) for _ in range(3)] == [[C, B, A]] * 3
    destination.closed(A)
    destination.closed(A)
    assert destination.connections == {B: 1}
    assert firsts(destination.candidates(0.0))[2] == B


def test_a_failing_address_is_passed_over_for_a_while() -> None:
    destination = Destination((A, B))
    destination.failed(A, now=100.0, reason="refused")
    assert firsts(destination.candidates(100.9)) == [B]
    assert A in firsts(destination.candidates(101.0))


def test_the_while_doubles_up_to_half_a_minute_and_one_success_forgets_it() -> None:
    destination, now = Destination((A, B)), 0.0
    for pause in (1, 2, 4, 8, 16, 30, 30):
        destination.failed(A, now, "refused")
        assert destination.failing(A, now + pause - 0.1)
        now += pause
        assert not destination.failing(A, now)
    opened(destination, A)
    destination.failed(A, now, "refused")
    assert not destination.failing(A, now + 1.0)


def test_an_address_in_use_that_never_failed_is_never_passed_over() -> None:
    destination = Destination((A, B))
    opened(destination, A)
    assert not destination.failing(A, 0.0)


def test_a_failure_is_remembered_when_the_last_connection_ends() -> None:
    destination = Destination((A, B))
    opened(destination, A)
    destination.failed(A, 0.0, "refused")
    destination.closed(A)
    assert destination.failing(A, 0.5)


def test_failures_of_connections_that_were_already_under_way_count_once() -> None:
    destination = Destination((A, B))
    for _ in range(50):
        destination.failed(A, now=0.5, reason="refused")
    assert not destination.failing(A, 1.5)


def test_when_all_fail_all_are_tried_anyway() -> None:
    destination = Destination((A, B))
    destination.failed(A, 0.0, "refused")
    destination.failed(B, 0.0, "refused")
    assert sorted(map(str, firsts(destination.candidates(0.1)))) == [str(A), str(B)]


def test_a_name_has_no_candidates_before_its_first_records() -> None:
    destination = Destination((NAME,))
    assert destination.names == (NAME,)
    assert destination.candidates(0.0) == ()


def test_every_record_of_a_name_is_an_endpoint_under_the_names_name() -> None:
    destination = Destination((NAME, C))
    destination.resolved(NAME, (A, B))
    candidates = destination.candidates(0.0)
    assert firsts(candidates) == [A, B, C]
    assert [candidate.endpoint for candidate in candidates] == [str(NAME), str(NAME), str(C)]


def test_a_race_is_between_the_families_of_one_name_only() -> None:
    other = TcpAddress("other.internal", 5432)
    destination = Destination((NAME, other, C, UnixAddress("/run/db")))
    destination.resolved(NAME, (A6, A))
    destination.resolved(other, (B,))
    races = {candidate.addresses[0]: candidate.addresses for candidate in destination.candidates(0)}
    assert races == {
        A6: (A6, A),
        A: (A, A6),
        B: (B,),
        C: (C,),
        UnixAddress("/run/db"): (UnixAddress("/run/db"),),
    }


def test_a_failing_address_doesn_t_race_either() -> None:
    destination = Destination((NAME,))
    destination.resolved(NAME, (A6, A))
    destination.failed(A6, 0.0, "refused")
    assert [candidate.addresses for candidate in destination.candidates(0.5)] == [(A,)]


def test_the_loser_of_a_race_is_passed_over_next_time() -> None:
    destination = Destination((NAME,))
    destination.resolved(NAME, (A6, A))
    tried = destination.candidates(0.0)
    assert tried[0].addresses == (A6, A)
    destination.opened(tried, A, now=0.3)
    assert firsts(destination.candidates(0.4)) == [A]
    assert destination.connections == {A: 1}


def test_candidates_after_the_one_that_answered_keep_their_good_name() -> None:
    destination = Destination((A, B, C))
    destination.opened(destination.candidates(0.0), B, now=0.0)
    assert destination.failing(A, 0.5)
    assert not destination.failing(C, 0.5)


def test_all_that_were_preferred_to_the_one_that_answered_are_passed_over() -> None:
    destination = Destination((A, B, C))
    destination.opened(destination.candidates(0.0), C, now=0.0)
    assert [destination.failing(each, 0.5) for each in (A, B, C)] == [True, True, False]


def test_whoever_comes_behind_a_race_that_was_won_keeps_its_good_name() -> None:
    destination = Destination((A, B, A6))
    tried = (Candidate("db", (A6, A)), Candidate("db", (B,)))
    destination.opened(tried, A, now=0.0)
    assert [destination.failing(each, 0.5) for each in (A6, A, B)] == [True, False, False]


def test_re_resolution_replaces_the_records_and_keeps_the_counts() -> None:
    destination = Destination((NAME,))
    destination.resolved(NAME, (A, B))
    opened(destination, A)
    opened(destination, B)
    destination.resolved(NAME, (B, C))
    assert firsts(destination.candidates(0.0)) == [C, B]
    assert destination.connections == {A: 1, B: 1}
    destination.closed(A)
    assert destination.connections == {B: 1}


def test_a_name_that_fails_to_resolve_keeps_its_last_good_records() -> None:
    destination = Destination((NAME,))
    destination.resolved(NAME, (A,))
    destination.resolved(NAME, ())
    assert firsts(destination.candidates(0.0)) == [A]


def test_what_is_known_of_an_endpoint_outlives_what_lists_it_while_it_is_used() -> None:
    everything = AllEndpoints()
    key = (Direction.OUTBOUND, "db")
    db = everything[key]
    db.opened((), A, 0.0)
    db.failed(B, 0.0, "refused")
    everything.follow({key: Addresses.of((A, B), {})})
    assert everything[key] is db
    assert db.failing(B, 0.5)
    everything.follow({key: Addresses.of((C,), {})})
    assert not db.failing(B, 0.5)
    everything.follow({})
    assert everything[key] is db
    db.closed(A)
    assert db.connections == {}
    everything.follow({})
    assert everything[key] is not db


def test_doors_of_later_snapshots_share_what_is_known_before_anything_is() -> None:
    everything = AllEndpoints()
    key = (Direction.OUTBOUND, "db")
    db = everything[key]
    everything.follow({key: Addresses.of((A, B), {})})
    assert everything[key] is db
    everything.follow({})
    assert everything[key] is not db


def test_a_door_and_a_destination_of_the_same_name_are_apart() -> None:
    everything = AllEndpoints()
    everything[Direction.OUTBOUND, "db"].opened((), A, 0.0)
    assert everything[Direction.INBOUND, "db"].connections == {}


def test_operators_see_every_endpoint_and_why_it_fails() -> None:
    destination = Destination((NAME, C, B))
    destination.resolved(NAME, (A,))
    opened(destination, C)
    destination.failed(A, 10.0, "refused")
    assert destination.status(10.5) == (
        EndpointStatus(A, NAME, 0, True, "refused", 0.5),
        EndpointStatus(C, C, 1, False, None, None),
        EndpointStatus(B, B, 0, False, None, None),
    )
    assert not destination.status(11.0)[0].passed_over
    destination.failed(A, 20.0, "refused again")
    assert destination.status(25.0)[0].failing_s == 15.0
    opened(destination, A)
    assert destination.status(26.0)[0] == EndpointStatus(A, NAME, 1, False, None, None)
    destination.failed(A, 40.0, "refused once more")
    assert destination.status(41.0)[0].failing_s == 1.0


def test_addresses_that_connections_name_are_told_while_they_fail_and_the_one_reached_last() -> (
    None
):
    endpoints = Endpoints()
    assert endpoints.tried_lately(0.0) == ()
    endpoints.opened((), C, 0.0)
    endpoints.closed(C)
    endpoints.failed(B, 10.0, "refused by B")
    endpoints.failed(A, 9.0, "refused by A")
    fine = EndpointStatus(C, C, 0, False, None, None)
    assert endpoints.tried_lately(11.0) == (
        EndpointStatus(A, A, 0, False, "refused by A", 2.0),
        EndpointStatus(B, B, 0, False, "refused by B", 1.0),
        fine,
    )
    endpoints.failed(C, 12.0, "refused by C")
    assert [each.reason for each in endpoints.tried_lately(13.0)][-1] == "refused by C"
    endpoints.opened((), A, 14.0)
    endpoints.failed(C, 14.0, "refused by C")
    assert [each.address for each in endpoints.tried_lately(14.0)] == [B, C, A]


def test_failures_at_the_same_moment_are_told_in_the_order_in_which_they_were_met() -> None:
    endpoints = Endpoints()
    for address in (B, A, C):
        endpoints.failed(address, 5.0, "refused")
    assert [each.address for each in endpoints.tried_lately(6.0)] == [B, A, C]


def test_an_address_that_was_reached_and_fails_now_is_told_once() -> None:
    endpoints = Endpoints()
    endpoints.opened((), A, 0.0)
    endpoints.failed(A, 1.0, "refused")
    assert [each.address for each in endpoints.tried_lately(2.0)] == [A]
    endpoints.failed(B, 1.0, "refused")
    endpoints.opened((), C, 1.0)
    endpoints.failed(A, 5.0, "refused")
    assert [each.address for each in endpoints.tried_lately(6.0)] == [B, A, C]


def test_who_answers_as_somebody_else_does_so_until_it_is_reached_or_fails_otherwise() -> None:
    addresses, endpoints = Addresses.of((A, B), {}, None), Endpoints()
    assert not endpoints.has_other(addresses, 0.0)
    endpoints.failed(A, 0.0, "refused")
    assert not endpoints.has_other(addresses, 0.5)
    endpoints.failed(A, 0.5, "wanted orders", is_other=True)
    endpoints.failed(A, 0.6, "refused")
    assert endpoints.has_other(addresses, 0.9)
    assert not endpoints.has_other(addresses, 1.0)
    endpoints.failed(A, 10.0, "refused")
    assert not endpoints.has_other(addresses, 10.5)
    endpoints.failed(B, 10.0, "wanted orders", is_other=True)
    assert endpoints.has_other(addresses, 10.5)
    endpoints.opened((), B, 10.5)
    endpoints.failed(B, 10.6, "refused")
    assert not endpoints.has_other(addresses, 10.7)


def test_an_address_that_nobody_tries_again_fails_for_a_quarter_of_an_hour() -> None:
    endpoints = Endpoints()
    endpoints.failed(A, 0.0, "refused")
    assert [each.failing_s for each in endpoints.tried_lately(LATELY_S)] == [LATELY_S]
    assert endpoints.tried_lately(1.0 + LATELY_S) == ()
    endpoints.failed(A, 1.0 + LATELY_S, "refused")
    assert [each.failing_s for each in endpoints.tried_lately(3.0 + LATELY_S)] == [3.0 + LATELY_S]


def test_what_connections_have_named_is_kept_until_a_reload() -> None:
    key, listed = (Direction.INBOUND, "tunnels"), Addresses.of((TcpAddress("127.0.0.1", 0),), {})
    for addresses in (listed, Addresses.of((), {})):
        assert addresses.is_open
        everything = AllEndpoints()
        everything[key].failed(A, 0.0, "refused")
        everything[key].opened((), B, 0.0)
        everything[key].closed(B)
        everything.follow({key: addresses}, reloaded=False)
        assert [each.address for each in everything[key].tried_lately(1.0)] == [A, B]
        everything.follow({key: addresses})
        assert everything[key].tried_lately(1.0) == ()
    assert not Addresses.of((A,), {}).is_open
    everything[key].failed(B, 0.0, "refused")
    everything.follow({key: Addresses.of((A,), {})}, reloaded=False)
    assert everything[key].tried_lately(1.0) == ()
    everything[key].failed(B, 0.0, "refused")
    everything.follow({}, reloaded=False)
    assert everything[key].tried_lately(1.0) == ()


def test_endpoints_that_are_neither_used_nor_failing_take_no_memory() -> None:
    destination = Destination((A,))
    for _ in range(2):
        opened(destination, A)
    destination.closed(A)
    assert destination.endpoints._endpoints
    destination.closed(A)
    assert not destination.endpoints._endpoints


def test_an_address_that_is_passed_over_is_a_choice_all_the_same() -> None:
    destination = Destination((A, B))
    destination.failed(A, 10.0, "refused")
    assert firsts(destination.candidates(10.0)) == [B]
    assert destination.choice


def test_a_candidate_is_told_the_name_in_its_address() -> None:
    absolute = TcpAddress("db.internal.", 5432)
    destination = Destination((NAME, absolute, C, UnixAddress("/run/db.sock")))
    destination.resolved(NAME, (A,))
    destination.resolved(absolute, (B,))
    names = {each.addresses[0]: each.server_name for each in destination.candidates(0.0)}
    assert names == {
        A: "db.internal", B: "db.internal", C: None, UnixAddress("/run/db.sock"): None
    }  # fmt: skip


def test_of_the_addresses_that_fail_only_so_many_are_remembered() -> None:
    endpoints = Endpoints()
    used = TcpAddress("10.0.0.9", 1)
    endpoints.opened((), used, 0.0)
    for port in range(1, 2 * MAX_FAILING):
        endpoints.failed(TcpAddress("10.0.0.7", port), 0.0, "refused")
    failing = [
        port
        for port in range(1, 2 * MAX_FAILING)
        if endpoints.failing(TcpAddress("10.0.0.7", port), 0.0)
    ]
    assert failing == [*range(MAX_FAILING + 1, 2 * MAX_FAILING)]  # the last ones
    assert endpoints.connections == {used: 1}


def test_addresses_in_use_are_never_forgotten_for_one_that_fails() -> None:
    endpoints = Endpoints()
    used = [TcpAddress("10.0.0.9", port) for port in range(1, MAX_FAILING + 1)]
    for address in used:
        endpoints.opened((), address, 0.0)
    endpoints.failed(A, 0.0, "refused")
    assert endpoints.failing(A, 0.0)
    assert len(endpoints.connections) == MAX_FAILING


def test_an_address_that_fails_its_health_check_is_passed_over_until_it_passes() -> None:
    fares = Endpoints()
    addresses = Addresses.of((A, B), {})
    assert not fares.checked(A, None)
    assert fares.forget_all_but({}) is False
    assert fares.checked(A, "it answers 503")
    assert not fares.checked(A, "it answers 500")
    assert fares.choose(addresses, 1e9) == [B]
    [status, _other] = fares.status(addresses, 1e9)
    assert (status.passed_over, status.reason, status.failing_s) == (True, "it answers 500", None)
    assert fares.checked(A, None)
    assert set(fares.choose(addresses, 1e9)) == {A, B}


def test_who_only_fails_its_health_check_is_behind_the_others_and_before_giving_up() -> None:
    fares = Endpoints()
    addresses = Addresses.of((A, B, C), {})
    fares.checked(A, "it answers 503")
    fares.failed(B, 0.0, "no answer")
    assert fares.choose_unfailed(addresses, 0.5) == [C, A]
    assert fares.choose(addresses, 0.5) == [C]
    assert [each.only_unhealthy for each in fares.status(addresses, 0.5)] == [True, False, False]
    assert fares.choose_unfailed(addresses, 1.5)[-1] == A
    fares.failed(A, 1.5, "no answer")
    assert not fares.status(addresses, 1.6)[0].only_unhealthy


def test_a_connection_that_succeeds_makes_nobody_healthy_and_its_end_forgets_no_check() -> None:
    fares = Endpoints()
    fares.checked(A, "it answers 503")
    fares.opened((), A, 0.0)
    fares.closed(A)
    assert fares.failing(A, 0.0)
    fares.forget_checks()
    assert not fares.failing(A, 0.0)


def test_who_is_forgotten_loses_its_check() -> None:
    fares = Endpoints()
    fares.checked(A, "it answers 503")
    assert not fares.forget_all_but({B: B})
    assert not fares.failing(A, 0.0)
