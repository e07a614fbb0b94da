"""The compiled engine's front: accepting, and what the process asks (`contract.Engine`)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, cast

from uproxy import libssl
from uproxy.contract import Arrival, Door, Refusal
from uproxy.engine._engine import Core
from uproxy.model import Limits, Outcome
from uproxy.transport.accepting import Listening
from uproxy.transport.native.gate import ThreadedGate
from uproxy.transport.native.life import Life
from uproxy.transport.twin.poller import Poller

SWITCH: Final = 0.0005
"""Seconds after which the loop lets a thread have the GIL that has a leaf to judge."""

STUCK: Final = 5.0
"""Seconds that one turn of a thread may take before it counts as stuck."""


def default_threads() -> int:
    """One per processor that this process may use, two at least."""
    return max(2, min(len(os.sched_getaffinity(0)), 8))


class NativeEngine:
    """Moves connections in threads; asks and tells from one event loop.  Made inside it."""

    def __init__(self, threads: int | None = None) -> None:
        self.poller = Poller()
        self.gate = ThreadedGate(self._take)
        self.doors: set[Listening] = set()
        self.core = Core(threads or default_threads(), libssl.addresses(), libssl.judge)
        self.lives: set[Life] = set()
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._stopped = False
        sys.setswitchinterval(SWITCH)
        self._loop.add_reader(self.core.fileno(), self._take)

    def open(self, listener: socket.socket, door: Door) -> Listening:
        """Accept from a listening socket, which the engine now owns."""
        return Listening(self, listener, door)

    def set_limits(self, limits: Limits) -> None:
        """Applies to arrivals from now on."""
        self.gate.limits = limits
        self.core.set_most_handshakes(limits.handshakes_in_flight)

    def ask_again(self) -> None:
        """Nothing to do: every arrival is asked about."""

    def refused(self) -> dict[str, int]:
        """Arrivals refused by each limit since the start; `descriptors` counts shortages."""
        return dict(self.gate.refused)

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
        for life in tuple(self.lives):
            life.close(Refusal(Outcome.DRAINED, "uProxy stopped"))
        while self.lives:
            self._idle.clear()
            await self._idle.wait()
        self._loop.remove_reader(self.core.fileno())
        self.core.stop()
        self.poller.close()

    def welcome(
        self,
        door: Door,
        accepted: socket.socket,
        arrival: Arrival,
        on_decided: Callable[[], None],
    ) -> None:
        """Take over a connection; say once when it has been admitted or refused."""
        life = Life(self, door, accepted, arrival)
        life.on_decided = on_decided
        self.lives.add(life)
        life.begin()

    def left(self, life: Life) -> None:
        """It has ended, and nothing of it is left."""
        self.lives.discard(life)
        if not self.lives:
            self._idle.set()

    def _take(self) -> None:
        for wire, events in self.core.take():
            cast("Life", wire).happened(events)
