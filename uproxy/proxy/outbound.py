"""An outbound door: the application goes out here, under this workload's identity.

    accepted → destination chosen: `admit` → connecting → handshaking, the peer verified
             against the identities expected → relaying: `opened` → closed

There is one object per door and snapshot, and one for each destination that the door leads to.
They decide by that snapshot alone, report, and never change; the engine moves the bytes.
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
    OwnSvid,
    Refusal,
    Route,
    Upstream,
)
from uproxy.model import Direction, Outcome, TcpAddress, Timeouts, Transport
from uproxy.proxy.naming import Own, own_ports
from uproxy.proxy.originally import original_destination_of
from uproxy.proxy.services import (
    PER_ORIGINAL,
    PER_PEER,
    Reports,
    Services,
    cache_scope,
    overtaken,
    unresolved,
)
from uproxy.proxy.via import L7Way
from uproxy.snapshot import Destination, Snapshot

MAX_PORTS = 256
"""How many ports of original destinations a destination remembers, so that connections to the same
one share objects."""


def destination_of(
    door: OutboundSettings, snapshot: Snapshot, own: Own, arrival: Arrival
) -> Destination | Refusal:
    """Return the destination of a connection that arrived at `door`."""
    if door.captured:
        return original_destination_of(door, snapshot, own, arrival)
    if arrival.target is None:
        return snapshot.destinations[cast("str", door.to)]
    reason = f"door {door.listen} leads to {door.to} alone, and this was meant for {arrival.target}"
    return Refusal(Outcome.NO_DESTINATION, reason)


class DestinationRoutes:
    """Makes the routes from one door to one destination, and reports what becomes of them."""

    def __init__(
        self,
        door: str,
        destination: Destination,
        snapshot: Snapshot,
        services: Services,
        *,
        captured: bool,
    ) -> None:
        """`door` is the door's name; `destination` is one of the snapshot's; `captured`: each
        connection has an original destination."""
        self._scope = PER_ORIGINAL if captured else PER_PEER
        self._destination = destination
        self._services = services
        self._revision = snapshot.revision
        self._endpoints = services.endpoints[Direction.OUTBOUND, destination.settings.name]
        self._reports = Reports(Direction.OUTBOUND, services, self._endpoints)
        via = destination.via
        self._l7 = None if via is None else L7Way(destination, via, self._reports)
        plan = None if isinstance(destination.upstream, Refusal) else destination.upstream.plan
        self._info = ConnectionInfo(
            direction=Direction.OUTBOUND,
            door=door,
            transport=destination.settings.transport,
            own=None if plan is None else plan.own,
            target=None,
            port=destination.port,
            destination=destination.settings.name,
            told=destination.settings.identities,
        )
        self._by_port: dict[int, ConnectionInfo] = {}  # of original destinations

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Return a route to the destination, through its L7 proxy if it has one, or why there is
        none now."""
        to, l7 = self._destination, self._l7
        if l7 is None and isinstance(to.upstream, Refusal):
            return to.upstream
        addresses = to.addresses_for(arrival.target)
        applications = self._endpoints.candidates(addresses, self._services.monotonic())
        if not applications:
            return unresolved(addresses.names, self._services)
        candidates = applications if l7 is None else l7.candidates(applications)
        if isinstance(candidates, Refusal):
            return candidates
        self.admitted(arrival)
        is_repeatable = l7 is None or l7.is_only_one
        return Route(
            destination=to.settings.name,
            candidates=candidates,
            upstream=cast("Upstream", candidates[0].upstream or to.upstream),
            timeouts=to.timeouts,
            cache_scope=cache_scope(addresses, self._scope) if is_repeatable else None,
            revision=self._revision,
            door_data=self,
        )

    def admitted(self, arrival: Arrival) -> None:
        """Register `arrival` as one that has such a route."""
        self._services.connections.admitted(self.info_of(arrival), arrival, self._revision)

    def info_of(self, arrival: Arrival) -> ConnectionInfo:
        """Return what is known of a connection that was made with this snapshot's plan."""
        if self._destination.addresses.configured:
            return self._info
        port = cast("TcpAddress", arrival.target).port  # it is a captured one
        known = self._by_port.get(port)
        if known is None:
            if len(self._by_port) >= MAX_PORTS:
                self._by_port.clear()
            known = self._by_port[port] = replace(self._info, port=port)
        return known

    def attempted(self, candidate: Candidate, failure: Refusal | None) -> None:
        """Count a failed attempt; its endpoint is passed over for a while."""
        if self._l7 is None or not self._l7.attempted(candidate, failure):
            self._reports.attempted(candidate, failure)

    def opened(self, connection: Connection) -> OnClosed:
        """Report a connection whose peer is verified; return what reports its end."""
        shown = _shown(connection.route)
        if shown is not self._info.own:
            # its handshake was made with an earlier snapshot's SVID: named, and checked again
            info = replace(self.info_of(connection.arrival), own=shown)
            self._services.connections.admitted(info, connection.arrival, 0)
        return (self._l7 or self._reports).opened(connection)


class OutboundDoor:
    """Satisfies `contract.Door`."""

    def __init__(self, door: OutboundSettings, snapshot: Snapshot, services: Services) -> None:
        """`door` is one of the snapshot's settings."""
        self._settings = door
        self._name = str(door.listen)
        self._snapshot = snapshot
        self._services = services
        ports = own_ports(snapshot.settings, services.passed_ports)
        self._own = Own(ports, services.is_own)
        self._routes: dict[str, DestinationRoutes] = {}  # by destination, made when first needed

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
        """As configured; a route has those of its destination."""
        return self._snapshot.settings.timeouts

    @property
    def captured(self) -> bool:
        """As configured."""
        return self._settings.captured

    @property
    def tls_ports(self) -> None:
        """None: no arrival makes a handshake."""

    @property
    def migrating_ports(self) -> frozenset[int]:
        """None of them."""
        return frozenset()

    @property
    def tunnels(self) -> None:
        """None: an application's connection is relayed itself."""

    def tls(self) -> None:
        """Return None: the application speaks in clear, and whoever can reach the door may use
        it."""

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Choose the destination; return a route to it, or the refusal."""
        if arrival.tls is not None:
            return overtaken(f"the door at {self._name} became one for the application")
        routes = self._routes_of(arrival)
        return routes if isinstance(routes, Refusal) else routes.admit(arrival)

    def admitted_from_cache(self, arrival: Arrival, route: Route) -> None:
        """Register one more connection to a destination that has a single address."""
        _made_by(route).admitted(arrival)

    def attempted(self, route: Route, candidate: Candidate, failure: Refusal | None) -> None:
        """Count a failed attempt; its endpoint is passed over for a while."""
        _made_by(route).attempted(candidate, failure)

    def opened(self, connection: Connection) -> OnClosed:
        """Report a connection whose peer is verified; return what reports its end."""
        return _made_by(cast("Route", connection.route)).opened(connection)

    def carrying(self, connection: Connection) -> OnClosed:
        """Not called: the door has no `tunnels`."""
        raise AssertionError(f"connection {connection.arrival.id} can't carry streams")

    def closed(self, connection: Connection, ending: Ending) -> None:
        """Report a connection that has ended without having been open."""
        routes, shown = self._routes_of(connection.arrival), _shown(connection.route)
        arrival = connection.arrival
        info = self._unrouted(arrival) if isinstance(routes, Refusal) else routes.info_of(arrival)
        self._services.connections.never_opened(connection, ending, replace(info, own=shown))

    def _routes_of(self, arrival: Arrival) -> DestinationRoutes | Refusal:
        to = destination_of(self._settings, self._snapshot, self._own, arrival)
        if isinstance(to, Refusal):
            return to
        name = to.settings.name
        if name not in self._routes:
            self._routes[name] = DestinationRoutes(
                self._name, to, self._snapshot, self._services, captured=self.captured
            )
        return self._routes[name]

    def _unrouted(self, arrival: Arrival) -> ConnectionInfo:
        """Return what is known of a connection for which no destination was found."""
        return ConnectionInfo(
            direction=Direction.OUTBOUND,
            door=self._name,
            transport=Transport.PLAINTEXT,
            own=None,
            target=None,
            port=None if arrival.target is None else arrival.target.port,
        )


def _made_by(route: Route) -> DestinationRoutes:
    return cast("DestinationRoutes", route.door_data)


def _shown(route: Route | None) -> OwnSvid | None:
    """Return the SVID of the route's plan; None in plaintext and without a route."""
    plan = None if route is None else route.upstream.plan
    return None if plan is None else plan.own
