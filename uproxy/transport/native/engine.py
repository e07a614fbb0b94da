"""The compiled engine's front: what the process asks of it (`contract.Engine`)."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from typing import TYPE_CHECKING, Final, cast

from uproxy import libssl, sockets
from uproxy.contract import Door
from uproxy.engine._engine import OPENSSL_FUNCTIONS, Core
from uproxy.model import Limits
from uproxy.transport.native.life import Life
from uproxy.transport.native.opendoor import OpenNativeDoor
from uproxy.transport.poller import Poller

if TYPE_CHECKING:
    from uproxy.transport.native.opendoor import Offer

SWITCH: Final = 0.0005
"""Seconds after which the loop lets a thread have the GIL that has a leaf to judge."""

_log = logging.getLogger(__name__)

STUCK: Final = 5.0
"""Seconds that one turn of a thread may take before it counts as stuck."""

_BATCH: Final = 256
"""Connections heard of in one turn of the loop: a flood of arrivals leaves turns for others."""

_CUT_AGAIN: Final = 0.05
"""Seconds until whoever was on the way from thread to thread is cut as well."""


class NativeEngine:
    """Moves connections in threads; asks and tells from one event loop.  Made inside it."""

    def __init__(self, threads: int = 2) -> None:
        self.poller = Poller()
        """For the addresses that race."""
        self.limits = Limits()
        self.doors: set[OpenNativeDoor] = set()
        self.closing: set[OpenNativeDoor] = set()
        """Doors whose last arrivals somebody waits for."""
        self.dialling: set[asyncio.Task[None]] = set()
        """Races of addresses that go on, those given up included."""
        self.shortages = 0
        self._stopped = False
        self.core = Core(
            threads,
            libssl.addresses(OPENSSL_FUNCTIONS),
            libssl.small_key(),
            sockets.CONNECTION_OPTIONS,
            libssl.judge,
            self._born,
        )
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()  # something was taken
        self.set_limits(self.limits)
        sys.setswitchinterval(SWITCH)
        self._loop.add_reader(self.core.fileno(), self.take)

    def open(self, listener: socket.socket, door: Door) -> OpenNativeDoor:
        """Accept from a listening socket, which the engine now owns."""
        listener.setblocking(False)
        return OpenNativeDoor(self, listener, door)

    def set_limits(self, limits: Limits) -> None:
        """Applies to arrivals from now on."""
        self.limits = limits
        self.core.set_limits(
            limits.connections, limits.per_source_connections, limits.handshakes_in_flight
        )

    def ask_again(self) -> None:
        """No plan or route that a door gave until now stands any more."""
        for door in tuple(self.doors):
            door.offer()
        # whoever got in before is to be known when open connections are judged
        self._loop.call_soon(self.take, self.core.alive())

    def refused(self) -> dict[str, int]:
        """Arrivals refused by each limit since the start; `descriptors` counts shortages."""
        connections, per_source, handshakes = self.core.refused()
        return {
            "connections": connections,
            "handshakes_in_flight": handshakes,
            "per_source_connections": per_source,
            "descriptors": self.shortages,
        }

    def responsive(self) -> bool:
        """Whether no thread has ended, or is in one turn for too long."""
        since = self.core.busy_since()
        return since is None or time.monotonic() - since < STUCK

    async def stop(self) -> None:
        """Cut every connection and let go of every socket; waits for no arrival."""
        if self._stopped:
            return
        self._stopped = True
        for door in tuple(self.doors):
            door.release()
        while self.core.alive():
            self.core.cut_all()
            await self._wait_for_something(_CUT_AGAIN)
            self.take(self.core.alive())
        await asyncio.gather(*self.dialling, return_exceptions=True)
        self._loop.remove_reader(self.core.fileno())
        self.core.stop()
        self.poller.close()

    def take(self, most: int = _BATCH) -> None:
        """Learn what the threads have asked and reported by now, of so many connections at most;
        the rest when the loop has had a turn."""
        for wire, events in self.core.take(most):
            try:
                cast("Life", wire).happened(events)
            except Exception:  # noqa: BLE001  a defect with one: the others are still to be heard
                _log.exception("a defect: a connection's report is lost")
        for door in (*self.doors, *self.closing):
            door.look()
        self._moved.set()

    async def _wait_for_something(self, seconds: float) -> None:
        self._moved.clear()
        timer = self._loop.call_later(seconds, self._moved.set)
        await self._moved.wait()
        timer.cancel()

    def _born(self, offer: Offer) -> Life:
        return Life(self, offer)
