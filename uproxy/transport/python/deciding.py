"""What is known of a connection, and which door decides about it.

One door decides, the one that the listener has when it does (`_decide`).  Before each step that
follows from its answer it is looked whether it is still the listener's (`_door_replaced`); if not,
the connection is put to the new one, whole.  When it is open nothing of the door or its snapshot
is kept (`_forget_snapshot`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, cast

from uproxy.contract import (
    Arrival,
    Candidate,
    Door,
    OnClosed,
    PeerSvid,
    Route,
    TlsFacts,
)
from uproxy.lifecycle import State, check_move
from uproxy.model import Address, Direction, TcpAddress
from uproxy.sockaddr import network_of
from uproxy.transport.python.relay import Relay
from uproxy.transport.python.side import Side
from uproxy.transport.python.tls import TlsSide
from uproxy.transport.succession import followed, successor


class HasDoor(Protocol):
    """The listener that accepted a connection."""

    @property
    def door(self) -> Door | None:
        """The door that decides now; None: the listener was taken away."""


class Deciding:
    """One connection, from its arrival to its end; `Connection` makes it move."""

    def __init__(self, listener: HasDoor, door: Door, arrival: Arrival) -> None:
        self.arrival = arrival
        self.route: Route | None = None
        self.dialled: Address | None = None
        self.endpoint: str | None = None
        self.state = State.ACCEPTED
        self._listener: HasDoor | None = listener  # None once it is open
        self._candidate: Candidate | None = None  # the one being tried
        self._door: Door | None = door  # the one that decided, or will; None once it is open
        self._inbound = door.direction is Direction.INBOUND
        self._on_closed: OnClosed | None = None  # once it is open
        self._on_decided: Callable[[], None] | None = None
        self._downstream: Side | None = None
        self._upstream: Side | None = None
        self._relay: Relay | None = None

    @property
    def peer(self) -> PeerSvid | None:
        side = self._tls_side
        return side.peer if side else None

    @property
    def tls(self) -> TlsFacts | None:
        side = self._tls_side
        return side.facts if side else None

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
        """The listener's door of this moment, which decides from here on."""
        listener = cast("HasDoor", self._listener)
        self._door = successor(cast("Door", self._door), listener.door)
        return self._door

    @property
    def _door_replaced(self) -> bool:
        """Whether the listener has another door than the one that decided."""
        return self._listener is not None and self._listener.door is not self._door

    def _ask_for_route(self) -> Route:
        self._move(State.ADMITTING)
        self.route = followed(self._decide().admit(self.arrival))
        self._report_decided()
        return self.route

    def _forget_snapshot(self, route: Route) -> None:
        """It is open: keep nothing of the snapshot that let it in."""
        self.route = route.when_open
        self.arrival = replace(self.arrival, tls=None)
        self._door = self._candidate = self._listener = None

    def _report_decided(self) -> None:
        on_decided, self._on_decided = self._on_decided, None
        if on_decided is not None:
            on_decided()

    def _move(self, then: State) -> None:
        check_move(self.state, then)
        self.state = then

    @property
    def _tls_side(self) -> TlsSide | None:
        side = self._downstream if self._inbound else self._upstream
        return side if isinstance(side, TlsSide) else None

    def _count(self, *, received: bool) -> int:
        if self._relay is None:
            return 0
        flow = self._relay.to_upstream if self._inbound is received else self._relay.to_downstream
        return flow.count
