"""An outbound door: the application goes out here, under this workload's identity.

    accepted → destination chosen: `admit` → connecting → handshaking, the peer verified
             against the identities expected → relaying: `opened` → closed: `closed`

One object per door and configuration; a reload makes a new one, open connections stay with
theirs.  It decides and reports; bytes are the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from uproxy.config.settings import DestinationSettings, OutboundSettings, Settings
from uproxy.connections import Party, Shown
from uproxy.contract import Arrival, Candidate, Connection, Ending, Refusal, Route, Stands
from uproxy.model import Direction, Outcome, Role, TcpAddress, Timeouts, Transport
from uproxy.proxy.handshakes import Handshake, Handshakes, Terms
from uproxy.proxy.services import Reports, Services
from uproxy.spiffe.ids import IdentityPattern


@dataclass(frozen=True, slots=True)
class Admission:
    """What a route's `memo` holds: what to tell of everybody whom the route is given to."""

    party: Party
    edition: int
    """What was in force when the plan of its far handshake was made."""


class OutboundDoor:
    """Satisfies `contract.Door`."""

    def __init__(self, door: OutboundSettings, settings: Settings, services: Services) -> None:
        """`services.destinations` must know `settings` already.

        Raises:
            SpiffeIdError: an expected identity that the configuration let through.
        """
        self._name = str(door.listen)
        self._services = services
        self._to = settings.destinations[door.to]
        self._endpoints = services.destinations[Direction.OUTBOUND, door.to]
        self._reports = Reports(Direction.OUTBOUND, services, self._endpoints)
        self._timeouts = _timeouts(settings.timeouts, self._to)
        terms = _terms(self._to, settings)
        self._handshakes = Handshakes(terms, services.wall_clock, self._party)

    @property
    def name(self) -> str:
        """The listen address."""
        return self._name

    @property
    def direction(self) -> Direction:
        """Outbound."""
        return Direction.OUTBOUND

    @property
    def timeouts(self) -> Timeouts:
        """The configuration's, with the destination's own where it has one."""
        return self._timeouts

    def tls(self) -> None:
        """The application speaks in clear; whoever can reach the door may use it."""

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Choose where to go, and whom to expect there."""
        handshake = self._handshake()
        if isinstance(handshake, Refusal):
            return handshake
        candidates = self._endpoints.candidates(self._services.monotonic())
        if not candidates:
            reason = f"no address of {self._to.name} has been resolved yet"
            return Refusal(Outcome.CONNECT_FAILED, reason)
        plan = None if handshake is None else handshake.plan
        edition = self._services.connections.in_force.edition
        admission = Admission(self._handshakes.party(plan), edition)
        self._admitted(admission, arrival)
        return Route(
            destination=self._to.name,
            candidates=candidates,
            tls=plan,
            timeouts=self._timeouts,
            stands=self._reports.stands(Stands.FOR_PEER),
            memo=admission,
        )

    def repeated(self, arrival: Arrival, route: Route) -> None:
        """One more for a destination with a single address."""
        self._admitted(cast("Admission", route.memo), arrival)

    def attempted(
        self,
        route: Route,  # noqa: ARG002  the contract's
        candidate: Candidate,
        failure: Refusal | None,
    ) -> None:
        """An endpoint that fails is passed over for a while."""
        self._reports.attempted(candidate, failure)

    def opened(self, connection: Connection) -> None:
        """The peer is verified and both sides are ready."""
        self._reports.opened(connection)

    def closed(self, connection: Connection, ending: Ending) -> None:
        """It has ended, whether a peer was reached or not."""
        self._reports.closed(connection, ending, self._party_of)

    def _handshake(self) -> Handshake | Refusal | None:
        """None where the destination is plaintext."""
        if self._to.transport is Transport.PLAINTEXT:
            return None
        return self._handshakes.now(self._services.connections.in_force)

    def _admitted(self, admission: Admission, arrival: Arrival) -> None:
        self._services.connections.admitted(admission.party, arrival, admission.edition)

    def _party_of(self, connection: Connection) -> Party:
        route = connection.route
        return self._handshakes.party(None if route is None else route.tls)

    def _party(self, ours: Shown | None) -> Party:
        return Party(
            direction=Direction.OUTBOUND,
            door=self._name,
            transport=self._to.transport,
            ours=ours,
            target=None,
            port=_port(self._to),
        )


def _timeouts(timeouts: Timeouts, to: DestinationSettings) -> Timeouts:
    return timeouts if to.idle is None else replace(timeouts, idle=to.idle)


def _terms(to: DestinationSettings, settings: Settings) -> Terms:
    expected = tuple(IdentityPattern.parse(text) for text in to.identities)
    return Terms(Role.CLIENT, settings.tls, to.alpn, expected)


def _port(to: DestinationSettings) -> int | None:
    """The port of every address, if it is one and the same."""
    ports = {address.port if isinstance(address, TcpAddress) else None for address in to.addresses}
    return ports.pop() if len(ports) == 1 else None
