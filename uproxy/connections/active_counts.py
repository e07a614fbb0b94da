"""Counts the connections of each direction, from their admission to their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from uproxy.model import Direction


class ActiveCounts:
    """How many admitted connections there are, by direction; `wait_until_idle` waits for none."""

    def __init__(self) -> None:
        self._count = dict.fromkeys(Direction, 0)
        self._idle_since: dict[Direction, float | None] = dict.fromkeys(Direction, None)
        self._changed: asyncio.Event | None = None  # exists while somebody waits

    @property
    def counts(self) -> Mapping[Direction, int]:
        """The present counts, by direction."""
        return dict(self._count)

    def add(self, direction: Direction) -> None:
        """Count a connection that was admitted."""
        self._count[direction] += 1
        if self._count[direction] == 1:
            self._wake_waiters()

    def remove(self, direction: Direction) -> None:
        """Count the end of a connection that was admitted."""
        self._count[direction] -= 1
        if self._count[direction] == 0:
            self._idle_since[direction] = asyncio.get_running_loop().time()
            self._wake_waiters()

    async def wait_until_idle(self, direction: Direction, *, for_seconds: float) -> None:
        """Return when there has been no connection of `direction` for so many seconds."""
        loop = asyncio.get_running_loop()
        while True:
            changed = self._changed = self._changed or asyncio.Event()
            if self._count[direction]:
                await changed.wait()
                continue
            # without an earlier connection, the idle time begins now
            since = self._idle_since[direction]
            since = self._idle_since[direction] = loop.time() if since is None else since
            left = since + for_seconds - loop.time()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()

    def _wake_waiters(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
