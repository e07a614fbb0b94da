"""Statuses: what a refused CONNECT is answered with, and what an answer means."""

from __future__ import annotations

import pytest

from uproxy.hbone import statuses
from uproxy.hbone.codes import ErrorCode
from uproxy.model import Outcome


def test_policy_and_destinations_have_statuses_of_their_own() -> None:
    assert statuses.status_of(Outcome.DENIED) == 403
    assert statuses.status_of(Outcome.NO_DESTINATION) == 400


def test_a_limit_has_no_status_because_it_may_be_tried_elsewhere() -> None:
    assert statuses.status_of(Outcome.LIMIT) is None


_OTHERS = set(Outcome) - {Outcome.DENIED, Outcome.NO_DESTINATION, Outcome.LIMIT}


@pytest.mark.parametrize("outcome", sorted(_OTHERS))
def test_everything_else_is_unavailable(outcome: Outcome) -> None:
    assert statuses.status_of(outcome) == 503


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_by_policy_is_one_whether_of_ztunnel_or_of_envoy(status: int) -> None:
    assert statuses.meaning_of(status) == (
        Outcome.PEER_REFUSED,
        f"the peer answered the CONNECT with {status}: its policy doesn't allow us there",
    )


@pytest.mark.parametrize("status", [400, 404, 503, 201, 302, 500])
def test_every_other_status_is_a_connection_that_failed(status: int) -> None:
    outcome, reason = statuses.meaning_of(status)
    assert outcome is Outcome.CONNECT_FAILED
    assert f"with {status}: " in reason


@pytest.mark.parametrize(
    ("status", "probably", "at_l7"),
    [
        (400, "isn't one of its addresses", "takes the request for malformed"),
        (403, "its policy doesn't allow us there", "its policy doesn't let us through"),
        (404, "knows no such destination", "has no route for this destination"),
        (503, "can't reach the destination", "no healthy way to the destination"),
        (500, "is it an HBONE server?", "does a listener for CONNECT answer there?"),
    ],
)
def test_a_status_is_explained_for_who_answers_so(status: int, probably: str, at_l7: str) -> None:
    assert probably in statuses.meaning_of(status)[1]
    assert at_l7 in statuses.meaning_of(status, at_l7=True)[1]


@pytest.mark.parametrize(
    ("code", "probably"),
    [
        (ErrorCode.REFUSED_STREAM, "as many streams as it may have"),
        (ErrorCode.CONNECT_ERROR, "can't reach the destination"),
        (ErrorCode.PROTOCOL_ERROR, "takes the request for malformed"),
        (ErrorCode.ENHANCE_YOUR_CALM, "for one of too many"),
        (ErrorCode.INTERNAL_ERROR, "could not or would not serve it"),
    ],
)
def test_a_code_is_explained(code: ErrorCode, probably: str) -> None:
    assert probably in statuses.meaning_of_reset(code)[1]


def test_who_is_connected_is_answered_with_200() -> None:
    assert statuses.CONNECTED == 200


@pytest.mark.parametrize("status", [400, 401, 403, 404, 503, 201])
def test_an_l7_proxy_that_answers_anything_else_has_refused(status: int) -> None:
    outcome, reason = statuses.meaning_of(status, at_l7=True)
    assert outcome is Outcome.L7_REFUSED
    assert f"with {status}: " in reason


def test_an_l7_proxy_that_resets_has_refused_unless_it_hasnt_looked() -> None:
    for code in ErrorCode:
        has_refused = statuses.meaning_of_reset(code, at_l7=True)[0] is Outcome.L7_REFUSED
        assert has_refused == (code is not ErrorCode.REFUSED_STREAM)


@pytest.mark.parametrize("outcome", [Outcome.DENIED, Outcome.CONNECT_FAILED])
def test_what_we_say_is_understood_by_one_of_us(outcome: Outcome) -> None:
    status = statuses.status_of(outcome)
    assert status is not None
    understood = statuses.meaning_of(status)[0]
    assert (understood is Outcome.PEER_REFUSED) == (outcome is Outcome.DENIED)


@pytest.mark.parametrize("code", ErrorCode)
def test_a_reset_instead_of_an_answer_is_named_and_explained(code: ErrorCode) -> None:
    outcome, reason = statuses.meaning_of_reset(code)
    assert outcome is Outcome.CONNECT_FAILED
    assert reason.startswith(f"the peer reset the CONNECT with {code.name}: ")
