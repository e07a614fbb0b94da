"""Obeying SIGTERM and SIGINT while nothing runs yet that would have to be drained.

Reading the configuration may take half a minute: a pipe that nobody writes to, a mount that
doesn't answer.  Whoever started uProxy by mistake, or stops it again, must not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from uproxy import signals

_T = TypeVar("_T")

_TURNS: Final = 2
"""Turns of the loop until it has called the handler of a signal that came just before."""


async def unless_told_to_quit(work: Coroutine[Any, Any, _T]) -> _T | None:
    """Return what `work` returns, or raise what it raises.  If SIGTERM or SIGINT comes first, or
    has been held back until now, cancel it and return None.

    The signals must be held back when this is called (`signals.hold_back`), and are again when it
    returns.  Threads that `work` starts in its first step don't get any.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    told = asyncio.Event()
    for number in signals.QUITTING:
        loop.add_signal_handler(number, told.set)
    waiting = asyncio.create_task(told.wait())
    signals.let_through(signals.QUITTING)
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        signals.hold_back_those_handled()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for number in signals.QUITTING:
            loop.remove_signal_handler(number)
        waiting.cancel()
    if not told.is_set():
        return await task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None
