"""What the engine, its listeners and its connections share on the event loop.

`LoopState.take` fetches the threads' reports, hands each to its connection, and lets the listeners
look whether accepting has paused, or the last arrival is decided.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol, cast

from uproxy import libssl, sockets
from uproxy.model import Limits
from uproxy.transport.native._engine import OPENSSL_FUNCTIONS, ConnectionHandle, Core
from uproxy.transport.native.tunnels import PlanNumbers
from uproxy.transport.poller import Poller

_BATCH: Final = 256
"""Reports handled in one turn of the loop, so that a flood of arrivals leaves turns for others."""

_log = logging.getLogger(__name__)


class _Connection(Protocol):
    def on_reported(self, events: int) -> None: ...


class _Listener(Protocol):
    def on_reports(self) -> None: ...

    def release(self) -> None: ...

    def forget(self) -> None: ...


class LoopState:
    """Made and used on one event loop.

    Args:
        threads: how many move connections.
        make_connection: makes a connection when it is first reported, given its listener's
            `DoorState`, the connection that carries it as a stream (None: nobody does), and whether
            it is a tunnel that a thread has dialled.
    """

    def __init__(self, threads: int, make_connection: Callable[..., ConnectionHandle]) -> None:
        self.core = Core(
            threads,
            libssl.addresses(OPENSSL_FUNCTIONS),
            libssl.stand_ins(),
            sockets.CONNECTION_OPTIONS,
            libssl.judge,
            make_connection,
        )
        self.plan_numbers = PlanNumbers(self.core.retire)
        """Plans, as the threads know them."""
        self.poller = Poller()
        """Watches the sockets of addresses that race."""
        self.limits = Limits()
        self.listeners: set[_Listener] = set()
        """Those that accept."""
        self.closing: set[_Listener] = set()
        """Listeners whose `close` waits for the last arrivals."""
        self.draining: set[_Listener] = set()
        """Listeners that have been closed, at whose tunnels streams may still arrive."""
        self.dialling: set[asyncio.Task[None]] = set()
        """The races of addresses that still run, abandoned ones too."""
        self.shortages = 0
        """How often accepting paused for want of descriptors."""
        self._taken = asyncio.Event()
        self._taking: asyncio.Handle | None = None

    def take(self, most: int = _BATCH) -> None:
        """Handle the threads' reports of `most` connections; the rest in the loop's next turn."""
        for handle, events in self.core.take(most):
            try:
                cast("_Connection", handle).on_reported(events)
            except Exception:  # noqa: BLE001  a defect with one: the others are still to be handled
                _log.exception("a defect: a connection's report is lost")
        for listener in (*self.listeners, *self.closing):
            listener.on_reports()
        self._taken.set()

    def take_all(self) -> None:
        """Handle all reports now."""
        self.take(self.core.alive())

    def take_all_soon(self) -> None:
        """Handle all reports in the next turn of the loop, once however often this is called."""
        if self._taking is None:
            self._taking = asyncio.get_running_loop().call_soon(self._take_all_now)

    def _take_all_now(self) -> None:
        self._taking = None
        self.take_all()

    async def wait_for_reports(self, seconds: float) -> None:
        """Wait until reports were handled, or so many seconds."""
        self._taken.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._taken.set)
        await self._taken.wait()
        timer.cancel()
