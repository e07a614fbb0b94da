"""What the loop knows of a connection, and which door decides about it.

The door decides that the listener has at that moment (`_take_current_door`).  Before each step that
follows from its answer the loop looks whether the listener has another one by now
(`_is_door_replaced`); then the new door decides, from the start.  When the connection is open
nothing of the door or its snapshot is kept (`_release_snapshot`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final, cast
from weakref import ReferenceType, ref

from uproxy import sockaddr
from uproxy.contract import (
    SILENT,
    Arrival,
    Candidate,
    Door,
    OnClosed,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
    Spoken,
    TlsFacts,
    TlsPlan,
)
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, TcpAddress
from uproxy.transport import failures
from uproxy.transport.native._engine import STATES, ConnectionHandle
from uproxy.transport.succession import followed, successor

if TYPE_CHECKING:
    from uproxy.transport.native.listener import DoorState, NativeListener

DOWNSTREAM: Final = 0
UPSTREAM: Final = 1
"""The sides, by the index that the threads use."""

_STATE_OF: Final = {number: state for state, number in STATES.items()}
_HANDSHAKING: Final = STATES[State.HANDSHAKING_DOWNSTREAM]
_RELAYING: Final = STATES[State.RELAYING]
_ids: Final = count(1)
_UNKNOWN: Final = ("it names no address", 0)
"""Why a CONNECT has no address, in words and as an error code, if there was no memory to say."""


class Deciding(ConnectionHandle):
    """One connection, from its first report to its end: its facts, and the door that decides."""

    __slots__ = (
        "_candidate",
        "_dialled_from",
        "_door",
        "_ending",
        "_listener",
        "_on_closed",
        "_plan",
        "_plan_ref",
        "arrival",
        "carrier",
        "dialled",
        "endpoint",
        "peer",
        "route",
        "tls",
        "tunnel_end",
        "via",
    )  # fmt: skip

    arrival: Arrival
    """Set with the first report."""

    def __init__(self, door_state: DoorState) -> None:
        self.route: Route | None = None
        self.peer: PeerSvid | None = None
        self.tls: TlsFacts | None = None
        self.dialled: Address | None = None
        self._dialled_from: TcpAddress | None = None  # once it is over
        self.endpoint: str | None = None
        # what belongs to a snapshot is None once it is open
        self._listener: NativeListener | None = door_state.listener  # through an L7 proxy it stays
        self._door: Door | None = door_state.door  # the one that decided, or will
        self._plan: TlsPlan | None = door_state.plan
        self._candidate: Candidate | None = None  # the one being tried
        self._on_closed: OnClosed | None = None  # once it is open
        self._ending: Refusal | None = None  # why it is being cut
        self.carrier: Deciding | None = None
        """The connection that carries it as a stream; None: nobody does."""
        self.tunnel_end: TcpAddress | None = None
        self.via: str | None = None
        self._plan_ref: ReferenceType[TlsPlan] | None = None  # of one that carries streams
        self.inbound = door_state.inbound

    @property
    def state(self) -> State:
        return State.CLOSED if self.is_over else _STATE_OF[self.state_number]

    @property
    def dialled_from(self) -> TcpAddress | None:
        if self.is_over:
            return self._dialled_from
        # while it dials, its thread may be writing this
        return self._read_dialled_from() if self.state_number >= _RELAYING else None

    @property
    def streams(self) -> int:
        return self.stream_count()

    def _read_dialled_from(self) -> TcpAddress | None:
        """Return our address on the upstream connection, of which the thread's memory has it."""
        found = self.dialled_from_endpoint()
        return None if found is None else sockaddr.address_of(*found)

    @property
    def bytes_received(self) -> int:
        return self.count(DOWNSTREAM if self.inbound else UPSTREAM)

    @property
    def bytes_sent(self) -> int:
        return self.count(UPSTREAM if self.inbound else DOWNSTREAM)

    def _on_first_report(self) -> None:
        """Set `arrival` from what the thread knows."""
        self.was_reported = True
        if self.carrier is not None:
            self._arrive_on(self.carrier)
            return
        source, local, state_number = self.source(), self.local(), self.state_number
        peer = self._downstream_peer() if state_number > _HANDSHAKING else None
        unix = cast("NativeListener", self._listener).unix
        self.arrival = Arrival(
            next(_ids),
            unix if source is None else TcpAddress(sockaddr.host_of(source[0]), source[1]),
            unix if local is None else sockaddr.address_of(*local),
            peer,
            self._plan if state_number >= _HANDSHAKING and not self.in_clear() else None,
            target=self._meant(),
        )
        if peer is not None and self.inbound:
            self._set_peer(peer)

    def _arrive_on(self, carrier: Deciding) -> None:
        """Set `arrival` of a stream, whose tunnel is `carrier`."""
        if not carrier.was_reported:  # it has ended by now, and is reported behind its streams
            carrier._on_first_report()
            carrier._keep_plan()
        self.shares_tls = True
        said = self.take_spoken()
        self.arrival = replace(
            carrier.arrival,
            id=next(_ids),
            tls=carrier.plan_of_streams,
            target=self._meant(),
            tunnel=carrier.arrival.id,
            spoken=SILENT if said is None else Spoken(*said),
        )
        self.peer, self.tls = carrier.peer, carrier.tls

    def _meant(self) -> TcpAddress | None:
        """Return the address for which it is meant, where that isn't the listener's."""
        meant = self.meant()
        return None if meant is None else sockaddr.address_of(*meant)

    def _keep_plan(self) -> None:
        """Keep no plan for the streams that it will carry: the key goes with the last snapshot that
        has it."""
        self._learn_peer()
        plan = cast("TlsPlan", self.arrival.tls)
        self._plan_ref = ref(plan)

    @property
    def why_cut(self) -> Refusal:
        """Why the streams of one that carries them were cut."""
        return self._ending or failures.STOPPED

    @property
    def plan_of_streams(self) -> TlsPlan | None:
        """The plan of the handshake of one that carries streams; None: it is gone."""
        return None if self._plan_ref is None else self._plan_ref()

    def _learn_peer(self) -> None:
        """Set the verified caller, if E_ARRIVED came before its handshake."""
        if self.arrival.peer is None and self.arrival.tls is not None:
            self.arrival = replace(self.arrival, peer=self._downstream_peer())
            self._set_peer(cast("PeerSvid", self.arrival.peer))

    def _downstream_peer(self) -> PeerSvid | None:
        """Return the verified caller; None without TLS."""
        verdict = self.verdict(DOWNSTREAM)
        return verdict if isinstance(verdict, PeerSvid) else None

    def _set_peer(self, peer: PeerSvid) -> None:
        """Set the verified peer, and what its handshake negotiated."""
        facts = self.facts()
        self.peer, self.tls = peer, None if facts is None else TlsFacts(*facts)

    def _take_current_door(self) -> Door:
        """Return the door that the listener has now; it decides from here on."""
        before, listener = cast("Door", self._door), cast("NativeListener", self._listener)
        self._door = successor(before, listener.door)
        return self._door

    @property
    def _direction(self) -> Direction:
        return Direction.INBOUND if self.inbound else Direction.OUTBOUND

    @property
    def _is_door_replaced(self) -> bool:
        """Whether the listener has another door than the one that has decided."""
        return self._listener is not None and self._listener.door is not self._door

    def _admit(self) -> Route:
        """Ask the listener's door for the route.

        Raises:
            RefusedError: the door's refusal, or no engine can reach what the route leads to.
        """
        if self.carrier is not None and self.arrival.target is None:
            raise RefusedError(failures.unserved(*self.why_unnamed() or _UNKNOWN))
        self._learn_peer()
        self.enter_state(STATES[State.ADMITTING])
        self.route = followed(self._take_current_door().admit(self.arrival))
        return self.route

    def _release_snapshot(self) -> None:
        """Drop all that belongs to the snapshot that has admitted the connection.  Through an L7
        proxy it may have to be admitted again."""
        route = self.route
        self.route = None if route is None else route.when_open
        if self.arrival.tls is not None or self.arrival.spoken:
            self.arrival = replace(self.arrival, tls=None, spoken=SILENT)
        if self.via is None:
            self._listener = None
        self._door = self._plan = self._candidate = None
        self.release_door_state()
