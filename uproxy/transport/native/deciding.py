"""What the loop knows of a connection, and which door decides about it.

One door decides, the one that the listener has when it does (`_decide`).  Before each step that
follows from its answer the loop looks whether it is still the listener's (`_overtaken`); if not,
the connection is put to the new one, whole.  When it is open nothing of the door or its snapshot
is kept (`_slim`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final, cast

from uproxy import sockaddr
from uproxy.contract import (
    Arrival,
    Candidate,
    Door,
    OnClosed,
    PeerSvid,
    Refusal,
    RefusedError,
    Route,
    TlsFacts,
    TlsPlan,
)
from uproxy.lifecycle import State
from uproxy.model import Address, TcpAddress
from uproxy.transport.native._engine import PHASES, Wire
from uproxy.transport.succession import successor

if TYPE_CHECKING:
    from uproxy.transport.native.listener import Offer, OpenNativeDoor

NEAR: Final = 0
FAR: Final = 1
"""The sides, as the threads number them."""

_STATES: Final = {phase: state for state, phase in PHASES.items()}
_SHAKEN: Final = PHASES[State.HANDSHAKING_DOWNSTREAM]
_ids: Final = count(1)


class Deciding(Wire):
    """One connection, from its arrival to its end; `Life` makes it move."""

    __slots__ = (
        "_candidate", "_door", "_inbound", "_known", "_on_closed", "_opened", "_over", "_plan",
        "arrival", "dialled", "endpoint", "peer", "route", "tls",
    )  # fmt: skip

    arrival: Arrival
    """Set with the first thing that happens."""

    def __init__(self, offer: Offer) -> None:
        self.route: Route | None = None
        self.peer: PeerSvid | None = None
        self.tls: TlsFacts | None = None
        self.dialled: Address | None = None
        self.endpoint: str | None = None
        # None once it is open, as all that belongs to a snapshot
        self._opened: OpenNativeDoor | None = offer.opened
        self._door: Door | None = offer.door  # the one that decided, or will
        self._plan: TlsPlan | None = offer.plan
        self._candidate: Candidate | None = None  # the one being tried
        self._on_closed: OnClosed | None = None  # once it is open
        self._inbound = offer.inbound
        self._known = False  # until anything has happened
        self._over = False

    @property
    def state(self) -> State:
        return State.CLOSED if self._over else _STATES[self.phase]

    @property
    def bytes_received(self) -> int:
        return self.count(NEAR if self._inbound else FAR)

    @property
    def bytes_sent(self) -> int:
        return self.count(FAR if self._inbound else NEAR)

    def _arrive(self) -> None:
        self._known = True
        source, local, phase = self.source(), self.local(), self.phase
        peer = self._near_peer() if phase > _SHAKEN else None
        unix = cast("OpenNativeDoor", self._opened).unix
        self.arrival = Arrival(
            next(_ids),
            unix if source is None else TcpAddress(sockaddr.host_of(source[0]), source[1]),
            unix if local is None else sockaddr.address_of(*local),
            peer,
            self._plan if phase >= _SHAKEN else None,
        )
        if peer is not None and self._inbound:
            self._introduce(peer)

    def _near_peer(self) -> PeerSvid | None:
        verdict = self.verdict(NEAR)
        return verdict if isinstance(verdict, PeerSvid) else None

    def _introduce(self, peer: PeerSvid) -> None:
        facts = self.facts()
        self.peer, self.tls = peer, None if facts is None else TlsFacts(*facts)

    def _decide(self) -> Door:
        """The listener's door of this moment, which decides from here on."""
        before, opened = cast("Door", self._door), cast("OpenNativeDoor", self._opened)
        self._door = successor(before, opened.door)
        return self._door

    @property
    def _overtaken(self) -> bool:
        """Whether the listener has another door than the one that decided."""
        return self._opened is not None and self._opened.door is not self._door

    def _admit(self) -> Route:
        if self.arrival.peer is None and self.arrival.tls is not None:  # it had asked before that
            self.arrival = replace(self.arrival, peer=self._near_peer())
            self._introduce(cast("PeerSvid", self.arrival.peer))
        self.enter(PHASES[State.ADMITTING])
        answer = self._decide().admit(self.arrival)
        if isinstance(answer, Refusal):
            raise RefusedError(answer)
        self.route = answer
        return answer

    def _slim(self) -> None:
        """It is open: keep nothing of the snapshot that let it in."""
        route = self.route
        self.route = None if route is None else route.when_open
        if self.arrival.tls is not None:
            self.arrival = replace(self.arrival, tls=None)
        self._door = self._opened = self._plan = self._candidate = None
        self.forget_terms()
