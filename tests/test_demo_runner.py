"""One run of the demonstration: its exit code, and what a signal does to it."""

from __future__ import annotations

import asyncio
import io
import os
import signal

import pytest

from uproxy.demo import runner
from uproxy.demo.runner import run_demo
from uproxy.demo.screen import Screen
from uproxy.demo.story import Story
from uproxy.errors import UproxyError
from uproxy.lab.waiting import eventually


class Broken(Story):
    """It fails when it has begun."""

    async def tell(self) -> None:
        await self._world.start_authority()
        raise UproxyError("something isn't as it should be")


@pytest.mark.slow
async def test_it_ends_by_itself_if_it_is_to() -> None:
    stream = io.StringIO()
    assert await run_demo(Screen(stream, {}), real=False, once=True) == 0
    assert stream.getvalue().endswith("ended: programs, sockets and files are gone\n")


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("2  Two workloads", signal.SIGTERM, 128 + signal.SIGTERM),
        ("3  Traffic", signal.SIGHUP, 128 + signal.SIGHUP),
        ("Ctrl-C ends it", signal.SIGINT, 0),
    ],
)
async def test_a_signal_ends_it(moment: str, number: signal.Signals, code: int) -> None:
    stream = io.StringIO()
    task = asyncio.create_task(run_demo(Screen(stream, {}), real=False, once=False))
    await eventually(lambda: moment in stream.getvalue(), moment, timeout=60)
    os.kill(os.getpid(), number)
    assert await task == code


async def test_what_fails_is_raised_when_everything_is_taken_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "Story", Broken)
    stream = io.StringIO()
    with pytest.raises(UproxyError, match="isn't as it should be"):
        await run_demo(Screen(stream, {}), real=False, once=True)
    assert "ended:" not in stream.getvalue()
