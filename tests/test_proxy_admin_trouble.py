"""What is wrong, since when, and whose turn it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.helpers.admin import certificates, l7_row
from uproxy.proxy.admin.causes import Headline, Kind, Level, Trouble
from uproxy.proxy.admin.facts import DenialRow, DestinationRow, DoorRow, EndpointRow
from uproxy.proxy.admin.overview import LostRow, Stale
from uproxy.proxy.admin.row import UnresolvedRow
from uproxy.proxy.admin.trouble import TURNS_SHOWN, Moment, find, headline
from uproxy.proxy.admin.vitals import Readiness

NOW = datetime.now(UTC)
FINE = Moment(NOW, Readiness(), (), certificates(), (), (), (), (), None)
API = DoorRow("api", "inbound", "0.0.0.0:8443", "mtls", "127.0.0.1:8080", True, 3)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def moment(**changes: Any) -> Moment:
    return replace(FINE, **changes)


def line(at: Moment) -> Headline:
    return headline(at, find(at))


def only(at: Moment) -> Trouble:
    (trouble,) = find(at)
    return trouble


def refusal(caller: str | None, minutes: float = 1, **changes: Any) -> DenialRow:
    row = DenialRow(
        ago(minutes), "inbound", "api", "10.0.0.9:1234", caller, "denied", "no rule", None, "api"
    )
    return replace(row, **changes)


def test_nothing_wrong_is_said_too() -> None:
    assert find(FINE) == ()
    assert line(FINE) == Headline(Level.GOOD, "nothing is wrong, certificate fine", None, ())


def test_everything_is_in_one_line_with_the_first_beginning_and_everybodys_turn() -> None:
    down = replace(API, trouble="connection refused", trouble_since=ago(12))
    refused = tuple(refusal(f"spiffe://a.b/{n}", n, since=ago(n + 5)) for n in range(3))
    told = line(moment(doors=(down,), denials=refused))
    assert told.words == "3 callers refused, 1 application down, certificate fine"
    assert (told.level, told.since) == (Level.BAD, ago(12))
    fine = find(moment(doors=(API,)))
    assert fine == ()
    assert told.turn == (
        "whoever runs the application at 127.0.0.1:8080",
        "the callers",
        "who writes the rules here",
    )


def test_a_caller_counts_once_however_often_and_for_whatever_it_is_refused() -> None:
    rows = (
        refusal("spiffe://a.b/x", since=ago(9)),
        refusal("spiffe://a.b/x", outcome="peer_untrusted", since=ago(20)),
        refusal(None, source="10.0.0.7:1"),
        refusal(None, source="10.0.0.7:2"),
        refusal(None, source="[2001:db8::1]:2"),
    )
    told = line(moment(denials=rows))
    assert told.words == "3 callers refused, certificate fine"
    assert (told.level, told.since) == (Level.WARN, ago(20))


def test_who_was_refused_long_ago_is_no_trouble_any_more() -> None:
    for minutes, counted in ((14.9, True), (15, True), (15.1, False)):
        assert (
            "1 caller refused" in line(moment(denials=(refusal("x", minutes),))).words
        ) is counted


def test_where_callers_had_to_go_from_the_list_there_are_so_many_or_more() -> None:
    rows = tuple(refusal(f"spiffe://a.b/{n}") for n in range(50))
    there = refusal("x", direction="outbound", outcome="peer_refused")
    some = moment(denials=(*rows, there), lost=(LostRow("inbound", "denied", ago(14)),))
    assert line(some).words == (
        "50 or more callers refused, refused by 1 destination, certificate fine"
    )
    one = replace(some, denials=rows[:1])
    assert line(one).words == "1 or more callers refused, certificate fine"
    at_the_limit = moment(denials=rows, lost=(LostRow("inbound", "denied", ago(15)),))
    assert line(at_the_limit).words == "50 or more callers refused, certificate fine"
    for lost in (
        LostRow("inbound", "denied", ago(16)),
        LostRow("inbound", "connect_failed", ago(1)),
        LostRow("outbound", "denied", ago(1)),
    ):
        told = line(moment(denials=rows, lost=(lost,))).words
        assert told == "50 callers refused, certificate fine"
    assert line(moment(lost=(LostRow("inbound", "denied", ago(1)),))) == line(FINE)


def test_whose_turn_a_refusal_is_depends_on_what_was_wrong() -> None:
    for outcome, turn in (
        ("denied", ("the callers", "who writes the rules here")),
        ("policy_changed", ("the callers", "who writes the rules here")),
        ("peer_untrusted", ("the callers",)),
        ("handshake_failed", ("the callers",)),
    ):
        assert line(moment(denials=(refusal("x", outcome=outcome),))).turn == turn


def test_of_several_refusals_of_a_caller_the_first_says_since_when_and_whose_turn_it_is() -> None:
    first = refusal("x", 9, outcome="peer_untrusted")
    later = refusal("x", 2, since=ago(5))
    again = refusal("x", 1, since=ago(9), outcome="peer_untrusted")
    for rows in ((first, later), (later, first), (again, later), (again, refusal("x", 5))):
        told = line(moment(denials=rows))
        assert (told.since, told.turn) == (ago(9), ("the callers",))


def test_a_refusal_behind_a_door_without_a_destination_is_told_by_its_door() -> None:
    out: dict[str, Any] = {"direction": "outbound", "door": "127.0.0.1:1", "destination": None}
    told = line(moment(denials=(refusal(None, outcome="peer_untrusted", **out),)))
    assert told.turn == ("whoever runs 127.0.0.1:1",)


def test_a_handshake_that_failed_says_not_who_distrusts_whom() -> None:
    out: dict[str, Any] = {"direction": "outbound", "door": "127.0.0.1:1", "destination": "db"}
    told = line(moment(denials=(refusal(None, outcome="handshake_failed", **out),)))
    assert told.words == "no handshake with 1 destination, certificate fine"
    assert told.turn == ("whoever runs db",)


def test_both_sides_of_outbound_refusals_are_told_apart() -> None:
    out: dict[str, Any] = {"direction": "outbound", "door": "127.0.0.1:5432", "destination": "db"}
    rows = (
        refusal(None, outcome="peer_refused", **out),
        refusal("spiffe://a.b/x", outcome="peer_unexpected", **out),
    )
    told = line(moment(denials=rows))
    assert told.words == "refused by 1 destination, 1 destination not trusted, certificate fine"
    assert told.turn == ("whoever runs db", "who writes the `identities` of db here")


def test_what_a_door_does_not_lead_to_is_told_by_who_asked() -> None:
    asked = refusal("spiffe://a.b/x", outcome="no_destination", reason="port 1 isn't listed")
    told = line(moment(denials=(asked,)))
    assert told.words == "1 caller refused, certificate fine"
    assert told.turn == ("the callers", "who writes the doors here")
    ours = replace(asked, direction="outbound", destination=None, door="captured")
    told = line(moment(denials=(ours,)))
    assert told.words == "1 door asked for what no destination matches, certificate fine"
    assert told.turn == ("the application", "who writes the destinations here")


def test_a_destination_that_is_down_because_of_a_refusal_is_one_cause() -> None:
    out: dict[str, Any] = {"direction": "outbound", "door": "127.0.0.1:5432", "destination": "db"}
    for outcome in ("peer_refused", "peer_untrusted", "peer_unexpected", "handshake_failed"):
        row = refusal(None, outcome=outcome, reason="why", **out)
        fine = EndpointRow("10.0.0.1:1", "db:1", 1, False)
        failing = replace(fine, reason="why", since=ago(1))
        at = moment(destinations=(DestinationRow("db", "mtls", (), (failing,)),), denials=(row,))
        assert line(at).words == "1 destination down, certificate fine"
        some = replace(at, destinations=(DestinationRow("db", "mtls", (), (fine, failing)),))
        assert line(some).words.endswith("1 address failing, certificate fine")
        assert line(some).words.count("1 ") == 2


def test_a_peer_that_is_refused_for_want_of_a_bundle_is_the_turn_of_who_gives_us_bundles() -> None:
    out: dict[str, Any] = {"direction": "outbound", "door": "127.0.0.1:5432", "destination": "db"}
    agent = "the SPIFFE agent at the Workload API"
    at = moment(certificates=certificates(source={}))
    for rule in ("X5-17", "TB-5", "UP-3", "UP-4"):
        caller = refusal(None, outcome="peer_untrusted", rule=rule)
        assert line(replace(at, denials=(caller,))).turn == (agent, "the callers")
        called = refusal(None, outcome="peer_untrusted", rule=rule, reason="why", **out)
        assert line(replace(at, denials=(called,))).turn == (agent, "whoever runs db")
        end = EndpointRow("10.0.0.1:1", "db:1", 0, True, "why", ago(1))
        down = (DestinationRow("db", "mtls", (), (end,)),)
        assert only(replace(at, destinations=down, denials=(called,))).turn == (
            f"{agent} or whoever runs db"
        )
        other = replace(called, reason="another")
        assert only(replace(at, destinations=down, denials=(other,))).turn == "whoever runs db"
    reason = "no root of a.b signed the chain"
    unknown = refusal(None, outcome="peer_untrusted", rule="X5-14", reason=reason)
    assert line(replace(at, denials=(unknown,))).turn == (agent, "the callers")
    expired = refusal(None, outcome="peer_untrusted", rule="X5-14")
    assert line(replace(at, denials=(expired,))).turn == ("the callers",)


def test_a_denial_whose_cause_has_a_line_of_its_own_is_not_counted_again() -> None:
    rows = tuple(
        refusal("x", outcome=each) for each in ("connect_failed", "timed_out", "no_identity")
    )
    assert line(moment(denials=rows)).level is Level.GOOD


def test_a_destination_is_down_when_all_of_its_addresses_are() -> None:
    fine = EndpointRow("10.0.0.1:1", "db:1", 1, False)
    one = EndpointRow("10.0.0.2:1", "db:1", 0, True, "refused by .2", ago(3))
    other = EndpointRow("10.0.0.3:1", "db:1", 0, False, "refused by .3", ago(2))
    some = moment(destinations=(DestinationRow("db", "mtls", (), (fine, one)),))
    assert only(some).kind is Kind.ADDRESS
    assert line(some).words == "1 address failing, certificate fine"
    all_ = moment(destinations=(DestinationRow("db", "mtls", (), (one, other)),))
    told = only(all_)
    assert (told.kind, told.since, told.turn) == (Kind.DESTINATION, ago(2), "whoever runs db")
    assert "refused by .3" in told.words
    unresolved = moment(destinations=(DestinationRow("db", "mtls", (), ()),))
    assert find(unresolved) == ()


def test_a_name_that_cannot_be_resolved_is_bad_unless_it_was_before() -> None:
    names = (UnresolvedRow("db.internal:5432", "no such name", ago(4)),)
    at = moment(destinations=(DestinationRow("db", "mtls", (), (), names),))
    told = only(at)
    assert (told.kind, told.level, told.since) == (Kind.NAME, Level.BAD, ago(4))
    assert told.words == "db.internal:5432 can't be resolved: no such name (destination db)"
    assert line(at).words == "1 name not resolved, certificate fine"
    known = EndpointRow("10.0.0.1:1", "db.internal:5432", 0, False)
    still = moment(destinations=(DestinationRow("db", "mtls", (), (known,), names),))
    assert only(still).level is Level.WARN


def test_a_door_that_leads_to_a_destination_is_not_a_second_cause() -> None:
    door = replace(API, direction="outbound", to="db", trouble="refused", trouble_since=ago(1))
    assert find(moment(doors=(door,))) == ()


def test_the_headline_names_a_few_of_many_and_counts_the_rest() -> None:
    down = (EndpointRow("10.0.0.2:1", "db:1", 0, True, "refused", ago(3)),)
    at = moment(destinations=tuple(DestinationRow(f"d{n}", "mtls", (), down) for n in range(9)))
    told = line(at)
    assert told.words == "9 destinations down, certificate fine"
    few = tuple(f"whoever runs d{n}" for n in range(TURNS_SHOWN))
    assert told.turn == (*few, "4 more")
    for count, turn in ((TURNS_SHOWN, few), (TURNS_SHOWN + 1, (*few, "1 more"))):
        assert line(replace(at, destinations=at.destinations[:count])).turn == turn


def test_a_stale_configuration_is_told_once_with_its_file() -> None:
    stale = Stale("/etc/uproxy/orders.yaml", ago(33), ("name: no such key",), 1)
    at = moment(stale=stale, readiness=Readiness((), ("config_stale: name: no such key",)))
    told = only(at)
    assert (told.words, told.since) == ("/etc/uproxy/orders.yaml is not in force", ago(33))
    assert line(at).words == "configuration stale, certificate fine"


def test_a_note_without_a_colon_is_shown_whole_and_one_with_it_without_its_word() -> None:
    at = moment(readiness=Readiness((), ("something", "word: the rest")))
    assert [(each.kind, each.words) for each in find(at)] == [
        (Kind.OTHER, "something"),
        (Kind.OTHER, "the rest"),
    ]


def test_without_a_usable_bundle_it_is_the_issuers_turn() -> None:
    reason = "no bundle has a usable root: all peers are refused"
    at = moment(readiness=Readiness((reason,)), certificates=certificates(source={}))
    told = only(at)
    assert (told.kind, told.level) == (Kind.TRUST, Level.BAD)
    assert told.turn == "the SPIFFE agent at the Workload API"
    assert line(at).words == "all peers refused, certificate fine"


def test_starting_and_draining_are_nobodys_fault() -> None:
    for reason, kind in (
        ("starting: waiting for the first identity", Kind.STARTING),
        ("draining", Kind.DRAINING),
    ):
        told = only(moment(readiness=Readiness((reason,))))
        assert (told.kind, told.level) == (kind, Level.WARN)
        assert told.turn.startswith("nobody: ")


def test_nothing_is_fine_about_a_certificate_that_is_not_there_to_renew() -> None:
    reason = "no identity yet: no agent"
    assert line(moment(readiness=Readiness((reason,)))).words == "no identity"


def test_what_cannot_be_renewed_is_not_a_second_cause_when_it_gets_old() -> None:
    svid = certificates().svid
    assert svid is not None
    old = replace(svid, not_before=ago(59), expires=NOW + timedelta(minutes=1))
    notes = Readiness((), ("identity_stale: the agent is gone",))
    at = moment(certificates=certificates(svid=old), readiness=notes)
    assert only(at).kind is Kind.RENEWAL


def test_without_an_identity_it_is_the_agents_turn() -> None:
    reason = "no identity yet: no agent at /run/x.sock"
    at = moment(
        readiness=Readiness((reason,), (), {"no identity yet": ago(4)}),
        certificates=certificates(
            svid=None, source={"source": "workload_api", "address": "unix:///run/x.sock"}
        ),
    )
    assert only(at) == Trouble(
        Kind.IDENTITY, Level.BAD, reason, ago(4), "the SPIFFE agent at unix:///run/x.sock"
    )
    assert line(at).words == "no identity"


def test_files_are_renewed_by_somebody_else_than_an_agent() -> None:
    note = "identity_stale: svid.key doesn't fit"
    at = moment(
        readiness=Readiness((), (note,)), certificates=certificates(source={"source": "files"})
    )
    assert only(at).turn == "whoever renews the identity's files"
    assert line(at).words == "identity not renewed"


def test_a_certificate_that_should_have_been_renewed_is_trouble_before_it_expires() -> None:
    svid = certificates().svid
    assert svid is not None
    for left, fine in ((20, True), (15.1, True), (15, False), (14, False)):
        until = NOW + timedelta(minutes=left)
        old = replace(svid, not_before=until - timedelta(hours=1), expires=until)
        at = moment(certificates=certificates(svid=old))
        assert ("certificate fine" in line(at).words) is fine
        assert ("certificate about to expire" in line(at).words) is not fine
        assert [each.since for each in find(at)] == (
            [] if fine else [until - timedelta(minutes=15)]
        )


def test_the_descriptor_clamp_is_a_note_until_it_is_near() -> None:
    clamp = "limits_clamped: limits.connections = 20000 is clamped to 400"
    far = moment(readiness=Readiness((), (clamp,)))
    assert only(far).level is Level.NOTE
    assert line(far).level is Level.GOOD
    near = moment(readiness=Readiness((), (clamp, "limits_near: 390 of 400 connections: raise")))
    assert line(near).words == "connections near their limit, certificate fine"


@pytest.mark.parametrize("word", ["jwt_bundles_stale", "token_missing", "token_stale"])
def test_tokens_and_their_bundles_are_the_agents_turn(word: str) -> None:
    trouble = only(moment(readiness=Readiness((), (f"{word}: no answer for a minute",))))
    assert (trouble.kind, trouble.level) == (Kind.OTHER, Level.WARN)
    assert trouble.words == "no answer for a minute"
    assert trouble.turn.startswith("the SPIFFE agent at ")


def test_the_worst_comes_first_whatever_it_is_about() -> None:
    down = replace(API, trouble="refused", trouble_since=ago(1))
    at = moment(readiness=Readiness(("draining",)), doors=(down,))
    assert [each.kind for each in find(at)] == [Kind.APPLICATION, Kind.DRAINING]


def test_what_does_not_answer_comes_first() -> None:
    at = moment(
        liveness=("an engine thread doesn't answer",),
        readiness=Readiness(("draining",), ("distrusted: a CRL can't be read",)),
    )
    assert [each.kind for each in find(at)] == [Kind.STUCK, Kind.DRAINING, Kind.DISTRUSTED]
    assert line(at).words == "not answering, draining, 1 bundle or CRL unusable, certificate fine"


def test_without_tls_nothing_is_said_of_a_certificate() -> None:
    assert line(moment(certificates=certificates(svid=None))).words == "nothing is wrong"


def test_every_kind_has_words_for_one_and_for_many() -> None:
    for kind in Kind:
        assert kind.words(1)
        assert "{" not in kind.words(1200)


def test_an_address_of_an_l7_proxy_that_fails_is_told_while_others_serve() -> None:
    trouble = only(moment(l7_proxies=(l7_row(),)))
    assert (trouble.kind, trouble.level) == (Kind.ADDRESS, Level.WARN)
    assert trouble.words == (
        "an address of L7 proxy l7 fails: L7 proxy l7 at 10.0.0.11:15008: no answer"
    )
    assert trouble.turn == "whoever runs L7 proxy l7"


def test_an_l7_proxy_without_an_address_in_use_is_down() -> None:
    first, draining, failing = l7_row().endpoints
    for when, words in (
        ("refuse", "L7 proxy l7 can't be used: "),
        ("bypass", "connections go past L7 proxy l7, without its policy: "),
    ):
        row = l7_row(endpoints=(draining, failing), when_unavailable=when)
        trouble = only(moment(l7_proxies=(row,)))
        assert (trouble.kind, trouble.level) == (Kind.L7_PROXY, Level.BAD)
        assert trouble.words == words + str(failing.reason)
    [told] = find(moment(l7_proxies=(l7_row(endpoints=(draining,)),)))
    assert told.words == "L7 proxy l7 can't be used: each of its addresses is draining"
    assert find(moment(l7_proxies=(l7_row(endpoints=(first, draining)),))) == ()
    assert line(moment(l7_proxies=(l7_row(endpoints=(draining,)),))).words == (
        "1 L7 proxy down, certificate fine"
    )


def test_an_l7_proxy_is_down_since_its_last_address_failed_and_for_that_reason() -> None:
    _first, draining, failing = l7_row().endpoints
    at = (ago(3), ago(1), None)
    failed = tuple(replace(failing, reason=f"failure {n}", since=at[n]) for n in range(3))
    trouble = only(moment(l7_proxies=(l7_row(endpoints=(*failed, draining)),)))
    assert trouble.words == "L7 proxy l7 can't be used: failure 2"
    assert trouble.since == ago(1)
    assert only(moment(l7_proxies=(l7_row(endpoints=failed[:1]),))).since == ago(3)
    assert only(moment(l7_proxies=(l7_row(endpoints=failed[2:]),))).since is None


@pytest.mark.parametrize("when", ["refuse", "bypass"])
def test_an_l7_proxy_of_which_only_health_checks_fail_is_not_said_to_be_gone_past(
    when: str,
) -> None:
    _first, draining, failing = l7_row().endpoints
    unhealthy = replace(failing, reason="its health check fails", only_unhealthy=True)
    row = l7_row(endpoints=(draining, unhealthy), when_unavailable=when)
    trouble = only(moment(l7_proxies=(row,)))
    assert (trouble.kind, trouble.level) == (Kind.L7_PROXY, Level.WARN)
    assert trouble.words == (
        "no address of L7 proxy l7 passes its health check, so all are tried: "
        "its health check fails"
    )
    assert trouble.turn == "whoever runs L7 proxy l7, or has set its `health`"
    row = l7_row(endpoints=(failing, unhealthy), when_unavailable=when)
    assert "passes its health check" in only(moment(l7_proxies=(row,))).words


def test_a_name_of_an_l7_proxy_that_cannot_be_resolved_is_told() -> None:
    unresolved = (UnresolvedRow("l7.internal:15008", "no such host"),)
    trouble = only(moment(l7_proxies=(l7_row(endpoints=(), unresolved=unresolved),)))
    assert (trouble.kind, trouble.level) == (Kind.NAME, Level.BAD)
    assert trouble.words == "l7.internal:15008 can't be resolved: no such host (L7 proxy l7)"
    usable = l7_row(endpoints=l7_row().endpoints[:1], unresolved=unresolved)
    assert only(moment(l7_proxies=(usable,))).level is Level.WARN


def test_a_destination_whose_l7_proxy_refuses_has_refused_and_one_that_is_down_is_told_once() -> (
    None
):
    out: dict[str, Any] = {"direction": "outbound", "door": "127.0.0.1:1", "destination": "db"}
    refused = refusal(None, outcome="l7_refused", **out)
    assert line(moment(denials=(refused,))).words.startswith("refused by 1 destination")
    down = refusal(None, outcome="l7_unavailable", **out)
    assert line(moment(denials=(down,))).words == "nothing is wrong, certificate fine"
