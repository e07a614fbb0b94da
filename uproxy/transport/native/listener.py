"""A door that the threads accept at: what it offers arrivals, its shortages, its end."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from uproxy import libssl, sockets
from uproxy.contract import Candidate, Door, Refusal, RefusedError, Route, TlsPlan
from uproxy.errors import IdentityError
from uproxy.model import Direction, Outcome, UnixAddress
from uproxy.transport.accept_backoff import SHORTAGES, Shortage
from uproxy.transport.native._engine import CHOOSE_PROTOCOL, ON_MESSAGE, Listening
from uproxy.transport.native.loop import LoopState

if TYPE_CHECKING:
    from uproxy.transport.native._engine import Handshake

_log = logging.getLogger(__name__)

_COMPILED: Final = libssl.Compiled(CHOOSE_PROTOCOL, ON_MESSAGE)


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What arrivals meet at a listener, until it has another door."""

    opened: OpenNativeDoor
    door: Door
    plan: TlsPlan | None
    """None in the clear, or where each arrival asks."""
    inbound: bool


class OpenNativeDoor:
    """A listening socket, and the door that arrivals meet (`contract.Listener`)."""

    def __init__(self, state: LoopState, listener: socket.socket, door: Door) -> None:
        name = listener.getsockname()
        self.unix = UnixAddress(name if isinstance(name, str) else "")
        self._state = state
        self._listener = listener
        self.door: Door | None = door
        """The one that decides; None: nobody listens here any more."""
        self._listening = Listening(state.core, listener.fileno())
        self._shortage = Shortage()
        self._resuming: asyncio.TimerHandle | None = None
        self._all_decided: asyncio.Event | None = None  # while somebody waits in `close`
        state.doors.add(self)
        self.offer()
        self._listening.resume()

    def replace(self, door: Door | None) -> None:
        """From now on `door` decides; the socket and open connections stay."""
        before, self.door = self.door, door
        if door is not None:
            self.offer()
        elif before is not None:
            self._offer(before, None, None, ask=True)  # and be refused, each
        self._state.take_all_soon()  # whoever got in before is known when they are judged again

    def offer(self) -> None:
        """Ask the door what arrivals meet from now on; no route that was cached is given any
        more."""
        near, ask, door = None, False, self.door
        plan: TlsPlan | Refusal | None = None
        if door is None:
            return
        try:
            plan = door.tls()
            if isinstance(plan, TlsPlan):
                near = handshake(plan)
        except RefusedError:
            ask = True  # and be told why, each
        except Exception:  # noqa: BLE001  the door's defect; the listener stays
            _log.exception("a defect of door %s: its arrivals are refused", door.name)
            ask = True
        ask = ask or isinstance(plan, Refusal)
        self._offer(door, plan if isinstance(plan, TlsPlan) and not ask else None, near, ask=ask)

    def _offer(
        self, door: Door, plan: TlsPlan | None, near: Handshake | None, *, ask: bool
    ) -> None:
        if self._listener.fileno() != -1:
            offer = Offer(self, door, plan, door.direction is Direction.INBOUND)
            self._listening.offer(offer, near, ask, door.timeouts.handshake)

    async def close(self) -> None:
        """Stop accepting, and return when each arrival has been admitted or refused."""
        if self._listener.fileno() != -1:
            self._let_go(sockets.BACKLOG)
        if self._listening.undecided():
            self._state.closing.add(self)
            self._all_decided = self._all_decided or asyncio.Event()
            await self._all_decided.wait()
        # whoever was admitted without asking is known by now
        self._state.take_all()

    def release(self) -> None:
        """Let go of the listening socket, and of whoever waits in its queue."""
        if self._listener.fileno() != -1:
            self._let_go(0)

    def look(self) -> None:
        """Something has happened: a shortage, or the last arrival's decision."""
        if self._all_decided is not None and not self._listening.undecided():
            self._all_decided.set()
            self._state.closing.discard(self)
        error = self._listening.shortage()
        if error:
            self._wait(error)

    def _let_go(self, most: int) -> None:
        self._state.doors.discard(self)
        if self._resuming is not None:
            self._resuming.cancel()
        self._listening.close(most)
        sockets.release(self._listener)

    def _wait(self, error: int) -> None:
        """Accept nothing for a while."""
        if error in SHORTAGES:
            self._state.shortages += 1
        loop = asyncio.get_running_loop()
        pause = self._shortage.pause(error, loop.time())
        self._resuming = loop.call_later(pause, self._listening.resume)


def handshake(plan: TlsPlan, server_name: str | None = None) -> Handshake:
    """What a thread needs of a plan, and the name to send as SNI.

    Raises:
        RefusedError: no context can be made of it.
    """
    try:
        context = libssl.context_of(plan, _COMPILED)
    except IdentityError as error:
        raise RefusedError(Refusal(Outcome.HANDSHAKE_FAILED, str(error))) from error
    name = 0 if server_name is None else context.server_name(server_name)
    return context, *context.addresses, plan.trust_id, not context.server, name


def far_handshake(route: Route, candidate: Candidate) -> Handshake | None:
    """What a thread needs to shake hands with a candidate; None in the clear.

    Raises:
        RefusedError: no context can be made of the route's plan.
    """
    return None if route.tls is None else handshake(route.tls, candidate.server_name)
