"""The compiled engine, as the process uses it (`contract.Engine`)."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Final

from uproxy.contract import Door, OnTunnelEnded
from uproxy.model import Limits
from uproxy.transport.native._engine import ConnectionHandle
from uproxy.transport.native.handle import NativeConnection
from uproxy.transport.native.listener import DoorState, NativeListener
from uproxy.transport.native.loop import LoopState
from uproxy.transport.native.tunnels import PooledTunnel

SWITCH_INTERVAL_S: Final = 0.0005
"""Seconds for which the loop keeps the GIL from a thread that has a certificate to verify."""

STUCK_S: Final = 5.0
"""Seconds that one turn of a thread may take before it counts as stuck."""

_CUT_AGAIN_S: Final = 0.05
"""Seconds until connections are cut again: one may have been on its way between two threads."""


class NativeEngine:
    """Moves connections in threads, and asks the doors on one event loop, in which it is made."""

    def __init__(self, threads: int = 2) -> None:
        self.state = LoopState(threads, self._make_connection)
        self._stopped = False
        self._on_tunnel_ended: OnTunnelEnded = lambda _peer, _end, _why: None
        self._loop = asyncio.get_running_loop()
        self.set_limits(self.state.limits)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._loop.add_reader(self.state.core.fileno(), self.state.take)

    def open(self, listener: socket.socket, door: Door) -> NativeListener:
        """Accept from a listening socket, which the engine now owns."""
        listener.setblocking(False)
        return NativeListener(self.state, listener, door)

    def set_limits(self, limits: Limits) -> None:
        """Set the limits on arrivals from now on."""
        self.state.limits = limits
        self.state.core.set_limits(
            limits.connections, limits.per_source_connections, limits.handshakes_in_flight
        )

    def refused(self) -> dict[str, int]:
        """Return how many arrivals each limit has refused; `descriptors` counts shortages."""
        connections, per_source, handshakes = self.state.core.refused()
        return {
            "connections": connections,
            "handshakes_in_flight": handshakes,
            "per_source_connections": per_source,
            "descriptors": self.state.shortages,
        }

    def pooled_tunnels(self) -> int:
        """Return how many tunnels to other workloads are open, or being dialled."""
        return self.state.core.pooled_tunnels()

    def watch_tunnels(self, on_ended: OnTunnelEnded) -> None:
        """Have `on_ended` called with the end of each tunnel that is dialled from now on."""
        self._on_tunnel_ended = on_ended

    def responsive(self) -> bool:
        """Whether all threads run, and none is in one turn for too long."""
        since = self.state.core.busy_since()
        return since is None or time.monotonic() - since < STUCK_S

    def _make_connection(
        self, door_state: DoorState, carrier: NativeConnection | None, is_pooled: bool
    ) -> ConnectionHandle:
        if is_pooled:
            return PooledTunnel(self._on_tunnel_ended)
        return NativeConnection(self.state, door_state, carrier)

    async def stop(self) -> None:
        """Cut each connection and close each socket, without waiting for arrivals."""
        if self._stopped:
            return
        self._stopped = True
        for listener in tuple(self.state.listeners):
            listener.release()
        for listener in tuple(self.state.draining):
            listener.forget()
        while self.state.core.alive():
            self.state.core.cut_all()
            await self.state.wait_for_reports(_CUT_AGAIN_S)
            self.state.take_all()
        await asyncio.gather(*self.state.dialling, return_exceptions=True)
        self._loop.remove_reader(self.state.core.fileno())
        self.state.core.stop()
        self.state.poller.close()
