"""The Python engine's front: what the process asks of an engine (`contract.Engine`).

Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from uproxy.contract import Arrival, Door, OnTunnelEnded
from uproxy.model import Limits
from uproxy.transport import failures
from uproxy.transport.poller import Poller
from uproxy.transport.python.connection import Connection
from uproxy.transport.python.limits import Limiter
from uproxy.transport.python.listener import Listener

if TYPE_CHECKING:
    from uproxy.transport.python.pool import Pool
    from uproxy.transport.python.stream import StreamSide


class PythonEngine:
    """Moves the connections of one event loop.  Made inside it."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.limiter = Limiter()
        self.listeners: set[Listener] = set()
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._pool: Pool | None = None  # until a tunnel is needed
        self._on_tunnel_ended: OnTunnelEnded = lambda _peer, _end, _why: None

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
        """Return how many tunnels to other workloads are open."""
        return 0 if self._pool is None else len(self._pool)

    def watch_tunnels(self, on_ended: OnTunnelEnded) -> None:
        """Have `on_ended` called with the end of each tunnel that is dialled from now on."""
        self._on_tunnel_ended = on_ended

    @property
    def pool(self) -> Pool:
        """The tunnels to other workloads."""
        if self._pool is None:
            from uproxy.transport.python.pool import Pool  # to save memory where there is none

            self._pool = Pool(self.poller, self._on_tunnel_ended)
        return self._pool

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
        if self._pool is not None:
            await self._pool.close()
        self.poller.close()

    def take_over(
        self,
        listener: Listener,
        door: Door,
        accepted: socket.socket | StreamSide,
        arrival: Arrival,
        on_decided: Callable[[], None],
    ) -> Connection:
        """Run an accepted connection, or a stream; `on_decided` is called once, when it has been
        admitted or refused."""
        connection = Connection(self, listener, door, accepted, arrival)
        task = connection.start(on_decided)
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)
        return connection
