"""The engine is the one that was asked for, or an error."""

from __future__ import annotations

import sys

import pytest

from uproxy.app.engines import make_engine
from uproxy.errors import EngineError
from uproxy.transport.native import NativeEngine
from uproxy.transport.twin import TwinEngine


async def test_each_name_has_its_engine() -> None:
    for name, kind in (("python", TwinEngine), ("native", NativeEngine)):
        engine = make_engine(name)
        assert type(engine) is kind
        await engine.stop()


async def test_a_missing_engine_is_an_error_and_never_the_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [each for each in sys.modules if each.startswith("uproxy.transport.native")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uproxy.engine._engine", None)
    with pytest.raises(EngineError, match="say engine: python"):
        make_engine("native")
