"""Tells callbacks when sockets are ready, with an epoll that the event loop watches.

The loop's own `add_reader` isn't used for connections: uvloop calls the reader and the writer
for every event, and stops watching a descriptor on which the kernel reports an error, even if
bytes before a reset are still unread.  Events are level-triggered: they are reported again
until they are handled, so a callback may be called needlessly but never too seldom.
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
"""The most events handled in one iteration of the loop."""
_log = logging.getLogger(__name__)


class Poller:
    """An epoll with a callback for each descriptor; errors and hang-ups are always reported."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._dispatch)

    def watch(self, descriptor: int, mask: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the epoll events of a descriptor, from now on for those in
        `mask`."""
        if descriptor in self._callbacks:
            self._epoll.modify(descriptor, mask)
        else:
            self._epoll.register(descriptor, mask)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Stop reporting events; call it before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def writable(self, descriptor: int) -> None:
        """Wait until a descriptor is writable that isn't watched otherwise."""
        ready = self._loop.create_future()
        self.watch(descriptor, WRITE, lambda _events: wake(ready))
        try:
            await ready
        finally:
            self.forget(descriptor)

    def close(self) -> None:
        """Close the epoll; a second call does nothing."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _dispatch(self) -> None:
        """Call back for the descriptors that are ready."""
        for descriptor, events in self._epoll.poll(0, _BATCH):
            # a callback earlier in this batch may have forgotten it
            callback = self._callbacks.get(descriptor)
            if callback is None:
                continue
            try:
                callback(events)
            except Exception:  # noqa: BLE001  a defect: the other descriptors must still be handled
                _log.exception("a callback of the engine failed")
                self.forget(descriptor)


def wake(waiter: asyncio.Future[None]) -> None:
    """Complete the future unless it is done or cancelled."""
    if not waiter.done():
        waiter.set_result(None)
