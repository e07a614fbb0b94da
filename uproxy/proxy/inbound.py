"""An inbound door: other workloads come in here, and reach the application if they may.

    accepted → handshaking: `tls` → authorized: `admit` → connecting to the application
             → relaying: `opened` → closed

At a door for tunnels (`transport: hbone`) a connection carries streams after its handshake
(`carrying`), and each of these is authorized, by the address that its CONNECT names.

There is one object per door and snapshot.  It decides by that snapshot alone, reports, and never
changes; the engine moves the bytes.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

from uproxy.addresses import Addresses
from uproxy.config.settings import ALL_PORTS
from uproxy.connections import ConnectionInfo, distrust_of
from uproxy.contract import (
    PLAIN,
    Arrival,
    CacheScope,
    Candidate,
    Connection,
    Ending,
    OnClosed,
    OwnSvid,
    Refusal,
    Route,
    TlsPlan,
    plan_for,
)
from uproxy.log import alike
from uproxy.model import (
    Address,
    Direction,
    Outcome,
    TcpAddress,
    Timeouts,
    Transport,
    TunnelSettings,
)
from uproxy.policy import DIRECT, Caller, Decision
from uproxy.proxy.callers import Callers, ignored
from uproxy.proxy.naming import Own, is_in_clear, own_ports
from uproxy.proxy.proxyprotocol import preface
from uproxy.proxy.services import (
    PER_PEER,
    PER_PEER_AND_SOURCE,
    PER_TARGET,
    Reports,
    Services,
    cache_scope,
    overtaken,
    unresolved,
)
from uproxy.proxy.ways import Way, way_of
from uproxy.snapshot import Application, Snapshot
from uproxy.speaking import Disbelief

_log = logging.getLogger(__name__)


ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  not to listen there
"""The hosts at which a listener takes connections to every address of the machine."""
MAX_WAYS = 256
"""For how many target addresses a door keeps a `Way`, so that connections to the same one share
it."""


class InboundDoor:
    """Satisfies `contract.Door`."""

    def __init__(self, application: Application, snapshot: Snapshot, services: Services) -> None:
        """`application` is one of the snapshot's."""
        self._application = application
        self._snapshot = snapshot
        self._services = services
        endpoints = services.endpoints[Direction.INBOUND, application.settings.name]
        self._endpoints = endpoints
        self._reports = Reports(Direction.INBOUND, services, endpoints)
        self._carries = application.settings.transport is Transport.HBONE
        ports = own_ports(snapshot.settings, services.passed_ports)
        self._own = Own(ports, services.is_own)
        self._has_targets = self._carries or application.settings.captured
        # of arrivals that are meant for an address, by it, where they arrived, and whether in clear
        self._ways: dict[tuple[TcpAddress | None, Address, bool], Way | Refusal] = {}
        self._callers = Callers(snapshot, services)
        # by arrival, from the decision until it is open or over: for whom an L7 proxy makes it
        self._spoken_for: dict[int, Caller] = {}
        self._info = ConnectionInfo(
            direction=Direction.INBOUND,
            door=application.settings.name,
            transport=application.settings.transport,
            own=application.tls.own if isinstance(application.tls, TlsPlan) else None,
            target=None if self._has_targets else application.target,
            port=application.target.port,
        )
        self._only_way = Way(application.target, application.addresses, self._info)

    @property
    def name(self) -> str:
        """As configured, or the listen address."""
        return self._application.settings.name

    @property
    def direction(self) -> Direction:
        """Inbound."""
        return Direction.INBOUND

    @property
    def timeouts(self) -> Timeouts:
        """As configured."""
        return self._snapshot.settings.timeouts

    @property
    def captured(self) -> bool:
        """As configured."""
        return self._application.settings.captured

    @property
    def tls_ports(self) -> frozenset[int] | None:
        """As configured."""
        return self._application.settings.tls_ports

    @property
    def migrating_ports(self) -> frozenset[int]:
        """As configured."""
        return frozenset(self._application.settings.migrate)

    @property
    def tunnels(self) -> TunnelSettings | None:
        """As configured, if its connections carry streams."""
        return self._snapshot.settings.hbone if self._carries else None

    def tls(self) -> TlsPlan | Refusal | None:
        """Return the plan with the snapshot's SVID and verifier; a Refusal if there is no SVID;
        None in plaintext."""
        return self._application.tls

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Authorize the caller; return the route to the application, or the refusal."""
        refusal = self._refusal_of_handshake(arrival)
        if refusal is not None:
            return refusal
        way = self._way(arrival)
        if isinstance(way, Refusal):
            return way
        caller = self._callers.of(arrival, way.target)
        if isinstance(caller, Disbelief):
            return caller.refusal
        if caller.via != DIRECT:
            self._spoken_for[arrival.id] = caller
        decision = self._snapshot.policy.decide(caller, way.target)
        self._report(decision)
        if not decision.allowed:
            reason = decision.reason + ignored(arrival, caller)
            return Refusal(Outcome.DENIED, reason, decision.rule)
        candidates = self._endpoints.candidates(way.addresses, self._services.monotonic())
        if not candidates:
            return unresolved(self._application.addresses.names, self._services)
        self._admitted(arrival)
        return Route(
            destination=self.name,
            candidates=candidates,
            upstream=PLAIN,
            timeouts=self.timeouts,
            rule=decision.rule,
            dial_from=self._dial_from(arrival),
            preface=self._preface(arrival, caller),
            cache_scope=None if caller.via != DIRECT else self._cache_scope(way.addresses),
            revision=self._snapshot.revision,
            door_data=decision,
        )

    def admitted_from_cache(self, arrival: Arrival, route: Route) -> None:
        """Log, count and register `arrival` as if it had been decided on."""
        self._report(cast("Decision", route.door_data))
        self._admitted(arrival)

    def attempted(
        self,
        route: Route,  # noqa: ARG002  the contract's
        candidate: Candidate,
        failure: Refusal | None,
    ) -> None:
        """Count a failed attempt; its address is passed over for a while."""
        self._reports.attempted(candidate, failure)

    def opened(self, connection: Connection) -> OnClosed:
        """Register the open connection; return what is called with its end."""
        self._spoken_for.pop(connection.arrival.id, None)
        return self._reports.opened(connection)

    def carrying(self, connection: Connection) -> OnClosed:
        """Register a tunnel; return what is called with its end."""
        arrival, tunnels = connection.arrival, self._services.connections.tunnels
        info = replace(self._info, own=self._shown(arrival))
        entry = tunnels.began(connection, info, self._snapshot.revision)
        refusal = self._refusal_of_handshake(arrival)  # which may have been made at an earlier door
        if refusal is not None:
            entry.cut(refusal)
        return tunnels.ended

    def closed(self, connection: Connection, ending: Ending) -> None:
        """Register the end of a connection that never opened, admitted or not."""
        info = self._info_of(connection.arrival)
        self._spoken_for.pop(connection.arrival.id, None)
        if ending.outcome is Outcome.DENIED and self._application.settings.ports == ALL_PORTS:
            info = replace(info, port=None)  # a refused caller makes no time series
        self._services.connections.never_opened(connection, ending, info)

    def _refusal_of_handshake(self, arrival: Arrival) -> Refusal | None:
        """Return why a handshake made at an earlier door isn't good enough here; None: it is."""
        mine, made_with = plan_for(self, arrival.target), arrival.tls
        if mine is made_with or (made_with is None and self._may_be_clear(arrival)):
            return None
        if isinstance(mine, Refusal):
            return mine
        if arrival.tunnel is not None and self._carries:
            return self._distrust(arrival)  # its tunnel is open, whatever is negotiated meanwhile
        if mine is None or made_with is None:
            port = None if arrival.target is None else arrival.target.port
            transport = self._application.settings.transport_at(port)
            return overtaken(f"door {self.name} became {transport}")
        if (mine.settings, mine.alpn) != (made_with.settings, made_with.alpn):
            return overtaken(f"the TLS settings of door {self.name} changed")
        return self._distrust(arrival)

    def _may_be_clear(self, arrival: Arrival) -> bool:
        meant = arrival.target
        return meant is not None and meant.port in self._application.settings.migrate

    def _distrust(self, arrival: Arrival) -> Refusal | None:
        """Return why a certificate of an earlier handshake isn't trusted here; None: it is."""
        info, now = self._info_of(arrival), self._services.wall_clock()
        distrust = distrust_of(self._snapshot, info, arrival.peer, now)
        if distrust is None:
            return None
        return Refusal(Outcome.IDENTITY_DISTRUSTED, distrust.reason, distrust.rule)

    def _way(self, arrival: Arrival) -> Way | Refusal:
        """Return what the arrival is meant for, or why it leads nowhere."""
        door, meant = self._application.settings, arrival.target
        if not self._has_targets:
            if meant in (None, door.to):
                return self._only_way
            reason = f"door {door.name} leads to {door.to} alone, and this was meant for {meant}"
            return Refusal(Outcome.NO_DESTINATION, reason)
        key = meant, arrival.local, is_in_clear(arrival)
        known = self._ways.get(key)
        if known is not None:
            return known
        if len(self._ways) >= MAX_WAYS:
            self._ways.clear()
        way = way_of(self._application, self._own, self._info, arrival)
        self._ways[key] = way
        return way

    def _cache_scope(self, addresses: Addresses) -> frozenset[CacheScope] | None:
        settings = self._application.settings
        if settings.proxy_protocol is not None or settings.preserve_source:
            return None  # the preface, or the socket, has this arrival's address
        by_source = self._snapshot.policy.by_source
        scope = PER_PEER_AND_SOURCE if by_source else PER_PEER
        if self._application.settings.captured:
            scope |= PER_TARGET
        if self._carries:
            scope |= PER_TARGET
            listen = self._application.settings.listen
            if not isinstance(listen, TcpAddress) or listen.host in ANYWHERE:
                scope |= {CacheScope.LOCAL}  # tunnels to it arrive at several addresses
        return cache_scope(addresses, scope)

    def _admitted(self, arrival: Arrival) -> None:
        info = self._info_of(arrival)
        self._services.connections.admitted(info, arrival, self._snapshot.revision)

    def _report(self, decision: Decision) -> None:
        metrics = self._services.metrics
        metrics.decided(decision.rule, decision.allowed)
        for match in decision.shadow:
            metrics.decided(match.rule, match.action == "allow", mode="shadow")
            _log.info("shadow rule %s would %s: %s", match.rule, match.action, decision.reason,
                      extra=alike("shadow rule", match.rule))  # fmt: skip

    def _info_of(self, arrival: Arrival) -> ConnectionInfo:
        """Return what is known of a connection, whose handshake may be an earlier door's."""
        way = self._way(arrival)
        info = way.info if not isinstance(way, Refusal) else self._info
        if isinstance(way, Refusal) and self.captured and is_in_clear(arrival):
            info = replace(info, transport=Transport.PLAINTEXT)
        own, caller = self._shown(arrival), self._spoken_for.get(arrival.id)
        if info.own is own and caller is None:
            return info
        return replace(info, own=own, caller=caller)

    def _dial_from(self, arrival: Arrival) -> TcpAddress | None:
        # doors for capture have no unix sockets
        source = cast("TcpAddress", arrival.source)
        return source if self._application.settings.preserve_source else None

    def _preface(self, arrival: Arrival, caller: Caller) -> bytes:
        if self._application.settings.proxy_protocol is None:
            return b""
        return preface(arrival, caller.identity)

    def _shown(self, arrival: Arrival) -> OwnSvid | None:
        """Return the SVID that we showed the arrival's peer."""
        if arrival.tls is not None:
            return arrival.tls.own
        if arrival.tunnel is None:
            return None
        # an open tunnel has no plan any more, because that has a key
        return self._services.connections.tunnels.shown(arrival.tunnel)
