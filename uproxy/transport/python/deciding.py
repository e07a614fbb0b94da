"""What is known of a connection, and which door decides about it.

One door decides: the one that the listener has at that moment (`_decide`).  Before a step that
follows from its answer, `_door_replaced` tells whether the listener has another door by now; if
so, that one is asked again from the beginning.  An open connection keeps nothing of the door or
its snapshot (`_forget_snapshot`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast

from uproxy.contract import (
    SILENT,
    Arrival,
    Candidate,
    Connection,
    Door,
    OnClosed,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
    TlsFacts,
    TlsPlan,
    plan_for,
)
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Outcome, TcpAddress
from uproxy.sockaddr import network_of
from uproxy.transport import failures, l7_failures
from uproxy.transport.l7_failures import left_after, named, stranded
from uproxy.transport.python.relay import Relay
from uproxy.transport.python.side import ChannelSide, End
from uproxy.transport.succession import followed, same_way, successor, successor_of_open
from uproxy.transport.through import one_address_each

if TYPE_CHECKING:
    from uproxy.transport.python.carried import CarriedStreams
    from uproxy.transport.python.pool import PooledTunnel


class HasDoor(Protocol):
    """The listener that accepted a connection."""

    @property
    def door(self) -> Door | None:
        """The door that decides now; None: the listener was taken away."""


class Deciding:
    """What is known of one connection; `Connection` moves it from state to state."""

    state: State

    def __init__(self, listener: HasDoor, door: Door, arrival: Arrival) -> None:
        self.arrival = arrival
        self.route: Route | None = None
        self.dialled: Address | None = None
        self.dialled_from: TcpAddress | None = None
        self.endpoint: str | None = None
        self.tunnel_end: TcpAddress | None = None
        self.via: str | None = None
        self.shares_tls = arrival.tunnel is not None
        self._listener: HasDoor | None = listener  # None once it is open, but for L7 proxies
        self._door: Door | None = door  # the one that decided, or will; None once it is open
        self._candidate: Candidate | None = None  # the one being tried
        self._untried: tuple[Candidate, ...] = ()
        self._reached_by: Route | None = None  # the route under which upstream was dialled
        self._inbound = door.direction is Direction.INBOUND
        self._on_closed: OnClosed | None = None  # once it is open
        self._on_decided: Callable[[], None] | None = None
        self._downstream: End | None = None
        self._upstream: End | None = None
        self._relay: Relay | None = None
        self._carried: CarriedStreams | None = None  # of a tunnel
        self._pooled: PooledTunnel | None = None  # where a stream is reserved
        self._strandings = 0  # how often a tunnel was lost under it before a byte had passed

    @property
    def peer(self) -> PeerSvid | None:
        side = self._peer_side
        return side.peer if side else None

    @property
    def tls(self) -> TlsFacts | None:
        side = self._peer_side
        return side.facts if side else None

    @property
    def streams(self) -> int:
        return 0 if self._carried is None else self._carried.count

    @property
    def is_stalled(self) -> bool:
        """As `limits.LimitedConnection`."""
        downstream = cast("ChannelSide", self._downstream).channel
        return bool(downstream.unsent) or not downstream.has_unread()

    @property
    def bytes_received(self) -> int:
        return self._count(received=True)

    @property
    def bytes_sent(self) -> int:
        return self._count(received=False)

    @property
    def source(self) -> str | None:
        source = self.arrival.source
        return network_of(source) if isinstance(source, TcpAddress) else None

    def _decide(self) -> Door:
        """Return the door that the listener has now, which decides from here on.

        Raises:
            RefusedError: there is none any more.
        """
        listener = cast("HasDoor", self._listener)
        self._door = successor(cast("Door", self._door), listener.door)
        return self._door

    @property
    def _door_replaced(self) -> bool:
        """Whether the listener has another door than the one that decided."""
        return self._listener is not None and self._listener.door is not self._door

    def _plan(self) -> TlsPlan | Refusal | None:
        """Return how the listener's door says to shake hands with whoever dialled."""
        return plan_for(self._decide(), self.arrival.target)

    @property
    def _may_be_clear(self) -> bool:
        """Whether the first byte tells whether the caller makes a handshake."""
        target = self.arrival.target
        return target is not None and target.port in cast("Door", self._door).migrating_ports

    def _ask_for_plan(self) -> TlsPlan | None:
        """Have the listener's door say how to shake hands with whoever dialled; None: not at all.

        Raises:
            RefusedError: the door's refusal.
        """
        plan = self._plan()
        if isinstance(plan, Refusal):
            raise RefusedError(plan)
        return plan

    def _ask_for_route(self) -> None:
        """Have the listener's door admit it.

        Raises:
            RefusedError: the door's refusal, or no engine can reach what the route leads to.
        """
        self.route = followed(self._decide().admit(self.arrival))
        self._untried, self._candidate = one_address_each(self.route), None
        self._report_decided()

    def _keep_upstream(self) -> bool:
        """Cut the route down to the upstream that is connected, if it leads there.  False if it
        doesn't, or none is connected."""
        before, route = self._reached_by, cast("Route", self.route)
        if before is None or self._upstream is None:
            return False
        kept = same_way(before, route, self.dialled, self._upstream.peer)
        if kept is None:
            return False
        self.route, self._candidate, self._untried = kept, kept.candidates[0], ()
        return True

    def _close_upstream(self) -> None:
        """Close an upstream that isn't used, if there is one."""
        upstream, self._upstream, self._reached_by = self._upstream, None, None
        if upstream is not None:
            upstream.close()
        self._give_back_stream()

    def _give_back_stream(self) -> None:
        """Let others have the stream that was reserved for it, if it hasn't opened it."""
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            pooled.give_back()

    def _report_attempt(self, failure: Refusal | None) -> None:
        """Tell the door that the candidate failed, or was reached (None)."""
        tried, route = self._candidate, cast("Route", self.route)
        if tried is not None:
            if failure is not None:
                self._untried = left_after(route, tried, failure, self._untried)
                if self.dialled not in tried.addresses:
                    self.dialled = tried.addresses[0]
            cast("Door", self._door).attempted(route, tried, failure)

    def _in_words(self, why: Refusal, age: float) -> Refusal:
        """Name the L7 proxy that is why an attempt has failed, or that has reset the stream; `age`:
        seconds since it was accepted."""
        if self.via is None:
            return why
        if self._relay is None:
            return named(self.via, self.tunnel_end, why)
        if self._relay.lost is not self._upstream or why.outcome is not Outcome.RESET:
            return why
        error = getattr(cast("End", self._upstream).failure, "errno", None)
        is_soon = not self.bytes_received and age <= failures.REFUSED_WITHIN_S
        return l7_failures.failed(self.via, self.tunnel_end, error, is_soon=is_soon) or why

    def _take_back(self, age: float) -> None:
        """Have the listener's door decide again about a connection that was open: the L7 proxy was
        lost that carried it, and no byte had passed; `age`: seconds since it was accepted.

        Raises:
            RefusedError: there is no such door any more.
        """
        self._relay = None
        self._strandings += 1
        self._close_upstream()
        direction = Direction.INBOUND if self._inbound else Direction.OUTBOUND
        self._door = successor_of_open(direction, cast("HasDoor", self._listener).door)
        on_closed, self._on_closed = cast("OnClosed", self._on_closed), None
        lost = stranded(cast("str", self.via), self.tunnel_end, age)
        on_closed(cast("Connection", self), lost)
        self.via = self.tunnel_end = None

    def _forget_snapshot(self) -> None:
        """Keep nothing of the snapshot that admitted it: neither plan nor addresses.  Through an L7
        proxy it may have to be admitted again."""
        self.route = None if self.route is None else self.route.when_open
        self.arrival = replace(self.arrival, tls=None, spoken=SILENT)
        if self.via is None:
            self._listener = None
        self._door = self._candidate = self._reached_by = None
        self._untried = ()

    def _report_decided(self) -> None:
        """Tell the listener, once, that it was admitted or refused."""
        on_decided, self._on_decided = self._on_decided, None
        if on_decided is not None:
            on_decided()

    @property
    def _peer_side(self) -> End | None:
        """The side towards the peer."""
        return self._downstream if self._inbound else self._upstream

    def _count(self, *, received: bool) -> int:
        """Return the application bytes so far, from the peer or to it."""
        if self._relay is None:
            return 0
        is_up = self._inbound is received
        return (self._relay.to_upstream if is_up else self._relay.to_downstream).count
