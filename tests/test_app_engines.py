"""The engine is the one that was asked for, or an error."""

from __future__ import annotations

import errno
import sys
import threading

import pytest

from uproxy import processors as cpus
from uproxy.app.engines import make_engine
from uproxy.errors import EngineError
from uproxy.transport.native import NativeEngine
from uproxy.transport.native import loop as native
from uproxy.transport.python import PythonEngine


async def test_each_name_has_its_engine() -> None:
    for name, kind in (("python", PythonEngine), ("native", NativeEngine)):
        engine = make_engine(name, None)
        assert type(engine) is kind
        await engine.stop()


@pytest.mark.parametrize(
    ("processors", "workers", "expected"), [(1, None, 1), (64, None, 4), (1, 7, 7)]
)
async def test_an_engine_has_the_workers_asked_for_or_one_per_processor_up_to_four(
    monkeypatch: pytest.MonkeyPatch, processors: int, workers: int | None, expected: int
) -> None:
    monkeypatch.setattr(cpus, "allowed", lambda: processors)
    before = threading.active_count()
    engine = make_engine("native", workers)
    assert threading.active_count() - before == expected
    await engine.stop()
    assert threading.active_count() == before


async def test_a_missing_engine_is_an_error_and_never_the_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [each for each in sys.modules if each.startswith("uproxy.transport.native")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uproxy.transport.native._engine", None)
    with pytest.raises(EngineError, match="say engine: python"):
        make_engine("native", None)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EMFILE, "no descriptor or memory for a thread"), "no descriptor"),
        (RuntimeError("can't start new thread"), "can't start"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_more_threads_than_can_be_had_are_an_error_that_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def core(threads: int, *_rest: object) -> None:
        assert threads == 5000
        raise error

    monkeypatch.setattr(native, "Core", core)
    with pytest.raises(EngineError, match=rf"no 5000 threads \({why}.*\): ask for fewer `workers`"):
        make_engine("native", 5000)
