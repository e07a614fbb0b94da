"""The Python engine's front: what the process asks of an engine (`contract.Engine`).

Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from uproxy.contract import Arrival, Door
from uproxy.model import Limits
from uproxy.transport import failures
from uproxy.transport.poller import Poller
from uproxy.transport.python.connection import Life
from uproxy.transport.python.limits import Gate
from uproxy.transport.python.listener import Listening


class PythonEngine:
    """Moves the connections of one event loop.  Made inside it."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.gate = Gate()
        self.doors: set[Listening] = set()
        self._lives: dict[asyncio.Task[None], Life] = {}

    def open(self, listener: socket.socket, door: Door) -> Listening:
        """Accept from a listening socket, which the engine now owns."""
        return Listening(self, listener, door)

    def set_limits(self, limits: Limits) -> None:
        """Applies to arrivals from now on."""
        self.gate.limits = limits

    def refused(self) -> dict[str, int]:
        """Arrivals refused by each limit since the start; `descriptors` counts shortages."""
        return dict(self.gate.refused)

    def responsive(self) -> bool:
        """True: the Python engine's only thread is the one that asks."""
        return True

    async def stop(self) -> None:
        """Cut every connection and let go of every socket; waits for no arrival."""
        for door in tuple(self.doors):
            door.release()
        for life in self._lives.values():
            life.close(failures.STOPPED)
        while self._lives:
            await asyncio.wait(tuple(self._lives))
        self.poller.close()

    def welcome(
        self,
        listening: Listening,
        door: Door,
        accepted: socket.socket,
        arrival: Arrival,
        on_decided: Callable[[], None],
    ) -> None:
        """Take over a connection; say once when it has been admitted or refused."""
        life = Life(self.poller, self.gate, listening, door, accepted, arrival)
        task = life.start(on_decided)
        self._lives[task] = life
        task.add_done_callback(self._lives.pop)
