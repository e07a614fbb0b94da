"""How a connection reaches upstream: one candidate after the other, whose addresses may race on the
loop, or through tunnels."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from uproxy import sockaddr
from uproxy.contract import (
    CacheScope,
    Candidate,
    Door,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
)
from uproxy.lifecycle import State
from uproxy.model import Address, UnixAddress
from uproxy.transport import failures
from uproxy.transport.dial import reach
from uproxy.transport.failures import Failure
from uproxy.transport.l7_failures import l7_proxy_of, left_after, named
from uproxy.transport.native._engine import STATES
from uproxy.transport.native.deciding import UPSTREAM, Deciding
from uproxy.transport.native.listener import upstream_setup
from uproxy.transport.native.tunnels import failure_of, way_of
from uproxy.transport.succession import same_way
from uproxy.transport.through import Tries, end_of, one_address_each

if TYPE_CHECKING:
    import socket

    from uproxy.transport.native.listener import DoorState, NativeListener
    from uproxy.transport.native.loop import LoopState

KEYED_BY: Final = frozenset(CacheScope)
"""What the threads compare before they give a cached route: always the leaf; the host, the address
that it is meant for, and that of arrival, where the scope names them."""
NO_CANDIDATES: Final[Iterator[Candidate]] = iter(())

_ELSEWHERE: Final = -1
"""For `ConnectionHandle.cut`: a CONNECT may be sent again, elsewhere."""

_log = logging.getLogger(__name__)


class Dialling(Deciding):
    """One connection, as far as it is reached."""

    __slots__ = ("_candidates", "_dialling", "_last_failure", "_loop_state", "_tries")

    _tries: Tries | None
    """None: it is reached through no tunnel, or there was one try, of a thread."""

    def __init__(self, state: LoopState, door_state: DoorState) -> None:
        super().__init__(door_state)
        self._loop_state = state
        self._candidates: Iterator[Candidate] = NO_CANDIDATES
        self._last_failure: Refusal | None = None
        self._dialling: asyncio.Task[None] | None = None  # only while addresses race
        self._tries = None

    def _refuse(self, refusal: Refusal) -> None:
        """Cut the connection, for this reason if it has none yet."""
        self._ending = self._ending or refusal
        self.cut(0 if self.carrier is None else _status_of(self._ending))

    def _release_snapshot(self) -> None:
        self._candidates, self._last_failure, self._tries = NO_CANDIDATES, None, None
        super()._release_snapshot()

    # A route was given.

    def _dial_route(self, route: Route) -> None:
        """Dial where the door has said, and cache the route if it may be."""
        self.mark_decided()
        if self._ending is not None:
            return
        self._candidates = iter(one_address_each(route))
        if route.cache_scope is not None:
            self._cache_route(route, route.cache_scope)
        self.enter_state(STATES[State.CONNECTING])
        self._dial_candidates(route)

    def _cache_route(self, route: Route, scope: frozenset[CacheScope]) -> None:
        """Have the threads give `route` to later arrivals that `scope` says it is for.  Nothing is
        kept if they can't compare what `scope` names, or if the address or TLS context can't be
        made: dialling then says why."""
        if not scope <= KEYED_BY or self.arrival.spoken:
            return
        try:
            first = route.candidates[0]
            end = end_of(route, first)
            target = sockaddr.pack(first.addresses[0] if end is None else end)
            upstream = upstream_setup(route, first)
            way = way_of(self._loop_state.plan_numbers, route, first)
        except (OSError, RefusedError):
            return
        limits = route.timeouts
        time_limits = (limits.connect, limits.handshake, limits.idle, limits.half_close)
        keys = (CacheScope.SOURCE in scope, CacheScope.TARGET in scope, CacheScope.LOCAL in scope)
        if not self.cache_route(route, *keys, target, upstream, way, time_limits):
            cast("NativeListener", self._listener).update_door_state()

    def _dial_candidates(self, route: Route) -> None:
        """Dial the next candidate; raises RefusedError when none is left."""
        while (candidate := next(self._candidates, None)) is not None:
            self._candidate = candidate
            failure = self._start_dial(route, candidate)
            if failure is None:
                return
            self._record_failure(route, failure)
        raise RefusedError(self._last_failure or failures.no_address(route))

    def _start_dial(self, route: Route, candidate: Candidate) -> Refusal | None:
        """Begin to dial.  Returns why that has failed at once, or None."""
        self.enter_state(STATES[State.CONNECTING])
        self.via = l7_proxy_of(route, candidate)
        self.tunnel_end = None  # of an attempt before
        if len(candidate.addresses) > 1 or route.dial_from is not None:
            self._race(route, candidate)
            return None
        address, limits = candidate.addresses[0], route.timeouts
        try:
            end = self.tunnel_end = end_of(route, candidate)
            target = sockaddr.pack(address if end is None else end)
            upstream = upstream_setup(route, candidate)
            way = way_of(self._loop_state.plan_numbers, route, candidate)
            seconds = limits.connect
            if way is not None:
                now = time.monotonic()
                self._tries = self._tries or Tries(now)
                seconds = self._tries.begin(route, now)
            self.dial(target, upstream, seconds, limits.handshake, way)
        except OSError as error:
            server = failures.server_of(route, candidate)
            return failures.unreachable(error.errno or 0, address, server)
        except RefusedError as no:
            return no.refusal
        return None

    # Addresses that race, and what is dialled from another host's.

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
                self._loop_state.poller,
                candidate.addresses,
                failures.server_of(route, candidate),
                route.timeouts.connect,
                route.dial_from,
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

    # What became of it.

    def _on_upstream_failed(self) -> None:
        """Dial the next candidate after one that couldn't be dialled, whose handshake has failed,
        or whose CONNECT was refused."""
        route, candidate = cast("Route", self.route), cast("Candidate", self._candidate)
        failure = self._describe(*self.candidate_failure())
        if failure.state is not State.CONNECTING:
            self._set_dialled()
        if self._is_queue_full(failure):
            self._race(route, candidate)  # try for longer
        elif failure.what == "stream_refused" and self._may_try_again(route):
            refusal = self._start_dial(route, candidate)
            if refusal is not None:
                self._try_next(route, refusal)
        else:
            self._try_next(route, self._candidate_refusal(failure, route, candidate))

    def _is_queue_full(self, failure: Failure) -> bool:
        """Whether a unix socket that was dialled has no room in its queue."""
        is_unix = isinstance(cast("Candidate", self._candidate).addresses[0], UnixAddress)
        return is_unix and failure.error == errno.EAGAIN and failure.state is State.CONNECTING

    def _may_try_again(self, route: Route) -> bool:
        """Whether a CONNECT that nobody has looked at is sent again, on another tunnel."""
        now = time.monotonic()
        self._tries = self._tries or Tries(now)
        # asked last, as `again` has the next dial count as another try of this route's
        return not self._is_door_replaced and self._tries.again(route, now)

    def _candidate_refusal(self, failure: Failure, route: Route, candidate: Candidate) -> Refusal:
        """Return why a candidate has failed, in words."""
        addresses = candidate.addresses
        if self.tunnel_end is not None and failure.state is not State.OPENING_STREAM:
            addresses = (self.tunnel_end,)
        return failures.candidate(failure, route, candidate, addresses)

    def _describe(self, what: str, side: int, error: int, code: int) -> Failure:
        """Make a Failure of what `failure` or `candidate_failure` returned."""
        verdict = self.verdict(side) if what == "verify" else None
        who = failures.NAMES[self._direction][side]
        return failure_of((what, side, error, code), who, self.state, verdict)

    def _try_next(self, route: Route, failure: Refusal) -> None:
        """Dial the next candidate, or ask the listener's new door."""
        self._record_failure(route, failure)
        if self._is_door_replaced:
            self._ask_for_route()
        else:
            self._dial_candidates(route)

    def _record_failure(self, route: Route, failure: Refusal) -> None:
        """Tell the door why the candidate has failed, which may rule out others."""
        candidate = cast("Candidate", self._candidate)
        failure = self._last_failure = named(self.via, self.tunnel_end, failure)
        self._candidates = iter(left_after(route, candidate, failure, tuple(self._candidates)))
        if self.dialled not in candidate.addresses:
            self.dialled = candidate.addresses[0]
        cast("Door", self._door).attempted(route, candidate, failure)

    def _is_admitted_again(self) -> bool:
        """Ask the listener's new door.  False if it leads elsewhere, which is dialled then."""
        tried = (cast("Candidate", self._candidate),)
        before = replace(cast("Route", self.route), candidates=tried)
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

    def _ask_for_route(self) -> None:
        self._dial_route(self._admit())

    def _set_dialled(self) -> None:
        """Note the address that was dialled, unless addresses raced, which have noted it."""
        addresses = cast("Candidate", self._candidate).addresses
        if len(addresses) == 1:
            self.dialled = addresses[0]

    # Defects.

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


def _status_of(refusal: Refusal) -> int:
    """Return the status that answers a CONNECT which is refused so; _ELSEWHERE: none."""
    from uproxy.hbone import statuses  # to save memory where there are no tunnels

    status = statuses.status_of(refusal.outcome)
    return _ELSEWHERE if status is None else status
