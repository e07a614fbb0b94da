"""Work in threads, while the event loop goes on."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading

import pytest

from uproxy.errors import UproxyError
from uproxy.lab.waiting import eventually
from uproxy.offloop import off_loop, short_turns


async def test_the_loop_goes_on_while_a_thread_waits() -> None:
    wait = threading.Event()
    working = asyncio.create_task(off_loop(lambda: wait.wait(60), "work"))
    await asyncio.sleep(0)
    assert any(thread.name == "work" and thread.daemon for thread in threading.enumerate())
    wait.set()
    assert await working


async def test_what_the_work_raises_is_raised_here() -> None:
    def fail() -> None:
        raise RecursionError("too deep")

    with pytest.raises(RecursionError, match="too deep"):
        await off_loop(fail, "work")


async def test_who_gives_up_leaves_the_thread_behind() -> None:
    wait, ended = threading.Event(), threading.Event()

    def work() -> None:
        wait.wait(60)
        ended.set()

    working = asyncio.create_task(off_loop(work, "work"))
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    wait.set()
    await eventually(ended.is_set, "the thread's end, which nobody waits for")


async def test_without_a_thread_to_be_had_the_way_out_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    with pytest.raises(UproxyError, match=r"no thread left for the work .* raise TasksMax"):
        await off_loop(lambda: None, "work")


def test_turns_are_short_only_meanwhile() -> None:
    outside = sys.getswitchinterval()
    before = 0.005
    sys.setswitchinterval(before)
    for _ in range(100):
        with short_turns():
            with short_turns():
                assert sys.getswitchinterval() < before
            assert sys.getswitchinterval() < before
            assert not gc.isenabled()
        assert sys.getswitchinterval() == pytest.approx(before, abs=2e-6)
        assert gc.isenabled()
    sys.setswitchinterval(outside)
