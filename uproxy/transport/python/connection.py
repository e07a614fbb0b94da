"""The page of a connection's life: what follows from what, in the order in which it happens.

`on_accepted` to `on_cut` are the verbs, the same as in the compiled engine's `connection.pxd`.  A
verb enters a state, awaits what that state is for, and returns the verb that follows, or raises
the refusal with which `on_failed` is called.  Nothing else in the engine sets a state or a
deadline: `enter_state` does, and checks it against `lifecycle.MOVES`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from uproxy import libssl, sockets
from uproxy.contract import (
    Arrival,
    Candidate,
    Door,
    Ending,
    Refusal,
    RefusedError,
    Route,
    TlsPlan,
    Tunnel,
)
from uproxy.lifecycle import State
from uproxy.model import TunnelSettings
from uproxy.transport import failures
from uproxy.transport.dial import reach
from uproxy.transport.l7_failures import l7_proxy_of
from uproxy.transport.python.channel import Channel
from uproxy.transport.python.close import close_sides, ending_of, is_alert_sent
from uproxy.transport.python.relay import Relay, StrandedError
from uproxy.transport.python.side import ChannelSide, End, StreamRefusedError
from uproxy.transport.python.steps import Step, Steps
from uproxy.transport.python.tls import TlsChannel, begins_handshake, refusing
from uproxy.transport.through import Tries

if TYPE_CHECKING:
    from uproxy.transport.python.carried import CarriedStreams
    from uproxy.transport.python.listener import Host, Listener
    from uproxy.transport.python.pool import PooledTunnel
    from uproxy.transport.python.stream import StreamSide

LINGER: Final = 1.0
"""Seconds for which a refused peer may read its alert, or a tunnel's GOAWAY: if the socket were
closed at once, bytes that the peer still sends would be answered by a reset, which overtakes it."""

_DIALLING: Final = (State.CONNECTING, State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM)


class Connection(Steps):
    """One accepted connection; the engine's handle on it (`contract.Connection`)."""

    def __init__(
        self,
        engine: Host,
        listener: Listener,
        door: Door,
        accepted: socket.socket | StreamSide,
        arrival: Arrival,
    ) -> None:
        """`accepted`: the socket, or the stream of a tunnel whose CONNECT has come."""
        super().__init__(listener, door, arrival)
        self._engine = engine
        self._limiter = engine.limiter
        self._names = failures.NAMES[door.direction]
        self._socket = accepted
        self._downstream = None if isinstance(accepted, socket.socket) else accepted
        self._tries = Tries(time.monotonic())

    # The verbs.

    async def on_accepted(self) -> Step:
        """Count it against the limits; await the ClientHello, or without TLS and of a stream ask
        for the route.  A door that refuses is asked again at the first byte: a probe sends none."""
        self._limiter.add(self)
        if not isinstance(self._socket, socket.socket):
            return self.on_target_known
        plan = self._plan()
        if plan is not None:
            channel = TlsChannel(self._engine.poller, self._socket, self._names[0])
            self._downstream = ChannelSide(channel)
            limit = cast("Door", self._door).timeouts.handshake
            self.enter_state(State.HANDSHAKING_DOWNSTREAM, limit)
            self._limiter.mark_silent(self)
            with refusing(channel):
                if self._may_be_clear or isinstance(plan, Refusal):
                    await channel.wait_for_first_byte()
                    in_clear = self._may_be_clear and not begins_handshake(self._socket)
                    plan = None if in_clear else self._ask_for_plan()
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
        """The downstream peer is verified: give the slot back, and ask for the route, or at a door
        for tunnels carry streams."""
        self._limiter.free_slot(self)
        settings = self._decide().tunnels
        if settings is not None:
            return partial(self.on_carrying, settings)
        return self.on_target_known

    async def on_carrying(self, settings: TunnelSettings) -> Step:
        """Carry streams, each of which is an arrival of its own, until the tunnel ends."""
        self.enter_state(State.CARRYING, 0)
        # no local variable may keep the door: its plan has a key, and this awaits for long
        await self._carry(settings).until_over()
        return self.on_relay_ended

    async def on_target_known(self) -> Step:
        """Ask the listener's door where it goes; a second time if the door was replaced."""
        self.enter_state(State.ADMITTING, 0)
        is_first = self.route is None
        self._ask_for_route()
        if is_first:
            cast("End", self._downstream).watch_loss(self._on_downstream_lost)
        return self.on_routed

    async def on_routed(self) -> Step:
        """Connect to the next candidate, unless upstream is connected to one already."""
        route = cast("Route", self.route)
        self.enter_state(State.CONNECTING, self._tries.begin(route, time.monotonic()))
        if self._keep_upstream():
            return self.on_upstream_ready
        self._close_upstream()
        if not self._untried:
            raise RefusedError(failures.no_address(route))
        self._candidate, self._untried = self._untried[0], self._untried[1:]
        self.via, self.tunnel_end = l7_proxy_of(route, self._candidate), None
        if isinstance(route.upstream_of(self._candidate), Tunnel):
            pooled = self._take_tunnel(route, self._candidate)
            await asyncio.shield(pooled.connected)
            return partial(self.on_connected, pooled)
        server = failures.server_of(route, self._candidate)
        connected, self.dialled = await reach(
            self._engine.poller, self._candidate.addresses, server, source=route.dial_from
        )
        return partial(self.on_connected, connected)

    async def on_connected(self, connected: socket.socket | PooledTunnel) -> Step:
        """Upstream is connected: do the handshake, if there is TLS, or wait for the tunnel's."""
        route, tried = cast("Route", self.route), cast("Candidate", self._candidate)
        self._reached_by = replace(route, candidates=(tried,))
        if not isinstance(connected, socket.socket):
            if not connected.ready.done():
                self.enter_state(State.HANDSHAKING_UPSTREAM, route.timeouts.handshake)
            await asyncio.shield(connected.ready)
            return partial(self.on_tunnel_ready, connected)
        self.dialled_from = sockets.tcp_address_of(connected.getsockname())
        plan = route.upstream_of(tried).plan
        if plan is None:
            self._upstream = self._side_in_the_clear(connected, self._names[1])
            return self.on_upstream_ready
        channel = TlsChannel(self._engine.poller, connected, self._names[1])
        self._upstream = ChannelSide(channel)
        self.enter_state(State.HANDSHAKING_UPSTREAM, route.timeouts.handshake)
        with refusing(channel):
            await channel.handshake(libssl.context_of(plan), server_name=tried.server_name)
        return self.on_upstream_ready

    async def on_tunnel_ready(self, tunnel: PooledTunnel) -> Step:
        """There is a tunnel: send a CONNECT, and wait for its answer."""
        from uproxy.transport.python.way import way_of  # to save memory

        route = cast("Route", self.route)
        self.enter_state(State.OPENING_STREAM, self._tries.seconds(route, time.monotonic()))
        self._pooled = None  # `open` gives the reserved stream back
        self.shares_tls = tunnel.has_carried
        self.dialled_from = tunnel.dialled_from
        try:
            way = way_of(route, cast("Candidate", self._candidate))
            self._upstream = await tunnel.open(way)
        except StreamRefusedError:
            if self._door_replaced or not self._tries.again(route, time.monotonic()):
                raise
            self._untried = (cast("Candidate", self._candidate), *self._untried)
            return self.on_routed
        return self.on_upstream_ready

    async def on_upstream_ready(self) -> Step:
        """Relay until both directions have ended; ask again if the door was replaced meanwhile."""
        if self._door_replaced:
            return self.on_target_known
        # no local variable may keep the route: its plan has a key, and this awaits for long
        self.enter_state(State.RELAYING, cast("Route", self.route).timeouts.idle)
        try:
            await self._open()
        except StrandedError:
            return self.on_stranded
        self.enter_state(State.CLOSING, cast("Route", self.route).timeouts.half_close)
        await cast("Relay", self._relay).until_closed()
        return self.on_relay_ended

    async def on_stranded(self) -> Step:
        """The tunnel of its stream is lost, and no byte has passed: ask for a route again."""
        self.enter_state(State.ADMITTING, 0)
        self._take_back(time.monotonic() - self._accepted_at)
        self._tries = Tries(time.monotonic())
        cast("End", self._downstream).watch_loss(self._on_downstream_lost)
        return self.on_target_known

    async def on_relay_ended(self) -> None:
        """Both directions have ended: close both sides in order."""
        ending = self._close_sides(None)
        self.enter_state(State.CLOSED, 0)
        self._report_ending(ending)

    async def on_failed(self, why: Refusal) -> Step | None:
        """Try the next candidate, or a new door's route; else let the peer read why, and close.  A
        tunnel that was lost outlives its socket until its streams have ended."""
        self._limiter.mark_active(self)
        self._limiter.free_slot(self)
        if self._cut is None:
            why = self._in_words(why, time.monotonic() - self._accepted_at)
        if self._cut is None and self.state in _DIALLING:
            self._close_upstream()
            self._report_attempt(why)
            downstream = cast("End", self._downstream)
            if downstream.gone is not None:
                why = failures.broken(downstream.who, downstream.gone)
            elif self._door_replaced:
                return self.on_target_known
            elif self._untried:
                return self.on_routed
        self._report_decided()
        if self._is_explained(why):
            self._limiter.mark_silent(self)  # it makes room when connections are full
            self.enter_state(self.state, LINGER)
            channel = cast("ChannelSide", self._downstream).channel
            with suppress(asyncio.CancelledError):  # at the deadline, or when cut
                await channel.linger()
            if self._cut is None:
                channel.close()
            self.enter_state(self.state, 0)
        if self._carried is not None:
            await self._carried.end(self._cut)
        if not isinstance(self._socket, socket.socket):
            self._socket.refuse(why)
        ending = self._close_sides(why)
        self.enter_state(State.CLOSED, 0)
        self._report_ending(ending)
        return None

    def on_deadline(self) -> None:
        """Have `on_failed` called, because the state has lasted for its seconds."""
        down, up = self._names
        if self.state is State.CONNECTING and self._candidate is not None:
            ends = self._candidate.addresses if self.tunnel_end is None else (self.tunnel_end,)
            why = failures.no_answer(ends, cast("Route", self.route).timeouts.connect)
        elif self.state is State.OPENING_STREAM:
            why = failures.unanswered_connect(up, cast("Route", self.route).timeouts.connect)
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

    # What the verbs do.

    def _side_in_the_clear(self, connected: socket.socket, who: str) -> ChannelSide:
        return ChannelSide(Channel(self._engine.poller, connected, who))

    def _carry(self, settings: TunnelSettings) -> CarriedStreams:
        """Tell the door that it carries streams from now on, and keep nothing of the snapshot."""
        from uproxy.transport.python.carried import CarriedStreams  # to save memory

        channel = cast("TlsChannel", cast("ChannelSide", self._downstream).channel)
        door, listener = cast("Door", self._door), cast("Listener", self._listener)
        idle = door.timeouts.idle
        self._carried = CarriedStreams(self, channel, settings, listener, self._limiter, idle)
        self._report_decided()
        self._on_closed = door.carrying(self)
        if self._cut is not None:
            raise RefusedError(self._cut)
        self._forget_snapshot()
        return self._carried

    def _take_tunnel(self, route: Route, candidate: Candidate) -> PooledTunnel:
        """Reserve a stream to the candidate, on a tunnel that may still be being dialled."""
        from uproxy.transport.python.way import way_of  # to save memory

        way = way_of(route, candidate)
        self.dialled, self.tunnel_end = way.authority, way.end
        self._pooled = self._engine.pool.take(way, route)
        return self._pooled

    def _open(self) -> Awaitable[None]:
        """Tell the door that both sides are ready, and relay until one direction has ended or one
        side has failed."""
        candidate, route = self._candidate, cast("Route", self.route)
        self.endpoint = candidate.endpoint if candidate else None
        down, up = cast("End", self._downstream), cast("End", self._upstream)
        self._relay = Relay(down, up, time.monotonic() - self._accepted_at, self._is_stranded)
        self._report_attempt(None)
        self._on_closed = cast("Door", self._door).opened(self)
        if self._cut is not None:
            # a cancellation waits for the next await, and bytes would have passed by then
            raise RefusedError(self._cut)
        if not isinstance(self._socket, socket.socket):
            self._socket.accept()
        self._forget_snapshot()
        return self._relay.until_half_closed(route.preface)

    def _is_explained(self, why: Refusal) -> bool:
        """Whether an alert, or a tunnel's GOAWAY, is on its way to the downstream peer."""
        if self._carried is not None:
            return self._cut is None and self._carried.has_told_why
        is_told = self.state is State.HANDSHAKING_DOWNSTREAM and is_alert_sent(why)
        return self._cut is None and is_told

    def _close_sides(self, why: Refusal | None) -> Ending:
        """Close both sides, in order or with a reset; return how it ended."""
        self._limiter.remove(self)
        self._give_back_stream()
        if self._downstream is None and isinstance(self._socket, socket.socket):
            sockets.reset(self._socket)
        close_sides((self._downstream, self._upstream), why)
        return ending_of(self, why, time.monotonic() - self._accepted_at)
