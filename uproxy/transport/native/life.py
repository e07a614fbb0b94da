"""A connection as the event loop sees it: what the doors are asked, what the threads are told.

    begin: Door.tls → shake_near … NEAR_SHAKEN: Door.admit → connect … FAR_READY: Door.opened
    → relay … CLOSED: Door.closed

Between two of these it costs the loop nothing.  Whatever refuses it (`RefusedError`, a defect)
cuts it, and CLOSED then has its ending; steps follow `lifecycle.MOVES`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, cast

from uproxy import libssl, sockets
from uproxy.contract import (
    Arrival,
    Candidate,
    Door,
    Ending,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
    TlsFacts,
    TlsPlan,
)
from uproxy.engine._engine import CLOSED, FAR_FAILED, FAR_READY, NEAR_SHAKEN, PARTING, Wire
from uproxy.errors import IdentityError
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Outcome, TcpAddress
from uproxy.transport.native import reasons
from uproxy.transport.twin.dial import DialError, dial

if TYPE_CHECKING:
    from uproxy.engine._engine import Core
    from uproxy.transport.twin.gate import Gate
    from uproxy.transport.twin.poller import Poller

_STATES: Final = tuple(State)
_PHASES: Final = {state: phase for phase, state in enumerate(State)}
_DEFECT: Final = Refusal(Outcome.RESET, "a defect in uProxy: its log says more")
_NEAR, _FAR = 0, 1

_log = logging.getLogger(__name__)


class Host(Protocol):
    """The engine it lives in."""

    @property
    def core(self) -> Core: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def poller(self) -> Poller: ...

    def left(self, life: Life) -> None:
        """It has ended, and nothing of it is left."""


class Life(Wire):
    """One accepted connection; the engine's handle on it (`contract.Connection`)."""

    __slots__ = (
        "_accepted_at", "_candidate", "_candidates", "_cut", "_dialling", "_door", "_host",
        "_last_failure", "_names", "_ours", "_refusal", "_socket", "arrival", "dialled",
        "endpoint", "on_decided", "peer", "route", "tls",
    )  # fmt: skip

    def __init__(self, host: Host, door: Door, accepted: socket.socket, arrival: Arrival) -> None:
        self.arrival = arrival
        self.route: Route | None = None
        self.peer: PeerSvid | None = None
        self.tls: TlsFacts | None = None
        self.dialled: Address | None = None
        self.endpoint: str | None = None
        self.on_decided: Callable[[], None] | None = None  # until it is admitted or refused
        self._host = host
        self._door = door
        self._accepted_at = time.monotonic()
        self._socket: socket.socket | None = accepted  # until a thread has it
        self._ours = True  # nothing of it is left when False
        self._refusal: Refusal | None = None
        self._cut: Refusal | None = None
        self._candidates: Iterator[Candidate] = iter(())
        self._candidate: Candidate | None = None  # the one being tried
        self._last_failure: Refusal | None = None
        self._dialling: asyncio.Task[None] | None = None  # only while addresses race
        inbound = door.direction is Direction.INBOUND
        self._names = ("the peer", "the application")[:: 1 if inbound else -1]

    # What doors and the registry see.

    @property
    def state(self) -> State:
        return _STATES[self.phase] if self._ours else State.CLOSED

    @property
    def bytes_received(self) -> int:
        return self.count(_NEAR if self._inbound else _FAR)

    @property
    def bytes_sent(self) -> int:
        return self.count(_FAR if self._inbound else _NEAR)

    @property
    def source_host(self) -> str | None:
        source = self.arrival.source
        return source.host if isinstance(source, TcpAddress) else None

    def close(self, refusal: Refusal) -> None:
        """Cut it now; the first reason stands."""
        if self._cut is None and self._ours:
            self._cut = refusal
            if self._socket is None:
                self.cut()

    # The life.

    def begin(self) -> None:
        """From its arrival."""
        self._guarded(self._begin)

    def happened(self, events: int) -> None:
        """What a thread reports."""
        if events & CLOSED:
            self._end(self._guarded_refusal())
        elif events & PARTING:
            self._part()
        elif self._cut is not None or self._refusal is not None:
            return  # CLOSED is on its way
        elif events & NEAR_SHAKEN:
            self._guarded(self._meet)
        elif events & FAR_READY:
            self._guarded(self._open)
        elif events & FAR_FAILED:
            self._guarded(self._miss)

    def _begin(self) -> None:
        accepted = cast("socket.socket", self._socket)
        self._host.gate.enter(self)
        plan = self._door.tls()
        if isinstance(plan, Refusal):
            raise RefusedError(plan)
        if self._cut is not None:
            raise RefusedError(self._cut)
        self._host.core.adopt(self, accepted.detach())
        self._socket = None
        if plan is None:
            self._ask_for_route()
        else:
            self._shake_near(plan)

    def _shake_near(self, plan: TlsPlan) -> None:
        self.enter(_PHASES[State.HANDSHAKING_NEAR])
        self.arrival = replace(self.arrival, tls=plan)
        self._host.gate.waits(self)
        context = _context(plan)
        limit = self._door.timeouts.handshake
        self.shake_near(context, context.address, context.number, not context.server, limit)

    def _part(self) -> None:
        """Refused, and left to read why."""
        self._host.gate.speaks(self)
        self._host.gate.waits(self)
        self._say_decided()

    def _meet(self) -> None:
        """The near peer is verified."""
        self._host.gate.speaks(self)
        peer = cast("PeerSvid", self.verdict(_NEAR))
        if self._inbound:
            self.peer, self.tls = peer, TlsFacts(*self.facts())
        self.arrival = replace(self.arrival, peer=peer)
        self._ask_for_route()

    def _ask_for_route(self) -> None:
        self.enter(_PHASES[State.ADMITTING])
        answer = self._door.admit(self.arrival)
        if isinstance(answer, Refusal):
            raise RefusedError(answer)
        self.route = answer
        self._say_decided()
        self._candidates = iter(answer.candidates)
        self.enter(_PHASES[State.CONNECTING])
        self._reach(answer)

    def _reach(self, route: Route) -> None:
        """Set out for the next candidate."""
        for candidate in self._candidates:
            self._candidate = candidate
            self.enter(_PHASES[State.CONNECTING])
            failure = self._set_out(route, candidate)
            if failure is None:
                return
            self._failed(route, failure)
        none = Refusal(Outcome.CONNECT_FAILED, f"{route.destination} has no address to try")
        raise RefusedError(self._last_failure or none)

    def _set_out(self, route: Route, candidate: Candidate) -> Refusal | None:
        """Begin to dial; why that failed at once."""
        address = candidate.addresses[0]
        if len(candidate.addresses) > 1:
            self._race(route, candidate)
            return None
        try:
            connection, error = sockets.start_connecting(address)
        except OSError as failure:
            error = failure.errno or 0
            return Refusal(Outcome.CONNECT_FAILED, sockets.explain(error, address))
        if error in (0, errno.EINPROGRESS):
            return self._hand_over(route, connection, waiting=error != 0)
        connection.close()
        if error == errno.EAGAIN:  # a unix socket's queue is full
            self._race(route, candidate)
            return None
        return Refusal(Outcome.CONNECT_FAILED, sockets.explain(error, address))

    def _hand_over(
        self, route: Route, connection: socket.socket, *, waiting: bool
    ) -> Refusal | None:
        if route.tls is not None:
            try:
                context = _context(route.tls)
            except RefusedError as no:
                connection.close()
                return no.refusal
            self.use_far(context, context.address, context.number, not context.server)
        limits = route.timeouts
        self.connect(connection.detach(), waiting, limits.connect, limits.handshake)
        return None

    def _race(self, route: Route, candidate: Candidate) -> None:
        self.watch_loss()
        task = asyncio.get_running_loop().create_task(self._dial(route, candidate))
        self._dialling = task

    async def _dial(self, route: Route, candidate: Candidate) -> None:
        limit = route.timeouts.connect
        failure: Refusal | None
        try:
            async with asyncio.timeout(limit or None):
                connected, self.dialled = await dial(self._host.poller, candidate.addresses)
        except DialError as error:
            failure = Refusal(Outcome.CONNECT_FAILED, str(error))
        except TimeoutError:
            failure = reasons.no_answer(candidate.addresses, limit)
        else:
            failure = self._hand_over(route, connected, waiting=False)
        self._dialling = None
        if failure is not None:
            self._guarded(lambda: self._go_on(route, failure))

    def _miss(self) -> None:
        """The candidate didn't answer as it should."""
        route, candidate = cast("Route", self.route), cast("Candidate", self._candidate)
        failure = self._failure()
        self._go_on(route, reasons.far_step(failure, route, candidate.addresses))

    def _go_on(self, route: Route, failure: Refusal) -> None:
        self._failed(route, failure)
        self._reach(route)

    def _failed(self, route: Route, failure: Refusal) -> None:
        self._last_failure = failure
        self._door.attempted(route, cast("Candidate", self._candidate), failure)

    def _open(self) -> None:
        """Both sides are ready."""
        route, candidate = cast("Route", self.route), cast("Candidate", self._candidate)
        if route.tls is not None and not self._inbound:
            self.peer, self.tls = cast("PeerSvid", self.verdict(_FAR)), TlsFacts(*self.facts())
        if len(candidate.addresses) == 1:
            self.dialled = candidate.addresses[0]
        self.endpoint = candidate.endpoint
        self._door.attempted(route, candidate, None)
        self.enter(_PHASES[State.RELAYING])
        self._door.opened(self)
        if self._cut is None:
            self.relay(route.preface, route.timeouts.idle, route.timeouts.half_close)

    # The end.

    def _guarded(self, step: Callable[[], None]) -> None:
        """Take a step; what goes wrong in it is the end."""
        try:
            step()
        except RefusedError as no:
            self._refuse(no.refusal)
        except Exception:  # noqa: BLE001  a defect: this connection ends, the process doesn't
            _log.exception("a defect ended connection %d (%s)", self.arrival.id, self.state)
            self._refuse(_DEFECT)

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        if self._socket is None:
            self.cut()
            return
        sockets.reset(self._socket)
        self._finish(self._cut or refusal)

    def _guarded_refusal(self) -> Refusal | None:
        try:
            return self._why()
        except Exception:  # noqa: BLE001  a verifier's defect
            _log.exception("a defect ended connection %d (%s)", self.arrival.id, self.state)
            return _DEFECT

    def _why(self) -> Refusal | None:
        """What ended it; None for the orderly end."""
        failure = self._failure()
        if failure.what == "none":
            return None
        if failure.what == "cut":
            return self._refusal or self._cut or _DEFECT
        if failure.what == "slots":
            return self._no_slot()
        if failure.state is State.HANDSHAKING_NEAR:
            return reasons.near_handshake(failure, self._door.timeouts.handshake)
        return reasons.relay(failure, cast("Route", self.route))

    def _no_slot(self) -> Refusal:
        gate = self._host.gate
        gate.refused["handshakes_in_flight"] += 1
        most = gate.limits.handshakes_in_flight
        why = f"{most} handshakes are in flight (limits.handshakes_in_flight)"
        return Refusal(Outcome.LIMIT, why)

    def _failure(self) -> reasons.Failure:
        what, side, error, code = self.failure()
        verdict = self.verdict(side) if what == "verify" else None
        return reasons.Failure(what, self._names[side], self.state, error, code, verdict)

    def _end(self, refusal: Refusal | None) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        self.release()
        self._finish(refusal)

    def _finish(self, refusal: Refusal | None) -> None:
        ending = Ending(
            outcome=refusal.outcome if refusal else Outcome.CLOSED,
            state=self.state,
            duration=time.monotonic() - self._accepted_at,
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            reason=refusal.reason if refusal else None,
            rule=self._rule(refusal),
        )
        self._ours = False
        self._host.gate.leave(self)
        self._say_decided()
        try:
            self._door.closed(self, ending)
        except Exception:  # noqa: BLE001  the door's defect; the connection has ended anyway
            _log.exception("Door.closed failed for connection %d", self.arrival.id)
        self._host.left(self)

    def _say_decided(self) -> None:
        on_decided, self.on_decided = self.on_decided, None
        if on_decided is not None:
            on_decided()

    def _rule(self, refusal: Refusal | None) -> str | None:
        """The rule that refused, or the one that let it in."""
        if refusal is not None and refusal.rule is not None:
            return refusal.rule
        return self.route.rule if self.route else None

    @property
    def _inbound(self) -> bool:
        return self._door.direction is Direction.INBOUND


def _context(plan: TlsPlan) -> libssl.Context:
    """The plan's context.

    Raises:
        RefusedError: none can be made.
    """
    try:
        return libssl.context(plan)
    except IdentityError as error:
        raise RefusedError(Refusal(Outcome.HANDSHAKE_FAILED, str(error))) from error
