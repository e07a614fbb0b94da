"""A connection on the event loop: it asks the door, and answers its thread.

    accepted → HANDSHAKEN: Door.admit → dial … UPSTREAM_READY: Door.opened → relay …
             → CLOSED: Door.closed

A thread with a cached route asks nothing: it reports ADMITTED, OPENED and CLOSED in batches, when
they have happened, and costs the loop nothing in between.  A refusal (`RefusedError`, a defect)
cuts the connection, and is the reason of its end when CLOSED is reported.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from uproxy import sockaddr
from uproxy.contract import (
    CacheScope,
    Candidate,
    Door,
    Ending,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
)
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Outcome
from uproxy.transport import failures
from uproxy.transport.dial import reach
from uproxy.transport.failures import Failure
from uproxy.transport.native._engine import (
    ADMITTED,
    ARRIVED,
    CLOSED,
    HANDSHAKEN,
    OPENED,
    STATES,
    UPSTREAM_FAILED,
    UPSTREAM_READY,
)
from uproxy.transport.native.deciding import UPSTREAM, Deciding
from uproxy.transport.native.listener import tls_setup, upstream_setup
from uproxy.transport.succession import same_way

if TYPE_CHECKING:
    import socket

    from uproxy.transport.native.listener import DoorState, NativeListener
    from uproxy.transport.native.loop import LoopState

_QUESTIONS: Final = ARRIVED | HANDSHAKEN | UPSTREAM_READY | UPSTREAM_FAILED
KEYED_BY: Final = frozenset({CacheScope.PEER, CacheScope.SOURCE})
"""What the threads compare before they give a cached route: always the leaf, and the host where
the scope names it."""
_NONE: Final[Iterator[Candidate]] = iter(())

_log = logging.getLogger(__name__)


class NativeConnection(Deciding):
    """One accepted connection (`contract.Connection`)."""

    __slots__ = ("_candidates", "_dialling", "_ending", "_last_failure", "_loop_state")

    def __init__(self, state: LoopState, door_state: DoorState) -> None:
        super().__init__(door_state)
        self._loop_state = state
        self._ending: Refusal | None = None  # why it is being cut
        self._candidates: Iterator[Candidate] = _NONE
        self._last_failure: Refusal | None = None
        self._dialling: asyncio.Task[None] | None = None  # only while addresses race

    def close(self, refusal: Refusal) -> None:
        """Cut it now; the first reason stands."""
        if self._ending is None and not self._is_over:
            self._refuse(refusal)

    # What a thread asks and reports.

    def on_reported(self, events: int) -> None:
        """Handle a report of the thread: bits of ARRIVED … CLOSED."""
        if not self._is_known:
            self._on_first_report()
        try:
            self._handle_events(events)
        except RefusedError as no:
            self._refuse(no.refusal)
        except Exception:  # noqa: BLE001  a defect: this connection ends, the process doesn't
            self._log_defect()
            self._refuse(failures.DEFECT)
        if events & CLOSED:
            self._end()
        elif self._on_closed is not None and self._door is not None:
            self._candidates, self._last_failure = _NONE, None
            self._release_snapshot()

    def _handle_events(self, events: int) -> None:
        """Tell the door what has happened, then answer what is asked."""
        if events & ADMITTED:
            self._on_admitted_from_cache()
        if events & OPENED:
            self._on_opened()
        if events & _QUESTIONS and not events & CLOSED and self._ending is None:
            self._answer(events)  # otherwise it has ended, or is being cut

    def _answer(self, events: int) -> None:
        if events & ARRIVED:
            self._ask_for_tls()
        elif events & HANDSHAKEN:
            self._ask_for_route()
        elif events & UPSTREAM_READY:
            self._on_upstream_ready()
        elif events & UPSTREAM_FAILED:
            self._on_upstream_failed()

    def _ask_for_tls(self) -> None:
        door = self._take_current_door()
        plan = door.tls()
        if isinstance(plan, Refusal):
            raise RefusedError(plan)
        if plan is None:
            self._ask_for_route()
            return
        self.arrival = replace(self.arrival, tls=plan)
        self.handshake_downstream(tls_setup(plan), door.timeouts.handshake)

    def _ask_for_route(self) -> None:
        self._dial_route(self._admit())

    def _dial_route(self, route: Route) -> None:
        """Dial where the door has said, and cache the route if it may be."""
        self.mark_decided()
        if self._ending is not None:
            return
        self._candidates = iter(route.candidates)
        if route.cache_scope is not None:
            self._cache_route(route, route.cache_scope)
        self.enter_state(STATES[State.CONNECTING])
        self._dial_candidates(route)

    def _cache_route(self, route: Route, scope: frozenset[CacheScope]) -> None:
        """Have the threads give `route` to later arrivals that `scope` says it is for.  Nothing is
        kept if they can't compare what `scope` names, or if the address or TLS context can't be
        made: dialling then says why."""
        if not scope <= KEYED_BY:
            return
        try:
            first = route.candidates[0]
            target, upstream = sockaddr.pack(first.addresses[0]), upstream_setup(route, first)
        except (OSError, RefusedError):
            return
        limits = route.timeouts
        time_limits = (limits.connect, limits.handshake, limits.idle, limits.half_close)
        if not self.cache_route(route, CacheScope.SOURCE in scope, target, upstream, time_limits):
            cast("NativeListener", self._listener).update_door_state()

    def _on_admitted_from_cache(self) -> None:
        """Tell the door that the thread has used a cached route."""
        route = self.route = cast("Route", self.cached_route())
        self._candidate = route.candidates[0]  # its only one
        cast("Door", self._door).admitted_from_cache(self.arrival, route)

    def _dial_candidates(self, route: Route) -> None:
        """Dial the next candidate; raises RefusedError when none is left."""
        for candidate in self._candidates:
            self._candidate = candidate
            self.enter_state(STATES[State.CONNECTING])
            failure = self._start_dial(route, candidate)
            if failure is None:
                return
            self._record_failure(route, failure)
        raise RefusedError(self._last_failure or failures.no_address(route))

    def _start_dial(self, route: Route, candidate: Candidate) -> Refusal | None:
        """Begin to dial.  Returns why that has failed at once, or None."""
        if len(candidate.addresses) > 1:
            self._race(route, candidate)
            return None
        address, limits = candidate.addresses[0], route.timeouts
        try:
            target = sockaddr.pack(address)
            self.dial(target, upstream_setup(route, candidate), limits.connect, limits.handshake)
        except OSError as error:
            return failures.unreachable(error.errno or 0, address, route)
        except RefusedError as no:
            return no.refusal
        return None

    def _race(self, route: Route, candidate: Candidate) -> None:
        """Connect to the candidate on the loop, where its addresses race."""
        self.watch_loss()
        task = asyncio.get_running_loop().create_task(self._dial(route, candidate))
        self._dialling = task
        self._loop_state.dialling.add(task)
        task.add_done_callback(self._loop_state.dialling.discard)

    async def _dial(self, route: Route, candidate: Candidate) -> None:
        """Connect, and give the socket to the thread; after a failure dial the next candidate."""
        try:
            connected, address = await reach(
                self._loop_state.poller, candidate.addresses, route, route.timeouts.connect
            )
        except RefusedError as no:
            step = partial(self._try_next, route, no.refusal)
        except Exception:  # noqa: BLE001  a defect: this connection ends, the process doesn't
            self._log_defect()
            self._refuse(failures.DEFECT)
            return
        else:
            step = partial(self._hand_over, route, connected, address)
        self._dialling = None
        self._guarded(step)

    def _hand_over(self, route: Route, connected: socket.socket, address: Address) -> None:
        """Give a socket that is connected to the thread."""
        self.dialled = address
        with connected:  # closed unless its thread gets it
            if self._is_door_replaced:
                self._ask_for_route()
                return
            try:
                upstream = upstream_setup(route, cast("Candidate", self._candidate))
                self.dial_connected(connected.fileno(), upstream, route.timeouts.handshake)
            except RefusedError as no:
                self._try_next(route, no.refusal)
            else:
                connected.detach()

    def _on_upstream_failed(self) -> None:
        """Dial the next candidate after one that couldn't be dialled, or whose handshake has
        failed."""
        route, candidate = cast("Route", self.route), cast("Candidate", self._candidate)
        failure = self._describe(*self.candidate_failure())
        if failure.state is State.HANDSHAKING_UPSTREAM:
            self._set_dialled()
        if failure.error == errno.EAGAIN and failure.state is State.CONNECTING:
            self._race(route, candidate)  # a unix socket's queue is full: try for longer
        else:
            self._try_next(route, failures.candidate(failure, route, candidate.addresses))

    def _describe(self, what: str, side: int, error: int, code: int) -> Failure:
        """Make a Failure of what `failure` or `candidate_failure` returned."""
        verdict = self.verdict(side) if what == "verify" else None
        who = failures.NAMES[Direction.INBOUND if self._inbound else Direction.OUTBOUND][side]
        return Failure(what, who, self.state, error, code, verdict)

    def _try_next(self, route: Route, failure: Refusal) -> None:
        """Dial the next candidate, or ask the listener's new door."""
        self._record_failure(route, failure)
        if self._is_door_replaced:
            self._ask_for_route()
        else:
            self._dial_candidates(route)

    def _record_failure(self, route: Route, failure: Refusal) -> None:
        """Tell the door why the candidate has failed."""
        self._last_failure, candidate = failure, cast("Candidate", self._candidate)
        if self.dialled not in candidate.addresses:
            self.dialled = candidate.addresses[0]
        cast("Door", self._door).attempted(route, candidate, failure)

    def _on_upstream_ready(self) -> None:
        """Relay, if the listener still has the door that has decided, or if the new one admits the
        connection to the same place."""
        if self._is_door_replaced and not self._is_admitted_again():
            return
        self.enter_state(STATES[State.RELAYING])
        route = cast("Route", self.route)
        self._on_opened()
        if self._ending is None:
            self.relay(route.preface, route.timeouts.idle, route.timeouts.half_close)

    def _is_admitted_again(self) -> bool:
        """Ask the listener's new door.  False if it leads elsewhere, which is dialled then."""
        before = cast("Route", self.route)
        self._set_dialled()
        after = self._admit()
        verdict = self.verdict(UPSTREAM)
        peer = verdict if isinstance(verdict, PeerSvid) else None
        route = same_way(before, after, self.dialled, peer)
        if route is None:
            self._dial_route(after)
            return False
        self.enter_state(STATES[State.CONNECTING])
        self.route, self._candidate = route, route.candidates[0]
        return True

    def _on_opened(self) -> None:
        """Tell the door that both sides are ready."""
        route, candidate = cast("Route", self.route), cast("Candidate", self._candidate)
        door = cast("Door", self._door)
        if route.upstream.plan is not None and not self._inbound:
            self._set_peer(cast("PeerSvid", self.verdict(UPSTREAM)))
        self._set_dialled()
        self.endpoint = candidate.endpoint
        door.attempted(route, candidate, None)
        self._on_closed = door.opened(self)

    def _set_dialled(self) -> None:
        """Note the address that was dialled, unless addresses raced, which have noted it."""
        addresses = cast("Candidate", self._candidate).addresses
        if len(addresses) == 1:
            self.dialled = addresses[0]

    # The end.

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do a step that no report has caused; an error in it ends the connection."""
        try:
            step()
        except RefusedError as no:
            self._refuse(no.refusal)
        except Exception:  # noqa: BLE001  a defect: this connection ends, the process doesn't
            self._log_defect()
            self._refuse(failures.DEFECT)

    def _log_defect(self) -> None:
        _log.exception("a defect ended connection %d (%s)", self.arrival.id, self.state)

    def _refuse(self, refusal: Refusal) -> None:
        """Cut the connection, for this reason if it has none yet."""
        self._ending = self._ending or refusal
        self.cut()

    def _reason(self) -> Refusal | None:
        """Return why it has ended; None for the orderly end."""
        fault = self.failure()
        what = fault[0]
        if what == "none":
            return None
        if self._ending is not None:
            return self._ending  # wins over a failure found at the same time
        if what == "cut":
            return failures.STOPPED
        failure = self._describe(*fault)
        if what in failures.LIMITS:
            return failures.limit(what, self._loop_state.limits, self.arrival.source)
        if failure.state is State.HANDSHAKING_DOWNSTREAM:
            limit = cast("Door", self._door).timeouts.handshake
            plan = self.arrival.tls
            shown = None if plan is None else plan.own.spiffe_id
            return failures.handshake(failure.who, failure.cause(), limit, shown)
        route = cast("Route", self.route)
        return failures.relay(failure, route, self._unanswered_for(fault[1]))

    def _unanswered_for(self, side: int) -> float | None:
        """Return the seconds for which a side that is a TLS server has sent nothing; None: it isn't
        one, or has sent something."""
        is_server = side == UPSTREAM and not self._inbound and self.tls is not None
        return self.lasted() if is_server and self.count(UPSTREAM) == 0 else None

    def _guarded_reason(self) -> Refusal | None:
        """Return `_reason`, or that a defect has prevented it."""
        try:
            return self._reason()
        except Exception:  # noqa: BLE001  a verifier's defect
            self._log_defect()
            return failures.DEFECT

    def _end(self) -> None:
        """Tell the door how the connection has ended, and give its memory back."""
        if self._dialling is not None:
            self._dialling.cancel()
        if self.state is State.HANDSHAKING_UPSTREAM:
            self._set_dialled()
        refusal = self._guarded_reason()
        ending = Ending(
            refusal.outcome if refusal else Outcome.CLOSED,
            self.state,
            self.lasted(),
            self.bytes_received,
            self.bytes_sent,
            refusal.reason if refusal else None,
            self._rule(refusal),
            refusal.claim if refusal else None,
        )
        self._dialled_from = self._read_dialled_from()
        self.release()
        self._is_over = True
        try:
            (self._on_closed or cast("Door", self._door).closed)(self, ending)
        except Exception:  # noqa: BLE001  the door's defect; the connection has ended anyway
            _log.exception("Door.closed failed for connection %d", self.arrival.id)

    def _rule(self, refusal: Refusal | None) -> str | None:
        """Return the rule that refused, or the one that let it in."""
        if refusal is not None and refusal.rule is not None:
            return refusal.rule
        return self.route.rule if self.route else None
