"""Which sockets are ready: one epoll, which the event loop knows by its descriptor.

The loop's own `add_reader` isn't used for connections: uvloop hands both callbacks every
event, and drops a descriptor for good when the kernel reports an error on it (a reset that
arrives before the last bytes were read).  Level-triggered: what isn't consumed is reported
again, and a callback may be called once too often, never once too seldom.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
BROKEN: Final = select.EPOLLERR
HUNG_UP: Final = select.EPOLLHUP

_BATCH: Final = 256
_log = logging.getLogger(__name__)


class Poller:
    """Calls back with the events of a descriptor; errors and hang-ups are always reported."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    def watch(self, descriptor: int, mask: int, callback: Callable[[int], None]) -> None:
        """Start to report on a descriptor, or change what is reported."""
        if descriptor in self._callbacks:
            self._epoll.modify(descriptor, mask)
        else:
            self._epoll.register(descriptor, mask)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Report no more; before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def writable(self, descriptor: int) -> None:
        """Wait, once, for a descriptor that nobody watches."""
        ready = self._loop.create_future()
        self.watch(descriptor, WRITE, lambda _events: wake(ready))
        try:
            await ready
        finally:
            self.forget(descriptor)

    def close(self) -> None:
        """Let go of the epoll; again does nothing."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _turn(self) -> None:
        for descriptor, events in self._epoll.poll(0, _BATCH):
            # a callback earlier in this batch may have forgotten it
            callback = self._callbacks.get(descriptor)
            if callback is None:
                continue
            try:
                callback(events)
            except Exception:  # noqa: BLE001  a defect: the rest of the batch mustn't suffer
                _log.exception("a callback of the engine failed")
                self.forget(descriptor)


def wake(waiter: asyncio.Future[None]) -> None:
    """Tell it, unless it has been told or has gone."""
    if not waiter.done():
        waiter.set_result(None)
