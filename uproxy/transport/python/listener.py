"""Accepts connections from a listening socket, on the event loop's thread.

When accept(2) fails for lack of descriptors, accepting pauses and is tried again; clients wait in
the kernel's queue meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from uproxy import originals, sockets
from uproxy.contract import Arrival, Door, Refusal, Spoken
from uproxy.model import Direction, TcpAddress, UnixAddress
from uproxy.transport.accept_backoff import SHORTAGES, AcceptBackoff

if TYPE_CHECKING:
    from uproxy.transport.poller import Poller
    from uproxy.transport.python.limits import Limiter
    from uproxy.transport.python.pool import Pool
    from uproxy.transport.python.stream import StreamSide

ACCEPT_BATCH: Final = 64
"""The most connections accepted in one callback, so that a flood delays nobody else."""

_GONE: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
     errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ENETDOWN, errno.EPERM}
)  # fmt: skip
"""The errno values with which accept(2) reports an error of the connection that it would have
returned, not of the listening socket."""

_log = logging.getLogger(__name__)
_ids: Final = count(1)


class Started(Protocol):
    """A connection that runs."""

    @property
    def task(self) -> asyncio.Task[None]:
        """Done when it has ended."""

    def close(self, refusal: Refusal) -> None:
        """End it now, as `contract.Connection` says."""


class Carrying(Protocol):
    """A tunnel that has come in."""

    def drain(self) -> None:
        """Take no new streams; end with the last one."""

    def follow(self, door: Door) -> None:
        """Another door decides about new streams."""


class Host(Protocol):
    """What a listener needs of its engine."""

    @property
    def poller(self) -> Poller: ...

    @property
    def limiter(self) -> Limiter: ...

    @property
    def pool(self) -> Pool: ...

    @property
    def listeners(self) -> set[Listener]: ...

    def take_over(
        self,
        listener: Listener,
        door: Door,
        accepted: socket.socket | StreamSide,
        arrival: Arrival,
        on_decided: Callable[[], None],
    ) -> Started:
        """Run an accepted connection, or a stream; `on_decided` is called once, when it has been
        admitted or refused."""


class Listener:
    """A listening socket, and the door that decides about what it accepts."""

    def __init__(self, engine: Host, listening: socket.socket, door: Door) -> None:
        self._engine = engine
        self._socket = listening
        self.door: Door | None = door
        """The door that decides now; None: the listener was taken away."""
        name = listening.getsockname()
        self._unix = UnixAddress(name if isinstance(name, str) else "")
        self._port = name[1] if isinstance(name, tuple) else 0
        self._backoff = AcceptBackoff()
        self._resume: asyncio.TimerHandle | None = None
        self._undecided: set[int] = set()  # arrivals neither admitted nor refused yet
        self._all_decided: asyncio.Event | None = None  # while `close` waits for them
        self.tunnels: set[Carrying] = set()
        """Those that have come in here, and are open."""
        listening.setblocking(False)
        engine.listeners.add(self)
        self._watch()

    def replace(self, door: Door | None) -> None:
        """Let `door` decide from now on; the socket and open connections stay."""
        self.door = door
        if door is None:
            self._drain_tunnels()
            return
        for each in tuple(self.tunnels):
            each.follow(door)

    async def close(self) -> None:
        """Stop accepting, and return when each arrival has been admitted or refused."""
        if self._socket.fileno() != -1:
            # bounded, or a flood of arrivals would keep it open
            for _ in range(sockets.BACKLOG):
                if not self._accept_one():
                    break
            self.release()
        self._drain_tunnels()
        if self._undecided:
            self._all_decided = self._all_decided or asyncio.Event()
            await self._all_decided.wait()

    def release(self) -> None:
        """Close the listening socket; the kernel resets the connections in its queue."""
        if self._resume is not None:
            self._resume.cancel()
        if self._socket.fileno() != -1:
            self._engine.poller.forget(self._socket.fileno())
            sockets.release(self._socket)
        self._engine.listeners.discard(self)

    @property
    def is_closing(self) -> bool:
        """Whether tunnels that come in now are to end soon."""
        return self.door is None or self._socket.fileno() == -1

    def take_stream(
        self, carrier: Arrival, side: StreamSide, target: TcpAddress | None, spoken: Spoken
    ) -> Started | None:
        """Have a stream decided on that has come in on the tunnel `carrier`; `target` is the
        address that its CONNECT names, and `spoken` what it says of a caller.  None: nobody decides
        about streams, and it is refused."""
        if self.door is None or self.door.tunnels is None:
            side.turn_away()
            return None
        number = next(_ids)
        arrival = replace(carrier, id=number, target=target, spoken=spoken, tunnel=carrier.id)
        return self._take_over(side, arrival, self.door)

    def _drain_tunnels(self) -> None:
        """Have the tunnels take no new streams, and end with the last of those they have."""
        for each in tuple(self.tunnels):
            each.drain()

    def _watch(self) -> None:
        """Accept when the socket is readable; after a pause if epoll has no memory."""
        try:
            self._engine.poller.watch(self._socket.fileno(), select.EPOLLIN, self._accept)
        except OSError as error:
            self._pause(error)

    def _accept(self, _events: int) -> None:
        """Accept up to ACCEPT_BATCH connections from the socket, which is readable."""
        for _ in range(ACCEPT_BATCH):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept one connection; returns False when none waits, or accepting has paused."""
        try:
            accepted, name = self._socket.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _GONE:
                return True
            self._pause(error)
            return False
        try:
            self._hand_over(accepted, name)
        except Exception:  # noqa: BLE001  a defect: this connection is reset, the listener stays
            _log.exception("an arrival could not be received")
            sockets.reset(accepted)
        return True

    def _hand_over(self, accepted: socket.socket, name: object) -> None:
        """Give an accepted connection to the engine; `name` is its peer's, as accept(2) gave it."""
        door = self.door
        if door is None:  # the listener was taken away: nobody decides about its queue
            sockets.reset(accepted)
            return
        accepted.setblocking(False)
        arrival = Arrival(
            id=next(_ids),
            source=sockets.address_of(name, self._unix),
            local=sockets.address_of(accepted.getsockname(), self._unix),
            peer=None,
            target=self._original(accepted, door),
        )
        self._take_over(accepted, arrival, door)

    def _original(self, accepted: socket.socket, door: Door) -> TcpAddress | None:
        """Return what a captured connection was made to; None: it isn't captured, or it is a dial
        of our own that came back."""
        if not door.captured:
            return None
        if door.direction is Direction.INBOUND and originals.is_marked(accepted):
            return None
        return originals.of(accepted, self._port)

    def _take_over(
        self, accepted: socket.socket | StreamSide, arrival: Arrival, door: Door
    ) -> Started:
        self._undecided.add(arrival.id)
        return self._engine.take_over(
            self, door, accepted, arrival, lambda: self._on_decided(arrival.id)
        )

    def _on_decided(self, number: int) -> None:
        """Note that the arrival of this id has been admitted or refused."""
        self._undecided.discard(number)
        if self._all_decided is not None and not self._undecided:
            self._all_decided.set()

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a while, which grows as long as accepting fails with such an error."""
        if error.errno in SHORTAGES:
            self._engine.limiter.refused["descriptors"] += 1
        self._engine.poller.forget(self._socket.fileno())
        loop = asyncio.get_running_loop()
        pause = self._backoff.pause(error.errno or 0, loop.time())
        self._resume = loop.call_later(pause, self._watch)
