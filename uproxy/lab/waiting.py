"""Waiting for something to become true: polled, with a deadline, never a bare sleep.

Failing to become true is an AssertionError that says what was waited for, and what was last
seen if the caller can tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.01
"""Seconds between two looks."""


def wait_until(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Look until `condition()` is true; returns what it gave.

    Raises:
        AssertionError: it did not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        time.sleep(INTERVAL)
    return seen


async def eventually(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """`wait_until` on the event loop: other tasks run between two looks.

    Raises:
        AssertionError: it did not become true within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        await asyncio.sleep(INTERVAL)
    return seen
