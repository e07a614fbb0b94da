"""Since when something has been so."""

from __future__ import annotations

from datetime import UTC, datetime

from uproxy.app.onsets import Onsets

ONE, TWO, THREE = (datetime(2026, 1, 1, 12, minute, tzinfo=UTC) for minute in (1, 2, 3))


def test_what_goes_on_keeps_its_beginning_whatever_is_said_behind_the_colon() -> None:
    onsets = Onsets()
    assert onsets.look(("no identity yet: no agent",), ONE) == {"no identity yet": ONE}
    both = onsets.look(("no identity yet: agent refused", "draining"), TWO)
    assert both == {"no identity yet": ONE, "draining": TWO}


def test_what_was_gone_begins_anew() -> None:
    onsets = Onsets()
    onsets.look(("draining",), ONE)
    assert onsets.look((), TWO) == {}
    assert onsets.look(("draining",), THREE) == {"draining": THREE}
