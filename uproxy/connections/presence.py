"""How many connections of each direction there are, and waiting until there are none.

A connection is there from its admission to its end, open or not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from uproxy.model import Direction


class Presence:
    """The counts, and whoever waits for them."""

    def __init__(self) -> None:
        self._count = dict.fromkeys(Direction, 0)
        self._idle_since: dict[Direction, float | None] = dict.fromkeys(Direction, None)
        self._moved: asyncio.Event | None = None  # while somebody waits

    @property
    def counts(self) -> Mapping[Direction, int]:
        """By direction, now."""
        return dict(self._count)

    def one_more(self, direction: Direction) -> None:
        """A connection was admitted."""
        self._count[direction] += 1
        if self._count[direction] == 1:
            self._say_moved()

    def one_less(self, direction: Direction) -> None:
        """A connection that was admitted has ended."""
        self._count[direction] -= 1
        if self._count[direction] == 0:
            self._idle_since[direction] = asyncio.get_running_loop().time()
            self._say_moved()

    async def wait_until_idle(self, direction: Direction, *, for_seconds: float) -> None:
        """Wait until there has been no connection of `direction` for so long."""
        loop = asyncio.get_running_loop()
        while True:
            moved = self._moved = self._moved or asyncio.Event()
            if self._count[direction]:
                await moved.wait()
                continue
            # idle from the start counts from now: nobody knows how long it has been
            since = self._idle_since[direction]
            since = self._idle_since[direction] = loop.time() if since is None else since
            left = since + for_seconds - loop.time()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await moved.wait()

    def _say_moved(self) -> None:
        """The direction has become idle or busy."""
        if self._moved is not None:
            self._moved.set()
            self._moved = None
