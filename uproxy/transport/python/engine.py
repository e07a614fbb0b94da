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
from uproxy.transport.python.connection import Connection
from uproxy.transport.python.limits import Limiter
from uproxy.transport.python.listener import Listener


class PythonEngine:
    """Moves the connections of one event loop.  Made inside it."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.limiter = Limiter()
        self.listeners: set[Listener] = set()
        self._connections: dict[asyncio.Task[None], Connection] = {}

    def open(self, listener: socket.socket, door: Door) -> Listener:
        """Accept from a listening socket, which the engine now owns."""
        return Listener(self, listener, door)

    def set_limits(self, limits: Limits) -> None:
        """Set the limits for arrivals from now on."""
        self.limiter.limits = limits

    def refused(self) -> dict[str, int]:
        """Return how many arrivals each limit has refused; `descriptors` counts shortages."""
        return dict(self.limiter.refused)

    def pooled_tunnels(self) -> int:
        """Return 0: it makes no tunnels."""
        return 0

    def responsive(self) -> bool:
        """True: the Python engine's only thread is the one that asks."""
        return True

    async def stop(self) -> None:
        """Cut every connection and close every socket, without waiting for arrivals."""
        for listener in tuple(self.listeners):
            listener.release()
        for connection in self._connections.values():
            connection.close(failures.STOPPED)
        while self._connections:
            await asyncio.wait(tuple(self._connections))
        self.poller.close()

    def take_over(
        self,
        listener: Listener,
        door: Door,
        accepted: socket.socket,
        arrival: Arrival,
        on_decided: Callable[[], None],
    ) -> None:
        """Run an accepted connection; `on_decided` is called once, when it has been admitted or
        refused."""
        connection = Connection(self.poller, self.limiter, listener, door, accepted, arrival)
        task = connection.start(on_decided)
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)
