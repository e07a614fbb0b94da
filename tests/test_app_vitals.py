"""Whether a uProxy is ready and alive, told by its real parts while it serves nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.helpers.orders import orders_settings, orders_vitals
from uproxy.app import vitals as app_vitals
from uproxy.app.facts import Facts
from uproxy.app.vitals import Vitals
from uproxy.connections import Connections
from uproxy.descriptors import Budget
from uproxy.identity.files import FilesSource
from uproxy.metrics.history import STEP_S


@pytest.fixture
async def vitals(tmp_path: Path) -> Vitals:
    return orders_vitals(orders_settings(tmp_path))


async def test_without_an_identity_it_is_not_ready_and_says_why(vitals: Vitals) -> None:
    reasons = vitals.readiness().reasons
    assert reasons == ("no identity yet: the identity's files have not been read yet",)


async def test_with_an_identity_it_is_ready_and_shows_it(vitals: Vitals) -> None:
    await vitals.parts.source.start()
    assert vitals.readiness().reasons == ()
    svid = Facts.beside(vitals).certificates().svid
    assert svid is not None
    assert svid.spiffe_id == "spiffe://example.org/ns/shop/sa/orders"
    await vitals.parts.source.stop()


async def test_files_that_cannot_renew_the_identity_are_a_note(
    vitals: Vitals, tmp_path: Path
) -> None:
    await vitals.parts.source.start()
    (tmp_path / "svid.key").write_text("half written")
    source = vitals.parts.source
    assert isinstance(source, FilesSource)
    source.reload()
    (note,) = vitals.readiness().notes
    assert note.startswith("identity_stale: ")
    assert "svid.key" in note
    assert vitals.readiness().reasons == ()
    await source.stop()


async def test_an_identity_that_is_gone_is_not_a_first_one(vitals: Vitals) -> None:
    await vitals.parts.source.start()
    await vitals.parts.source.stop()
    lost = replace(vitals.parts.source.current, svid=None, reason="it expired")
    vitals.parts.source._current = lost  # type: ignore[attr-defined]  # as its base would
    vitals.parts.current.credentials_changed(lost, lost)
    assert vitals.readiness().reasons == ("no identity any more: it expired",)


async def test_draining_is_a_reason_in_words(vitals: Vitals) -> None:
    vitals.state.draining = True
    assert "draining" in vitals.readiness().reasons


async def test_reasons_and_notes_have_a_beginning(
    vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [datetime(2026, 1, 1, 12, minute, tzinfo=UTC) for minute in range(3)]
    monkeypatch.setattr(app_vitals, "now", lambda: times[0])
    vitals.look()
    vitals.state.draining = True
    monkeypatch.setattr(app_vitals, "now", lambda: times[1])
    monkeypatch.setattr(vitals.parts.engine, "responsive", lambda: False)
    told = vitals.readiness().since
    assert told == {
        "no identity yet": times[0],
        "draining": times[1],
        "an engine thread doesn't answer": times[1],
    }


async def test_a_look_makes_a_step_of_the_history(vitals: Vitals) -> None:
    assert Facts.beside(vitals).rates().opened == ()
    vitals.look()
    assert Facts.beside(vitals).rates().opened == (0.0,)
    assert Facts.beside(vitals).rates().step == STEP_S


async def test_many_connections_are_a_note_before_there_are_too_many(
    vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    await vitals.parts.source.start()
    vitals.state.budget = Budget(400, 100, "clamped to 100: raise LimitNOFILE")
    for active, near in ((79, False), (80, True)):
        monkeypatch.setattr(Connections, "active", active)
        notes = vitals.readiness().notes
        assert "limits_clamped: clamped to 100: raise LimitNOFILE" in notes
        assert (
            "limits_near: 80 of 100 connections: clamped to 100: raise LimitNOFILE" in notes
        ) is near
    vitals.state.budget = Budget(4000, 100, None)
    assert vitals.readiness().notes == (
        "limits_near: 80 of 100 connections: raise limits.connections",
    )
    await vitals.parts.source.stop()


async def test_an_engine_that_does_not_answer_is_not_alive(
    vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vitals.liveness() == ()
    monkeypatch.setattr(vitals.parts.engine, "responsive", lambda: False)
    assert vitals.liveness() == ("an engine thread doesn't answer",)
