"""The page of a connection's life: what follows from what, in the order in which it happens.

`on_accepted` to `on_cut` are the verbs, the same as in the compiled engine's `connection.pxd`.  A
verb enters a state, awaits what that state is for, and returns the verb that follows, or raises
the refusal with which `on_failed` is called.  Nothing else in the engine sets a state or a
deadline: `enter_state` does, and checks it against `lifecycle.MOVES`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, cast

from uproxy import libssl, sockets
from uproxy.contract import Arrival, Door, Ending, Refusal, RefusedError, Route, TlsPlan
from uproxy.lifecycle import State, check_move
from uproxy.transport import failures
from uproxy.transport.dial import reach
from uproxy.transport.poller import Poller
from uproxy.transport.python.channel import Channel
from uproxy.transport.python.close import close_sides, ending_of, is_alert_sent
from uproxy.transport.python.deciding import Deciding, HasDoor
from uproxy.transport.python.limits import Limiter
from uproxy.transport.python.relay import Relay
from uproxy.transport.python.side import ChannelSide
from uproxy.transport.python.tls import TlsChannel, refusing

LINGER: Final = 1.0
"""Seconds for which a refused peer may read its alert: if the socket were closed at once, bytes
that the peer still sends would be answered by a reset, which overtakes the alert."""

_DIALLING: Final = (State.CONNECTING, State.HANDSHAKING_UPSTREAM)

_log = logging.getLogger(__name__)

Step = Callable[[], Awaitable["Step | None"]]
"""A verb with its arguments; it returns the verb that follows, None after the last."""


class Connection(Deciding):
    """One accepted connection; the engine's handle on it (`contract.Connection`)."""

    def __init__(
        self,
        poller: Poller,
        limiter: Limiter,
        listener: HasDoor,
        door: Door,
        accepted: socket.socket,
        arrival: Arrival,
    ) -> None:
        super().__init__(listener, door, arrival)
        self.state = State.ACCEPTED
        self._poller = poller
        self._limiter = limiter
        self._accepted_at = time.monotonic()
        self._names = failures.NAMES[door.direction]
        self._socket = accepted
        self._cut: Refusal | None = None  # why it ends, whatever is still tried
        self._interrupted_by: Refusal | None = None  # why its task was cancelled
        self._seconds = 0.0  # of the deadline; 0: none
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False

    # The verbs.

    async def on_accepted(self) -> Step:
        """Count it against the limits; await the ClientHello, or on a door without TLS ask for
        the route.  A door that refuses is asked again at the first byte: a probe sends none."""
        self._limiter.add(self)
        plan = self._decide().tls()
        if plan is not None:
            channel = TlsChannel(self._poller, self._socket, self._names[0])
            self._downstream = ChannelSide(channel)
            limit = cast("Door", self._door).timeouts.handshake
            self.enter_state(State.HANDSHAKING_DOWNSTREAM, limit)
            self._limiter.mark_silent(self)
            with refusing(channel):
                if isinstance(plan, Refusal):
                    await channel.wait_for_first_byte()
                    plan = self._ask_for_plan()
                if plan is not None:
                    self.arrival = replace(self.arrival, tls=plan)
                    return partial(self.on_client_hello, await channel.receive_client_hello())
        self._limiter.mark_active(self)
        self._downstream = self._side_in_the_clear(self._socket, self._names[0])
        return self.on_target_known

    async def on_client_hello(self, hello: bytes) -> Step:
        """It is complete: take a handshake's slot, and do the handshake."""
        self._limiter.mark_active(self)
        self._limiter.take_slot(self)
        channel = cast("TlsChannel", cast("ChannelSide", self._downstream).channel)
        with refusing(channel):
            context = libssl.context_of(cast("TlsPlan", self.arrival.tls))
            await channel.handshake(context, hello, None, partial(self._limiter.mark_stalled, self))
        self.arrival = replace(self.arrival, peer=channel.peer)
        return self.on_handshaken

    async def on_handshaken(self) -> Step:
        """The downstream peer is verified: give the slot back, and ask for the route."""
        self._limiter.free_slot(self)
        return self.on_target_known

    async def on_target_known(self) -> Step:
        """Ask the listener's door where it goes; a second time if the door was replaced."""
        self.enter_state(State.ADMITTING, 0)
        is_first = self.route is None
        self._ask_for_route()
        if is_first:
            cast("ChannelSide", self._downstream).channel.watch_loss(self._on_downstream_lost)
        return self.on_routed

    async def on_routed(self) -> Step:
        """Connect to the next candidate, unless upstream is connected to one already."""
        route = cast("Route", self.route)
        self.enter_state(State.CONNECTING, route.timeouts.connect)
        if self._keep_upstream():
            return self.on_upstream_ready
        self._close_upstream()
        if not self._untried:
            raise RefusedError(failures.no_address(route))
        self._candidate, self._untried = self._untried[0], self._untried[1:]
        connected, self.dialled = await reach(self._poller, self._candidate.addresses, route)
        return partial(self.on_connected, connected)

    async def on_connected(self, connected: socket.socket) -> Step:
        """The upstream's TCP, or unix, connection is there: do the handshake, if there is TLS."""
        route, self._reached_by = cast("Route", self.route), self.route
        self.dialled_from = sockets.tcp_address_of(connected.getsockname())
        plan = route.upstream.plan
        if plan is None:
            self._upstream = self._side_in_the_clear(connected, self._names[1])
            return self.on_upstream_ready
        channel = TlsChannel(self._poller, connected, self._names[1])
        self._upstream = ChannelSide(channel)
        self.enter_state(State.HANDSHAKING_UPSTREAM, route.timeouts.handshake)
        name = self._candidate.server_name if self._candidate else None
        with refusing(channel):
            await channel.handshake(libssl.context_of(plan), server_name=name)
        return self.on_upstream_ready

    async def on_upstream_ready(self) -> Step:
        """Relay until both directions have ended; ask again if the door was replaced meanwhile."""
        if self._door_replaced:
            return self.on_target_known
        # no local variable may keep the route: its plan has a key, and this awaits for long
        self.enter_state(State.RELAYING, cast("Route", self.route).timeouts.idle)
        await self._open()
        self.enter_state(State.CLOSING, cast("Route", self.route).timeouts.half_close)
        await cast("Relay", self._relay).until_closed()
        return self.on_relay_ended

    async def on_relay_ended(self) -> None:
        """Both directions have ended: close both sides in order."""
        ending = self._close_sides(None)
        self.enter_state(State.CLOSED, 0)
        self._report_ending(ending)

    async def on_failed(self, why: Refusal) -> Step | None:
        """Try the next candidate, or the route of a new door; otherwise let a refused peer read
        its alert, and close."""
        self._limiter.mark_active(self)
        self._limiter.free_slot(self)
        if self._cut is None and self.state in _DIALLING:
            self._close_upstream()
            self._report_attempt(why)
            downstream = cast("ChannelSide", self._downstream).channel
            if downstream.gone is not None:
                why = failures.broken(downstream.who, downstream.gone)
            elif self._door_replaced:
                return self.on_target_known
            elif self._untried:
                return self.on_routed
        self._report_decided()
        if self._is_alert_sent(why):
            self._limiter.mark_silent(self)  # it makes room when connections are full
            self.enter_state(self.state, LINGER)
            channel = cast("ChannelSide", self._downstream).channel
            with suppress(asyncio.CancelledError):  # at the deadline, or when cut
                await channel.linger()
            if self._cut is None:
                channel.close()
        ending = self._close_sides(why)
        self.enter_state(State.CLOSED, 0)
        self._report_ending(ending)
        return None

    def on_deadline(self) -> None:
        """Have `on_failed` called, because the state has lasted for its seconds."""
        down, up = self._names
        if self.state is State.CONNECTING and self._candidate is not None:
            why = failures.no_answer(self._candidate.addresses, self._seconds)
        elif self._relay is not None:
            half_closed = self.state is State.CLOSING
            timeouts = cast("Route", self.route).timeouts
            why = self._relay.loss() or failures.idle(timeouts, half_closed=half_closed)
        else:
            who = up if self.state is State.HANDSHAKING_UPSTREAM else down
            why = failures.handshake(who, TimeoutError(), self._seconds)
        self._interrupt(why)

    def on_cut(self, why: Refusal) -> None:
        """Have `on_failed` called now, with the first reason for which the process ends it."""
        if self._cut is None and self.state is not State.CLOSED:
            self._cut = why
            if self._has_begun:
                self._interrupt(why)

    # State and deadline.

    def enter_state(self, state: State, seconds: float) -> None:
        """Enter a state, or stay in it with another deadline; nothing else sets either.

        Args:
            seconds: until `on_deadline`, since now, or while it relays since bytes moved last; 0:
                no deadline.

        Raises:
            ValueError: `lifecycle.MOVES` doesn't allow it: a defect.
        """
        if state is not self.state:
            check_move(self.state, state)
        self.state = state
        self._set_deadline(seconds)

    def _set_deadline(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._seconds, self._timer = seconds, None
        if seconds:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(loop.time() + seconds, self._on_timer)

    def _on_timer(self) -> None:
        """Call `on_deadline`; if bytes have moved meanwhile, only set the timer again."""
        if self._relay is None:
            self.on_deadline()
            return
        loop, due = asyncio.get_running_loop(), self._relay.last_moved() + self._seconds
        if loop.time() < due:
            self._timer = loop.call_at(due, self._on_timer)
        elif not self._relay.is_over:
            self.on_deadline()

    # The task that runs the verbs.

    def start(self, on_decided: Callable[[], None]) -> asyncio.Task[None]:
        """Begin; `on_decided` is called once, when it has been admitted or refused."""
        self._on_decided = on_decided
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    def close(self, refusal: Refusal) -> None:
        """End it now, as `contract.Connection` says."""
        self.on_cut(refusal)

    async def _run(self) -> None:
        """Run the verbs, from `on_accepted` to the last."""
        self._has_begun = True  # a task cancelled before its first step would never take it
        step: Step | None = self.on_accepted
        if self._cut is not None:
            step = partial(self.on_failed, self._cut)
        while step is not None:
            step = await self._take(step)

    async def _take(self, step: Step) -> Step | None:
        """Run a verb; return the one that follows, which is `on_failed` if it raises anything."""
        try:
            return await step()
        except RefusedError as no:
            why = no.refusal
        except asyncio.CancelledError:
            why = self._why_interrupted()
        except Exception:
            if self._cut is failures.DEFECT:
                raise  # ending it failed as well
            _log.exception("a defect ended connection %d (%s)", self.arrival.id, self.state)
            why = self._cut = self._cut or failures.DEFECT
        return partial(self.on_failed, self._cut or why)

    def _interrupt(self, why: Refusal) -> None:
        """Cancel what is awaited."""
        self._interrupted_by = why
        if self._task is not None:
            self._task.cancel()

    def _why_interrupted(self) -> Refusal:
        """Return the reason given to `_interrupt`; without one the whole process stops."""
        why, self._interrupted_by = self._interrupted_by, None
        if why is None:
            why = self._cut = self._cut or failures.STOPPED
        return why

    # What the verbs do.

    def _side_in_the_clear(self, connected: socket.socket, who: str) -> ChannelSide:
        return ChannelSide(Channel(self._poller, connected, who))

    def _on_downstream_lost(self, error: OSError) -> None:
        """End a connection that downstream has reset before it was open; if upstream is connected
        already, pass on first what downstream had sent."""
        channel = cast("ChannelSide", self._downstream).channel
        if self.state is State.HANDSHAKING_UPSTREAM and channel.has_unread():
            channel.lose(error)
        else:
            self.on_cut(failures.broken(channel.who, error))

    def _open(self) -> Awaitable[None]:
        """Tell the door that both sides are ready, and relay until one direction has ended or one
        side has failed."""
        candidate, route = self._candidate, cast("Route", self.route)
        self.endpoint = candidate.endpoint if candidate else None
        down, up = cast("ChannelSide", self._downstream), cast("ChannelSide", self._upstream)
        self._relay = Relay(down, up, time.monotonic() - self._accepted_at)
        self._report_attempt(None)
        self._on_closed = cast("Door", self._door).opened(self)
        if self._cut is not None:
            # a cancellation waits for the next await, and bytes would have passed by then
            raise RefusedError(self._cut)
        self._forget_snapshot()
        return self._relay.until_half_closed(route.preface)

    def _is_alert_sent(self, why: Refusal) -> bool:
        """Whether an alert is on its way to the downstream peer."""
        is_shaking = self._cut is None and self.state is State.HANDSHAKING_DOWNSTREAM
        return is_shaking and is_alert_sent(why)

    def _close_sides(self, why: Refusal | None) -> Ending:
        """Close both sides, in order or with a reset; return how it ended."""
        self._limiter.remove(self)
        if self._downstream is None:
            sockets.reset(self._socket)
        close_sides((self._downstream, self._upstream), why)
        return ending_of(self, why, time.monotonic() - self._accepted_at)

    def _report_ending(self, ending: Ending) -> None:
        """Tell the door, or what its `opened` returned."""
        try:
            (self._on_closed or cast("Door", self._door).closed)(self, ending)
        except Exception:  # noqa: BLE001  the door's defect; the connection has ended anyway
            _log.exception("Door.closed failed for connection %d", self.arrival.id)
