"""A listening socket of the compiled engine: how its arrivals begin, when accepting pauses, its
end."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import ReferenceType, ref

from uproxy import libssl, sockets
from uproxy.contract import Candidate, Door, Refusal, RefusedError, Route, TlsPlan
from uproxy.errors import IdentityError
from uproxy.model import Direction, Outcome, UnixAddress
from uproxy.transport.accept_backoff import SHORTAGES, AcceptBackoff
from uproxy.transport.native._engine import (
    CHOOSE_PROTOCOL,
    ON_MESSAGE,
    ConnectionHandle,
    ListenerHandle,
)
from uproxy.transport.native.loop import LoopState
from uproxy.transport.native.tunnels import limits_of

if TYPE_CHECKING:
    from uproxy.transport.native._engine import Captured, TlsSetup

_log = logging.getLogger(__name__)

_DRAIN_S: Final = 2.0
"""Seconds for which streams may arrive at the tunnels of a closed listener; the threads send the
last GOAWAY after one."""

_COMPILED: Final = libssl.Compiled(CHOOSE_PROTOCOL, ON_MESSAGE)


@dataclass(frozen=True, slots=True, eq=False)
class DoorState:
    """How a listener's arrivals begin under one door: the door, and its TLS plan."""

    listener: NativeListener
    door: Door
    plan: TlsPlan | None
    """None without TLS, or where arrivals ask the door."""
    inbound: bool


class NativeListener:
    """A listening socket, and the door that decides about arrivals (`contract.Listener`)."""

    def __init__(self, state: LoopState, listener: socket.socket, door: Door) -> None:
        name = listener.getsockname()
        self.unix = UnixAddress(name if isinstance(name, str) else "")
        self._state = state
        self._listener = listener
        self.door: Door | None = door
        """The door that decides about arrivals; None: arrivals are refused."""
        self._handle = ListenerHandle(state.core, listener.fileno())
        self._backoff = AcceptBackoff()
        self._resuming: asyncio.TimerHandle | None = None
        self._all_decided: asyncio.Event | None = None  # while `close` waits
        self._forgetting: asyncio.TimerHandle | None = None  # while streams may still arrive
        self._plan: ReferenceType[TlsPlan] | None = None  # that tunnels are made with
        state.listeners.add(self)
        self.update_door_state()
        self._handle.resume()

    def replace(self, door: Door | None) -> None:
        """Let `door` decide from now on; the socket and open connections stay."""
        before, self.door = self.door, door
        if door is not None:
            self.update_door_state()
        elif before is not None:
            self._set_door_state(before, None, None, ask=True)  # each arrival asks, and is refused
        self._state.take_all_soon()  # connections are known when they are rechecked

    def update_door_state(self) -> None:
        """Ask the door for its TLS plan, and tell the threads.  If it refuses, or no context can be
        made, each arrival asks when its first byte has come, and gets the reason: a probe sends
        none.  No cached route is used any more."""
        downstream, ask, door = None, False, self.door
        plan: TlsPlan | Refusal | None = None
        if door is None:
            return
        if self._forgetting is not None:
            self._set_last_door_state(door)
            return
        try:
            plan = door.tls()
            if isinstance(plan, TlsPlan):
                downstream = tls_setup(plan)
        except RefusedError as no:
            plan = no.refusal
        except Exception:  # noqa: BLE001  the door's defect; the listener stays
            _log.exception("a defect of door %s: its arrivals are refused", door.name)
            ask = True
        self._set_door_state(door, plan, downstream, ask=ask)

    def _set_door_state(
        self,
        door: Door,
        answer: TlsPlan | Refusal | None,
        downstream: TlsSetup | None,
        *,
        ask: bool,
    ) -> None:
        if self._listener.fileno() != -1:
            plan = answer if isinstance(answer, TlsPlan) and downstream is not None else None
            door_state = DoorState(self, door, plan, door.direction is Direction.INBOUND)
            tls, limit, tunnels = answer is not None, door.timeouts.handshake, None
            if door.tunnels is not None and self.door is not None:
                own = None if plan is None else plan.own
                most = door.tunnels.max_streams
                tunnels = limits_of(door.tunnels, most, door.timeouts.idle, own)
            self._handle.set_door_state(
                door_state,
                downstream,
                ask,
                tls,
                limit,
                tunnels,
                captured_of(door),
            )
            self._drain_unless(plan if tunnels else None)
        elif self._forgetting is not None:
            self.forget()

    def _drain_unless(self, plan: TlsPlan | None) -> None:
        """Let tunnels end with the streams that they have, unless they were made with `plan`: with
        a renewed SVID, say, the peers are to dial again."""
        before, self._plan = self._plan, None if plan is None else ref(plan)
        if before is not None and (plan is None or before() is not plan):
            self._handle.drain()

    def _set_last_door_state(self, door: Door) -> None:
        """Have `door` decide about streams that still arrive at tunnels of a closed listener, and
        keep no plan of it."""
        if door.tunnels is None:
            self.forget()
            return
        door_state = DoorState(self, door, None, door.direction is Direction.INBOUND)
        tunnels = limits_of(door.tunnels, door.tunnels.max_streams, door.timeouts.idle, None)
        self._handle.set_door_state(door_state, None, False, True, 0, tunnels, None)

    def lend_door_state(self, connection: ConnectionHandle) -> None:
        """Have a connection that has released its DoorState hold one again.  A closed listener has
        none any more, and makes one that nothing arrives under."""
        if connection.take_door_state() or self.door is None:
            return
        door_state = DoorState(self, self.door, None, self.door.direction is Direction.INBOUND)
        self._handle.set_door_state(door_state, None, False, False, 0, None, None)
        connection.take_door_state()
        self._handle.forget()

    def forget(self) -> None:
        """Let nobody decide about streams any more, after `close`."""
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        self._state.draining.discard(self)
        self._handle.forget()

    async def close(self) -> None:
        """Stop accepting, and return when each arrival has been admitted or refused."""
        if self._listener.fileno() != -1:
            self._release_socket(sockets.BACKLOG)
        if self._handle.undecided():
            self._state.closing.add(self)
            self._all_decided = self._all_decided or asyncio.Event()
            await self._all_decided.wait()
        # connections with a cached route are known by now
        self._state.take_all()

    def release(self) -> None:
        """Close the listening socket, and with it the connections in its queue."""
        if self._listener.fileno() != -1:
            self._release_socket(0)
        self.forget()

    def on_reports(self) -> None:
        """Look, after reports, whether accepting has paused or the last arrival is decided."""
        if self._all_decided is not None and not self._handle.undecided():
            self._all_decided.set()
            self._state.closing.discard(self)
        error = self._handle.shortage()
        if error:
            self._pause(error)

    def _release_socket(self, most: int) -> None:
        """Accept what waits in the kernel's queue, `most` at most, and close the socket."""
        self._state.listeners.discard(self)
        if self._resuming is not None:
            self._resuming.cancel()
        self._handle.close(most)
        sockets.release(self._listener)
        if self.door is None or self.door.tunnels is None:
            self.forget()
            return
        self._state.draining.add(self)
        self._forgetting = asyncio.get_running_loop().call_later(_DRAIN_S, self.forget)
        self._set_last_door_state(self.door)

    def _pause(self, error: int) -> None:
        """Accept nothing for a while; `error` is the errno that says why."""
        if error in SHORTAGES:
            self._state.shortages += 1
        loop = asyncio.get_running_loop()
        pause = self._backoff.pause(error, loop.time())
        self._resuming = loop.call_later(pause, self._handle.resume)


def captured_of(door: Door) -> Captured | None:
    """Make of a door what threads need for captured connections; None: there are none."""
    if not door.captured:
        return None
    ports, migrating = door.tls_ports, door.migrating_ports
    in_order = (*migrating, *((ports or frozenset()) - migrating))
    packed = b"".join(port.to_bytes(2, "big") for port in in_order)
    return ports is not None, packed, len(migrating), door.direction is Direction.INBOUND


def tls_setup(plan: TlsPlan, server_name: str | None = None) -> TlsSetup:
    """Make of a plan what a thread needs for a handshake; `server_name` is sent as SNI.

    Raises:
        RefusedError: no context can be made of it.
    """
    try:
        context = libssl.context_of(plan, _COMPILED)
    except IdentityError as error:
        raise RefusedError(Refusal(Outcome.HANDSHAKE_FAILED, str(error))) from error
    name = 0 if server_name is None else context.server_name(server_name)
    return context, *context.addresses, plan.trust_id, not context.server, name


def upstream_setup(route: Route, candidate: Candidate) -> TlsSetup | None:
    """Make what a thread needs for a handshake with a candidate; None without TLS.

    Raises:
        RefusedError: no context can be made of the route's plan.
    """
    plan = route.upstream_of(candidate).plan
    return None if plan is None else tls_setup(plan, candidate.server_name)
