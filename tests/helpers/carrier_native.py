"""The relays of carrier_python.py, by the compiled engine's relay (carrier_probe.pyx)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from tests.helpers import probes
from uproxy.lab.waiting import eventually
from uproxy.transport import failures

TICK_S = 0.005
"""How often what is due by time is looked for."""

WHO = ("the application", "the peer")


class NativeRelays:
    """A relay between each application and its stream."""

    def __init__(self, applications: Sequence[socket.socket], carrier: socket.socket) -> None:
        descriptors = [each.detach() for each in applications]
        self._probe = probes.load("carrier_probe").CarrierProbe(descriptors, carrier.detach())
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._probe.fileno(), self._probe.turn)
        self._ticking = asyncio.create_task(self._tick())

    async def ending(self, at: int) -> str | None:
        """Wait for the end of the relay of one application; return why it failed, None if both
        directions have ended in order."""
        await eventually(lambda: self._probe.ending(at) is not None, "the relay has ended")
        side, error = self._probe.ending(at)
        return None if side == -1 else failures.describe(WHO[side], OSError(error, ""))

    async def close(self) -> None:
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
        self._loop.remove_reader(self._probe.fileno())
        self._probe.close()

    async def _tick(self) -> None:
        while True:
            self._probe.turn()
            await asyncio.sleep(TICK_S)
