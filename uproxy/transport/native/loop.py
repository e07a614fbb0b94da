"""What the engine's front, its doors and its connections share on the event loop.

The threads report here: `take` hands what they ask and report to the connections, and lets the
doors look whether one is short of descriptors or has decided about its last arrival.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol, cast

from uproxy import libssl, sockets
from uproxy.model import Limits
from uproxy.transport.native._engine import OPENSSL_FUNCTIONS, ConnectionHandle, Core
from uproxy.transport.poller import Poller

_BATCH: Final = 256
"""Connections heard of in one turn of the loop: a flood of arrivals leaves turns for others."""

_log = logging.getLogger(__name__)


class _Connection(Protocol):
    def on_reported(self, events: int) -> None: ...


class _Door(Protocol):
    def on_reports(self) -> None: ...

    def release(self) -> None: ...


class LoopState:
    """Made and used on one event loop.

    Args:
        threads: how many move connections.
        make_connection: of what a door offered (`Offer`), when a connection is first reported.
    """

    def __init__(self, threads: int, make_connection: Callable[..., ConnectionHandle]) -> None:
        self.core = Core(
            threads,
            libssl.addresses(OPENSSL_FUNCTIONS),
            libssl.small_key(),
            sockets.CONNECTION_OPTIONS,
            libssl.judge,
            make_connection,
        )
        self.poller = Poller()
        """For the addresses that race."""
        self.limits = Limits()
        self.doors: set[_Door] = set()
        self.closing: set[_Door] = set()
        """Doors whose last arrivals somebody waits for."""
        self.dialling: set[asyncio.Task[None]] = set()
        """Races of addresses that go on, those given up included."""
        self.shortages = 0
        """How often accepting paused for want of descriptors."""
        self._taken = asyncio.Event()
        self._taking: asyncio.Handle | None = None

    def take(self, most: int = _BATCH) -> None:
        """Learn what the threads have asked and reported by now, of so many connections at most;
        the rest when the loop has had a turn."""
        for handle, events in self.core.take(most):
            try:
                cast("_Connection", handle).on_reported(events)
            except Exception:  # noqa: BLE001  a defect with one: the others are still to be heard
                _log.exception("a defect: a connection's report is lost")
        for door in (*self.doors, *self.closing):
            door.on_reports()
        self._taken.set()

    def take_all(self) -> None:
        """As `take`, of every connection."""
        self.take(self.core.alive())

    def take_all_soon(self) -> None:
        """As `take_all`, once in the next turn of the loop however often it is asked for."""
        if self._taking is None:
            self._taking = asyncio.get_running_loop().call_soon(self._take_all_now)

    def _take_all_now(self) -> None:
        self._taking = None
        self.take_all()

    async def wait_for_reports(self, seconds: float) -> None:
        """Until something has been taken, or so long."""
        self._taken.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._taken.set)
        await self._taken.wait()
        timer.cancel()
