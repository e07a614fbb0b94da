"""The verdict on an open connection, whatever comes together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from uproxy.connections.judging import Distrust, Standing, Switches, verdict
from uproxy.model import Outcome
from uproxy.policy import Decision

NOW = datetime(2026, 1, 1, tzinfo=UTC)

words = st.sampled_from(("close", "keep"))
switches = st.builds(Switches, words, words, words)
moments = st.integers(-2, 2).map(lambda seconds: NOW + timedelta(seconds=seconds))
standings = st.builds(
    Standing,
    decision=st.none() | st.builds(Decision, st.booleans(), st.none() | st.just("r"), st.text()),
    distrust=st.none() | st.builds(Distrust, st.text(), st.just("X5-17")),
    not_after=st.none() | moments,
)


def faults(standing: Standing, switches: Switches) -> set[Outcome]:
    found = set()
    if standing.distrust and switches.on_distrust == "close":
        found.add(Outcome.IDENTITY_DISTRUSTED)
    if standing.decision and not standing.decision.allowed:
        found |= {Outcome.POLICY_CHANGED} if switches.on_policy_change == "close" else set()
    if standing.not_after in (NOW - timedelta(seconds=1), NOW - timedelta(seconds=2)):
        found |= {Outcome.IDENTITY_EXPIRED} if switches.on_expiry == "close" else set()
    return found


@given(standings, switches)
def test_it_stays_open_exactly_when_nothing_that_closes_has_happened(
    standing: Standing, switches: Switches
) -> None:
    refusal = verdict(standing, switches, NOW)
    possible = faults(standing, switches)
    assert (refusal is None) == (not possible)
    if refusal is not None:
        assert refusal.outcome in possible


@given(standings, switches)
def test_the_gravest_reason_is_told_with_its_own_words(
    standing: Standing, switches: Switches
) -> None:
    refusal = verdict(standing, switches, NOW)
    order = (Outcome.IDENTITY_DISTRUSTED, Outcome.POLICY_CHANGED, Outcome.IDENTITY_EXPIRED)
    found = faults(standing, switches)
    if refusal is None:
        return
    assert refusal.outcome is next(each for each in order if each in found)
    if refusal.outcome is Outcome.IDENTITY_DISTRUSTED and standing.distrust:
        assert (refusal.reason, refusal.rule) == (standing.distrust.reason, "X5-17")
    if refusal.outcome is Outcome.POLICY_CHANGED and standing.decision:
        assert (refusal.reason, refusal.rule) == (standing.decision.reason, standing.decision.rule)


@given(standings)
def test_keep_everywhere_keeps_everything(standing: Standing) -> None:
    assert verdict(standing, Switches("keep", "keep", "keep"), NOW) is None
