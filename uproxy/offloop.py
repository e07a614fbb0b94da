"""Runs work in a thread of its own, so that the event loop goes on meanwhile.

For what may block (a file on a mount that hangs) and for what computes for long (a large
configuration).  A thread that hangs is left behind: it ends with the process, and keeps nobody
from ending it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from uproxy import signals
from uproxy.errors import UproxyError

_T = TypeVar("_T")


class _Computing:
    """How many threads compute, and what is to be as before when none does any more."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads = 0
        self.turn_s = 0.0


_computing: Final = _Computing()

SHORT_TURN_S: Final = 0.0005
"""How long a computing thread keeps the interpreter while the event loop waits for it.  The loop
waits up to as long before each callback, so ten callbacks are late by 5 ms."""


async def off_loop(work: Callable[[], _T], name: str) -> _T:
    """Return what `work` returns, or raise what it raises.  Cancelling leaves the thread behind.

    Raises:
        UproxyError: no thread can be started.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits for it any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only if `work` returns None

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        signals.start_without(threading.Thread(target=run, name=name, daemon=True))
    except RuntimeError as error:
        raise UproxyError(f"no thread left for the {name} ({error}): raise TasksMax") from None
    return await done


async def compute(work: Callable[[], _T], name: str) -> _T:
    """As `off_loop`, for work that keeps the interpreter busy.

    Raises:
        UproxyError: no thread can be started.
    """

    def in_turns() -> _T:
        with short_turns():
            return work()

    return await off_loop(in_turns, name)


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Let the event loop have the interpreter soon whenever it asks, while this thread computes.

    The garbage collector would stop every thread for tens of milliseconds when many objects are
    made; what is made here has no cycles, so it waits until afterwards.
    """
    with _computing.lock:
        if _computing.threads == 0:
            # whole microseconds, which Python would round down again and again
            _computing.turn_s = round(sys.getswitchinterval(), 6) + 1e-9
            sys.setswitchinterval(min(SHORT_TURN_S, _computing.turn_s))
            gc.disable()
        _computing.threads += 1
    try:
        yield
    finally:
        with _computing.lock:
            _computing.threads -= 1
            if _computing.threads == 0:
                sys.setswitchinterval(_computing.turn_s)
                gc.enable()
