"""An outbound door: the application goes out here, under this workload's identity.

    accepted → destination chosen: `admit` → connecting → handshaking, the peer verified
             against the identities expected → relaying: `opened` → closed

One object per door and snapshot: it picks one of the snapshot's destinations, decides by that
snapshot alone and never changes.  It decides and reports; bytes are the engine's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from uproxy.config.settings import OutboundSettings
from uproxy.connections import ConnectionInfo
from uproxy.contract import (
    Arrival,
    Candidate,
    Connection,
    Ending,
    OnClosed,
    Refusal,
    Route,
    TlsPlan,
)
from uproxy.model import Direction, Outcome, Timeouts
from uproxy.proxy.services import PER_PEER, Reports, Services, cache_scope, overtaken
from uproxy.snapshot import Destination, Snapshot


class OutboundDoor:
    """Satisfies `contract.Door`."""

    def __init__(self, door: OutboundSettings, snapshot: Snapshot, services: Services) -> None:
        """`door` is one of the snapshot's settings."""
        self._name = str(door.listen)
        self._snapshot = snapshot
        self._services = services
        self._destination = snapshot.destinations[door.to]
        endpoints = services.endpoints[Direction.OUTBOUND, door.to]
        self._endpoints = endpoints
        self._reports = Reports(Direction.OUTBOUND, services, endpoints)
        self._info = self._info_of(self._destination)

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
        """The configuration's; the destination's own are the route's."""
        return self._snapshot.settings.timeouts

    def tls(self) -> None:
        """The application speaks in clear; whoever can reach the door may use it."""

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Choose where to go, and whom to expect there."""
        if arrival.tls is not None:
            return overtaken(f"the door at {self._name} became one for the application")
        to = self._destination
        if isinstance(to.tls, Refusal):
            return to.tls
        candidates = self._endpoints.candidates(to.addresses, self._services.monotonic())
        if not candidates:
            reason = f"no address of {to.settings.name} has been resolved yet"
            return Refusal(Outcome.CONNECT_FAILED, reason)
        self._admitted(self._info, arrival)
        return Route(
            destination=to.settings.name,
            candidates=candidates,
            tls=to.tls,
            timeouts=to.timeouts,
            cache_scope=cache_scope(to.addresses, PER_PEER),
            revision=self._snapshot.revision,
            door_data=self._info,
        )

    def admitted_from_cache(self, arrival: Arrival, route: Route) -> None:
        """One more for a destination with a single address."""
        self._admitted(cast("ConnectionInfo", route.door_data), arrival)

    def attempted(
        self,
        route: Route,  # noqa: ARG002  the contract's
        candidate: Candidate,
        failure: Refusal | None,
    ) -> None:
        """An endpoint that fails is passed over for a while."""
        self._reports.attempted(candidate, failure)

    def opened(self, connection: Connection) -> OnClosed:
        """The peer is verified and both sides are ready."""
        route = connection.route
        shown = None if route is None or route.tls is None else route.tls.own
        if shown is not self._info.own:
            # its handshake is an earlier snapshot's: known by what it saw, and judged again
            info = replace(self._info, own=shown)
            self._services.connections.admitted(info, connection.arrival, 0)
        return self._reports.opened(connection)

    def closed(self, connection: Connection, ending: Ending) -> None:
        """It has ended without having been open, whether a peer was reached or not."""
        route = connection.route
        shown = None if route is None or route.tls is None else route.tls.own
        info = self._info if self._info.own is shown else replace(self._info, own=shown)
        self._services.connections.never_opened(connection, ending, info)

    def _admitted(self, info: ConnectionInfo, arrival: Arrival) -> None:
        self._services.connections.admitted(info, arrival, self._snapshot.revision)

    def _info_of(self, to: Destination) -> ConnectionInfo:
        return ConnectionInfo(
            direction=Direction.OUTBOUND,
            door=self._name,
            transport=to.settings.transport,
            own=to.tls.own if isinstance(to.tls, TlsPlan) else None,
            target=None,
            port=to.port,
            destination=to.settings.name,
        )
