"""A connection on the event loop: it asks the door, and answers its thread.

    accepted → HANDSHAKEN: Door.admit → dial … UPSTREAM_READY: Door.opened → relay …
             → CLOSED: Door.closed

A thread with a cached route asks nothing: it reports ADMITTED, OPENED and CLOSED in batches, when
they have happened, and costs the loop nothing in between.  A refusal (`RefusedError`, a defect)
cuts the connection, and is the reason of its end when CLOSED is reported.

A connection that carries streams (CARRYING) asks nothing either; each stream is one like the
others, which knows it as its `carrier`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from uproxy.contract import (
    Candidate,
    Door,
    Ending,
    OnClosed,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
    plan_for,
)
from uproxy.lifecycle import State
from uproxy.model import Outcome
from uproxy.transport import failures, l7_failures
from uproxy.transport.l7_failures import l7_proxy_of, stranded
from uproxy.transport.native._engine import (
    ADMITTED,
    ARRIVED,
    CARRYING,
    CLOSED,
    HANDSHAKEN,
    OPENED,
    STATES,
    UPSTREAM_FAILED,
    UPSTREAM_READY,
)
from uproxy.transport.native.deciding import UPSTREAM
from uproxy.transport.native.dialling import Dialling
from uproxy.transport.native.listener import tls_setup
from uproxy.transport.succession import successor_of_open
from uproxy.transport.through import end_of

if TYPE_CHECKING:
    from uproxy.transport.native.listener import DoorState, NativeListener
    from uproxy.transport.native.loop import LoopState

_QUESTIONS: Final = ARRIVED | HANDSHAKEN | UPSTREAM_READY | UPSTREAM_FAILED

_log = logging.getLogger(__name__)


class NativeConnection(Dialling):
    """One accepted connection (`contract.Connection`)."""

    __slots__ = ()

    def __init__(
        self, state: LoopState, door_state: DoorState, carrier: NativeConnection | None
    ) -> None:
        super().__init__(state, door_state)
        self.carrier = carrier

    def close(self, refusal: Refusal) -> None:
        """Cut it now; the first reason stands."""
        if self._ending is None and not self.is_over:
            self._refuse(refusal)

    # What a thread asks and reports.

    def on_reported(self, events: int) -> None:
        """Handle a report of the thread: bits of ARRIVED … CLOSED."""
        if not self.was_reported:
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
            self._release_snapshot()

    def _handle_events(self, events: int) -> None:
        """Tell the door what has happened, then answer what is asked."""
        if events & CARRYING:
            self._on_carrying()
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
            if self._on_closed is not None:
                self._take_back()
            self._ask_for_route()
        elif events & UPSTREAM_READY:
            self._on_upstream_ready()
        elif events & UPSTREAM_FAILED:
            self._on_upstream_failed()

    def _ask_for_tls(self) -> None:
        door = self._take_current_door()
        plan = plan_for(door, self.arrival.target)
        if isinstance(plan, Refusal):
            raise RefusedError(plan)
        if plan is None:
            self._ask_for_route()
            return
        self.arrival = replace(self.arrival, tls=plan)
        self.handshake_downstream(tls_setup(plan), door.timeouts.handshake)

    def _take_back(self) -> None:
        """Have the listener's door decide again about a connection that was open: the L7 proxy was
        lost that carried it, and no byte had passed.

        Raises:
            RefusedError: there is no such door any more.
        """
        self._release_snapshot()  # its opening may be reported only now
        listener = cast("NativeListener", self._listener)
        self._door = successor_of_open(self._direction, listener.door)
        listener.lend_door_state(self)
        on_closed, self._on_closed = cast("OnClosed", self._on_closed), None
        on_closed(self, stranded(cast("str", self.via), self.tunnel_end, self.lasted()))
        self.via = self.tunnel_end = None
        if not self.inbound:
            self.peer = self.tls = None

    def _on_carrying(self) -> None:
        """Tell the door that it carries streams.  What they need of its plan is kept, without the
        key."""
        self._keep_plan()
        door = self._take_current_door()
        if door.tunnels is None:
            reason = f"while it was arriving, door {door.name} ceased to be for tunnels: dial again"
            raise RefusedError(Refusal(Outcome.POLICY_CHANGED, reason))
        self._on_closed = door.carrying(self)

    def _on_admitted_from_cache(self) -> None:
        """Tell the door that the thread has used a cached route."""
        route = self.route = cast("Route", self.cached_route())
        self._candidate = route.candidates[0]  # its only one
        self.tunnel_end = end_of(route, self._candidate)
        self.via = l7_proxy_of(route, self._candidate)
        cast("Door", self._door).admitted_from_cache(self.arrival, route)

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

    def _on_opened(self) -> None:
        """Tell the door that both sides are ready."""
        route, candidate = cast("Route", self.route), cast("Candidate", self._candidate)
        door = cast("Door", self._door)
        if route.upstream_of(candidate).plan is not None and not self.inbound:
            self._set_peer(cast("PeerSvid", self.verdict(UPSTREAM)))
            self.shares_tls = self.has_shared_handshake()
        self._set_dialled()
        self.endpoint = candidate.endpoint
        door.attempted(route, candidate, None)
        self._on_closed = door.opened(self)

    # The end.

    def _reason(self) -> Refusal | None:
        """Return why it has ended; None for the orderly end."""
        fault = self.failure()
        what = fault[0]
        if what == "none":
            return None
        if self._ending is not None:
            return self._ending  # wins over a failure found at the same time
        if what == "cut":
            return failures.STOPPED if self.carrier is None else self.carrier.why_cut
        failure = self._describe(*fault)
        if what in failures.LIMITS:
            return failures.limit(what, self._loop_state.limits, self.arrival.source)
        if failure.state is State.HANDSHAKING_DOWNSTREAM:
            limit = cast("Door", self._door).timeouts.handshake
            plan = self.arrival.tls
            shown = None if plan is None else plan.own.spiffe_id
            return failures.handshake(failure.who, failure.cause(), limit, shown)
        route = cast("Route", self.route)
        by_l7 = self._failure_of_l7(failure) if fault[1] == UPSTREAM else None
        return by_l7 or failures.relay(failure, route, self._unanswered_for(fault[1]))

    def _failure_of_l7(self, failure: failures.Failure) -> Refusal | None:
        """Return why an L7 proxy has ended the stream, if it has."""
        if self.via is None or failure.what != "os":
            return None
        is_soon = self.count(UPSTREAM) == 0 and self.lasted() <= failures.REFUSED_WITHIN_S
        return l7_failures.failed(self.via, self.tunnel_end, failure.error, is_soon=is_soon)

    def _unanswered_for(self, side: int) -> float | None:
        """Return the seconds for which a side that is a TLS server has sent nothing; None: it isn't
        one, or has sent something.  A stream was answered before it was open."""
        is_server = (
            side == UPSTREAM
            and not self.inbound
            and self.tls is not None
            and self.tunnel_end is None
        )
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
        if self.state in (State.HANDSHAKING_UPSTREAM, State.OPENING_STREAM):
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
            refusal.breach if refusal else None,
        )
        self._dialled_from = self._read_dialled_from()
        self.release()
        self.is_over = True
        try:
            (self._on_closed or cast("Door", self._door).closed)(self, ending)
        except Exception:  # noqa: BLE001  the door's defect; the connection has ended anyway
            _log.exception("Door.closed failed for connection %d", self.arrival.id)

    def _rule(self, refusal: Refusal | None) -> str | None:
        """Return the rule that refused, or the one that let it in."""
        if refusal is not None and refusal.rule is not None:
            return refusal.rule
        return self.route.rule if self.route else None
