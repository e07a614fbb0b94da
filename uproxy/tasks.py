"""Tasks that run until they are cancelled, and whose defects don't stay unseen.

asyncio says nothing of an exception that has ended a task, as long as somebody keeps the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def background(work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
    """Begin a task.  If an exception ends it, the event loop's exception handler gets that at once,
    and logs it."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_surface_defect)
    return task


def _surface_defect(task: asyncio.Task[Any]) -> None:
    """Raise what has ended a task: what a callback raises reaches the loop's exception handler."""
    if not task.cancelled():
        task.result()
