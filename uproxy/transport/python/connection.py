"""A connection's whole connection, in order: `_live` is the page to read.

Each step may refuse by raising RefusedError; `run` turns that, and everything else that can
happen, into one Ending and one call of `Door.closed`, or of what `Door.opened` returned.  Steps
follow `lifecycle.MOVES`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, cast

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
)
from uproxy.errors import IdentityError, UntrustedError
from uproxy.libssl import TlsError
from uproxy.lifecycle import State
from uproxy.model import Outcome
from uproxy.transport import failures
from uproxy.transport.dial import reach
from uproxy.transport.poller import Poller
from uproxy.transport.python.deciding import Deciding, HasDoor
from uproxy.transport.python.limits import Limiter
from uproxy.transport.python.relay import Relay
from uproxy.transport.python.side import Side
from uproxy.transport.python.tls import TlsSide
from uproxy.transport.succession import same_way

LINGER: Final = 1.0
"""Seconds a refused peer has to read its alert: closed at once, bytes that it still sends
would be answered by a reset that overtakes the alert."""

_WITH_ALERT: Final = frozenset(
    {Outcome.HANDSHAKE_FAILED, Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED, Outcome.PROBED}
)

_log = logging.getLogger(__name__)


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
        self._poller = poller
        self._limiter = limiter
        self._accepted_at = time.monotonic()
        self._names = failures.NAMES[door.direction]
        self._socket = accepted
        self._cut: Refusal | None = None
        self._begun = False
        self._task: asyncio.Task[None] | None = None

    def close(self, refusal: Refusal) -> None:
        """Cut it now; the first reason stands."""
        if self._cut is None and self.state is not State.CLOSED:
            self._cut = refusal
            if self._task is not None and self._begun:
                self._task.cancel()

    def start(self, on_decided: Callable[[], None]) -> asyncio.Task[None]:
        """Begin to live; `on_decided` is told once, when it has been admitted or refused."""
        self._on_decided = on_decided
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    # The connection.

    async def _live(self) -> None:
        """From accepted to closed; returns when both sides have said their orderly end.

        Raises:
            RefusedError: the step that was reached ended it.
        """
        # nothing of a route or a plan is kept here: this runs as long as the connection is open
        await self._meet()
        await self._reach(self._ask_for_route())
        relay, preface = self._open()
        await relay.run(preface)

    async def _meet(self) -> None:
        plan = self._ask_for_tls()
        if plan is not None:
            await self._handshake_downstream(plan)

    def _ask_for_tls(self) -> TlsPlan | None:
        self._limiter.add(self)
        plan = self._decide().tls()
        if isinstance(plan, Refusal):
            raise RefusedError(plan)
        kind = Side if plan is None else TlsSide
        self._downstream = kind(self._poller, self._socket, self._names[0])
        return plan

    async def _handshake_downstream(self, plan: TlsPlan) -> None:
        self._move(State.HANDSHAKING_DOWNSTREAM)
        self.arrival = replace(self.arrival, tls=plan)
        side = cast("TlsSide", self._downstream)
        limit = cast("Door", self._door).timeouts.handshake
        try:
            async with _deadline(limit):
                self._limiter.mark_silent(self)
                hello = await side.receive_client_hello()
                self._limiter.mark_active(self)
                self._limiter.take_slot(self)
                await side.handshake(libssl.context_of(plan), hello)
        except (UntrustedError, IdentityError, TlsError, OSError) as error:
            raise RefusedError(failures.handshake(side.who, error, limit)) from error
        finally:
            self._limiter.mark_active(self)
            self._limiter.free_slot(self)
        self.arrival = replace(self.arrival, peer=side.peer)

    async def _reach(self, route: Route) -> None:
        """Reach the upstream side as `route` says, or as the route does that a new door gives
        meanwhile."""
        cast("Side", self._downstream).watch_loss(self._on_downstream_lost)
        while True:
            failure = await self._go(route)
            if self._door_replaced:
                before, route = route, self._ask_for_route()
                side = self._upstream
                peer = side.peer if isinstance(side, TlsSide) else None
                kept = None if failure else same_way(before, route, self.dialled, peer)
                if kept is None:
                    self._close_upstream()
                    continue
                self._move(State.CONNECTING)
                self.route, self._candidate = kept, kept.candidates[0]
            elif failure is not None:
                raise RefusedError(failure)
            return

    async def _go(self, route: Route) -> Refusal | None:
        """Try the candidates until one is reached, or another door decides; why none was."""
        self._move(State.CONNECTING)
        downstream, last = cast("Side", self._downstream), failures.no_address(route)
        for candidate in route.candidates:
            self._candidate = candidate
            failure = await self._try(route, candidate)
            if failure is None:
                return None
            last = failure
            if downstream.gone is not None:
                raise RefusedError(failures.broken(downstream.who, downstream.gone))
            if self._door_replaced:
                break
        return last

    def _close_upstream(self) -> None:
        """What was reached isn't where the connection goes."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    def _on_downstream_lost(self, error: OSError) -> None:
        """It was reset.  What it had said is for an upstream that is reached."""
        downstream = cast("Side", self._downstream)
        if self.state is State.HANDSHAKING_UPSTREAM and downstream.has_unread():
            downstream.lose(error)
        else:
            self.close(failures.broken(downstream.who, error))

    async def _try(self, route: Route, candidate: Candidate) -> Refusal | None:
        """Why it couldn't be reached."""
        if self.state is not State.CONNECTING:
            self._move(State.CONNECTING)
        try:
            self._upstream = await self._connect(route, candidate)
        except RefusedError as no:
            cast("Door", self._door).attempted(route, candidate, no.refusal)
            return no.refusal
        return None

    async def _connect(self, route: Route, candidate: Candidate) -> Side:
        connected, self.dialled = await reach(
            self._poller, candidate.addresses, route.timeouts.connect
        )
        plan = route.upstream.plan
        if plan is None:
            return Side(self._poller, connected, self._names[1])
        return await self._handshake_upstream(
            connected, plan, route.timeouts.handshake, candidate.server_name
        )

    async def _handshake_upstream(
        self, connected: socket.socket, plan: TlsPlan, limit: float, server_name: str | None
    ) -> Side:
        self._move(State.HANDSHAKING_UPSTREAM)
        side = TlsSide(self._poller, connected, self._names[1])
        try:
            async with _deadline(limit):
                await side.handshake(libssl.context_of(plan), server_name=server_name)
        except RefusedError:
            side.close()
            raise
        except (UntrustedError, IdentityError, TlsError, OSError) as error:
            side.close()
            raise RefusedError(failures.handshake(side.who, error, limit)) from error
        except BaseException:
            side.reset()
            raise
        return side

    def _open(self) -> tuple[Relay, bytes]:
        """Both sides are ready: what moves the bytes, and what goes first."""
        downstream, upstream = cast("Side", self._downstream), cast("Side", self._upstream)
        route, door = cast("Route", self.route), cast("Door", self._door)
        candidate = cast("Candidate", self._candidate)
        relay = self._relay = Relay(downstream, upstream, route.timeouts, self._half_closed)
        self._move(State.RELAYING)
        self.endpoint = candidate.endpoint
        door.attempted(route, candidate, None)
        self._on_closed = door.opened(self)
        if self._cut is not None:
            # a cancellation waits for the next await, and bytes would have passed by then
            raise RefusedError(self._cut)
        self._forget_snapshot(route)
        return relay, route.preface

    def _half_closed(self) -> None:
        if self.state is State.RELAYING:
            self._move(State.CLOSING)

    # The end.

    async def _run(self) -> None:
        refusal = await self._outcome()
        self._report_decided()
        if self._speaks_last(refusal):
            self._limiter.mark_silent(self)  # it makes room when connections are full
            with suppress(asyncio.CancelledError):  # cut: then without waiting
                await cast("Side", self._downstream).linger(LINGER)
        self._let_go(refusal)
        ending = self._ending(refusal)
        self._move(State.CLOSED)
        try:
            (self._on_closed or cast("Door", self._door).closed)(self, ending)
        except Exception:  # noqa: BLE001  the door's defect; the connection has ended anyway
            _log.exception("Door.closed failed for connection %d", self.arrival.id)

    async def _outcome(self) -> Refusal | None:
        """Live, and turn whatever ends it into a refusal; None for the orderly end."""
        self._begun = True  # a task cancelled before its first step would never take it
        if self._cut is not None:
            return self._cut
        try:
            await self._live()
        except RefusedError as no:
            return self._cut or no.refusal
        except asyncio.CancelledError:
            return self._cut or failures.STOPPED
        except Exception:  # noqa: BLE001  a defect: this connection ends, the process doesn't
            _log.exception("a defect ended connection %d (%s)", self.arrival.id, self.state)
            return self._cut or failures.DEFECT
        return None

    def _speaks_last(self, refusal: Refusal | None) -> bool:
        """Whether an alert is on its way to the downstream side."""
        return (
            refusal is not None
            and self._cut is None
            and self.state is State.HANDSHAKING_DOWNSTREAM
            and refusal.outcome in _WITH_ALERT
        )

    def _let_go(self, refusal: Refusal | None) -> None:
        self._limiter.remove(self)
        if self._downstream is None:
            sockets.reset(self._socket)
        for side in (self._downstream, self._upstream):
            if side is not None and _is_orderly(side, refusal):
                side.close()
            elif side is not None:
                side.reset()

    def _ending(self, refusal: Refusal | None) -> Ending:
        return Ending(
            outcome=refusal.outcome if refusal else Outcome.CLOSED,
            state=self.state,
            duration=time.monotonic() - self._accepted_at,
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            reason=refusal.reason if refusal else None,
            rule=self._rule(refusal),
        )

    def _rule(self, refusal: Refusal | None) -> str | None:
        """The rule that refused, or the one that let it in."""
        if refusal is not None and refusal.rule is not None:
            return refusal.rule
        return self.route.rule if self.route else None


def _is_orderly(side: Side, refusal: Refusal | None) -> bool:
    """Whether to close without a reset, which would take what the kernel hasn't delivered yet:
    a slow reader that was told the end isn't at fault for the other side's silence."""
    return refusal is None or (refusal.outcome is Outcome.TIMED_OUT and side.finished)


def _deadline(seconds: float) -> asyncio.Timeout:
    """0 is none."""
    return asyncio.timeout(seconds or None)
