"""The verdict on an open connection, whatever comes together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from uproxy.connections.recheck import Distrust, Findings, verdict
from uproxy.model import Outcome
from uproxy.policy import Decision
from uproxy.snapshot import RecheckActions

NOW = datetime(2026, 1, 1, tzinfo=UTC)

words = st.sampled_from(("close", "keep"))
actions = st.builds(RecheckActions, words, words, words)
moments = st.integers(-2, 2).map(lambda seconds: NOW + timedelta(seconds=seconds))
all_findings = st.builds(
    Findings,
    decision=st.none() | st.builds(Decision, st.booleans(), st.none() | st.just("r"), st.text()),
    distrust=st.none() | st.builds(Distrust, st.text(), st.just("X5-17")),
    not_after=st.none() | moments,
)


def faults(findings: Findings, actions: RecheckActions) -> set[Outcome]:
    found = set()
    if findings.distrust and actions.on_distrust == "close":
        found.add(Outcome.IDENTITY_DISTRUSTED)
    if findings.decision and not findings.decision.allowed:
        found |= {Outcome.POLICY_CHANGED} if actions.on_policy_change == "close" else set()
    if findings.not_after in (NOW - timedelta(seconds=1), NOW - timedelta(seconds=2)):
        found |= {Outcome.IDENTITY_EXPIRED} if actions.on_expiry == "close" else set()
    return found


@given(all_findings, actions)
def test_it_stays_open_exactly_when_nothing_that_closes_has_happened(
    findings: Findings, actions: RecheckActions
) -> None:
    refusal = verdict(findings, actions, NOW)
    possible = faults(findings, actions)
    assert (refusal is None) == (not possible)
    if refusal is not None:
        assert refusal.outcome in possible


@given(all_findings, actions)
def test_the_gravest_reason_is_told_with_its_own_words(
    findings: Findings, actions: RecheckActions
) -> None:
    refusal = verdict(findings, actions, NOW)
    order = (Outcome.IDENTITY_DISTRUSTED, Outcome.POLICY_CHANGED, Outcome.IDENTITY_EXPIRED)
    found = faults(findings, actions)
    if refusal is None:
        return
    assert refusal.outcome is next(each for each in order if each in found)
    if refusal.outcome is Outcome.IDENTITY_DISTRUSTED and findings.distrust:
        assert (refusal.reason, refusal.rule) == (findings.distrust.reason, "X5-17")
    if refusal.outcome is Outcome.POLICY_CHANGED and findings.decision:
        assert (refusal.reason, refusal.rule) == (findings.decision.reason, findings.decision.rule)


@given(all_findings)
def test_keep_everywhere_keeps_everything(findings: Findings) -> None:
    assert verdict(findings, RecheckActions("keep", "keep", "keep"), NOW) is None
