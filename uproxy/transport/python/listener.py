"""Accepting: a listening socket, and the door that its arrivals meet.

On the event loop's thread.  Accepting never spins and never dies: without
descriptors it waits and tries again, and the kernel's queue holds who comes meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from uproxy import sockets
from uproxy.contract import Arrival, Door
from uproxy.model import UnixAddress
from uproxy.transport.accept_backoff import SHORTAGES, Shortage

if TYPE_CHECKING:
    from uproxy.transport.poller import Poller
    from uproxy.transport.python.limits import Gate

ACCEPT_BATCH: Final = 64
"""Arrivals taken in one turn, so that a flood of them leaves turns for the others."""

_GONE: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
     errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ENETDOWN, errno.EPERM}
)  # fmt: skip
"""Errors of the connection that was to be taken, not of the listener: accept(2)."""

_log = logging.getLogger(__name__)
_ids: Final = count(1)


class Host(Protocol):
    """The engine that accepts."""

    @property
    def poller(self) -> Poller: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def doors(self) -> set[Listening]: ...

    def welcome(
        self,
        listening: Listening,
        door: Door,
        accepted: socket.socket,
        arrival: Arrival,
        on_decided: Callable[[], None],
    ) -> None:
        """Take over a connection; say once when it has been admitted or refused."""


class Listening:
    """A listening socket, and the door that arrivals meet."""

    def __init__(self, engine: Host, listener: socket.socket, door: Door) -> None:
        self._engine = engine
        self._listener = listener
        self.door: Door | None = door
        """The one that decides; None: nobody listens here any more."""
        name = listener.getsockname()
        self._unix = UnixAddress(name if isinstance(name, str) else "")
        self._shortage = Shortage()
        self._resume: asyncio.TimerHandle | None = None
        self._undecided: set[int] = set()  # neither admitted nor refused yet
        self._all_decided: asyncio.Event | None = None  # while somebody waits in `close`
        listener.setblocking(False)
        engine.doors.add(self)
        self._watch()

    def replace(self, door: Door | None) -> None:
        """From now on `door` decides; the socket and open connections stay."""
        self.door = door

    async def close(self) -> None:
        """Stop accepting, and return when each arrival has been admitted or refused."""
        if self._listener.fileno() != -1:
            # bounded, or a flood of arrivals would keep the door open
            for _ in range(sockets.BACKLOG):
                if not self._take():
                    break
            self.release()
        if self._undecided:
            self._all_decided = self._all_decided or asyncio.Event()
            await self._all_decided.wait()

    def release(self) -> None:
        """Let go of the listening socket, and of whoever waits in its queue."""
        if self._resume is not None:
            self._resume.cancel()
        if self._listener.fileno() != -1:
            self._engine.poller.forget(self._listener.fileno())
            sockets.release(self._listener)
        self._engine.doors.discard(self)

    def _watch(self) -> None:
        try:
            self._engine.poller.watch(self._listener.fileno(), select.EPOLLIN, self._accept)
        except OSError as error:  # who is in the queue would wait for ever: again later
            self._wait(error)

    def _accept(self, _events: int) -> None:
        for _ in range(ACCEPT_BATCH):
            if not self._take():
                return

    def _take(self) -> bool:
        """Accept one arrival; False when there is none, or none can be taken for now."""
        try:
            accepted, name = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _GONE:
                return True
            self._wait(error)
            return False
        try:
            self._receive(accepted, name)
        except Exception:  # noqa: BLE001  a defect: this arrival goes, the listener stays
            _log.exception("an arrival could not be received")
            sockets.reset(accepted)
        return True

    def _receive(self, accepted: socket.socket, name: object) -> None:
        door = self.door
        if door is None:  # it goes: who is in its queue is nobody's
            sockets.reset(accepted)
            return
        accepted.setblocking(False)
        arrival = Arrival(
            id=next(_ids),
            source=sockets.address_of(name, self._unix),
            local=sockets.address_of(accepted.getsockname(), self._unix),
            peer=None,
        )
        self._undecided.add(arrival.id)
        self._engine.welcome(self, door, accepted, arrival, lambda: self._decided(arrival.id))

    def _decided(self, number: int) -> None:
        self._undecided.discard(number)
        if self._all_decided is not None and not self._undecided:
            self._all_decided.set()

    def _wait(self, error: OSError) -> None:
        """Accept nothing for a while."""
        if error.errno in SHORTAGES:
            self._engine.gate.refused["descriptors"] += 1
        self._engine.poller.forget(self._listener.fileno())
        loop = asyncio.get_running_loop()
        pause = self._shortage.pause(error.errno or 0, loop.time())
        self._resume = loop.call_later(pause, self._watch)
