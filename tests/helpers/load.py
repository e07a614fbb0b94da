"""Steady background traffic: connections whose contents are checked byte for byte.

Workers open one connection after the other to an `echo` (see traffic.py), each with its own size
and content.  Nothing is raised; `attempts` has the result of each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.helpers import traffic

SIZES = (1, 900, 17_000, 70_000, 300_000)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection."""

    begun: float
    """Monotonic seconds, before it was dialled."""
    ended: float
    error: Exception | None
    """OSError: it broke.  AssertionError: it ended in order, but not all bytes came back."""


class Load:
    """Traffic to a port inside the `async with` block; leaving it waits for open connections."""

    def __init__(self, port: int, *, workers: int = 4) -> None:
        self.attempts: list[Attempt] = []
        self._port = port
        self._seeds = itertools.count()
        self._stopping = False
        self._workers = workers
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def failures(self) -> list[Attempt]:
        """The attempts with an error."""
        return [attempt for attempt in self.attempts if attempt.error is not None]

    @property
    def successes(self) -> int:
        return len(self.attempts) - len(self.failures)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stopping = True
        try:
            async with asyncio.timeout(30):
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        while not self._stopping:
            seed = next(self._seeds)
            begun, error = time.monotonic(), None
            try:
                await traffic.exchange(self._port, SIZES[seed % len(SIZES)], seed=seed)
            except (OSError, AssertionError) as failed:
                error = failed
                # nobody may listen: don't use all of the CPU for retries
                await asyncio.sleep(0.02)
            self.attempts.append(Attempt(begun, time.monotonic(), error))
