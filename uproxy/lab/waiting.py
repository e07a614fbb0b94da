"""Waits for conditions by polling with a deadline.

If a condition doesn't become true, the AssertionError says what was waited for and the value that
the condition last had.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.01
"""Seconds between two checks."""


def wait_until(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Wait until `condition()` is true; return its value.

    Raises:
        AssertionError: it did not become true within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        time.sleep(INTERVAL)
    return seen


async def eventually(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """As `wait_until`, for the event loop: other tasks run between two checks.

    Raises:
        AssertionError: it did not become true within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        await asyncio.sleep(INTERVAL)
    return seen
