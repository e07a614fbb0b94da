"""An inbound door: other workloads come in here, and reach the application if they may.

    accepted → handshaking: `tls` → authorized: `admit` → connecting to the application
             → relaying: `opened` → closed

There is one object per door and snapshot.  It decides by that snapshot alone, reports, and never
changes; the engine moves the bytes.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

from uproxy.connections import ConnectionInfo, caller_of, distrust_of
from uproxy.contract import (
    PLAIN,
    Arrival,
    CacheScope,
    Candidate,
    Connection,
    Ending,
    OnClosed,
    Refusal,
    Route,
    TlsPlan,
)
from uproxy.log import alike
from uproxy.model import Direction, Outcome, TcpAddress, Timeouts, TunnelSettings
from uproxy.policy import Decision, Target
from uproxy.proxy.proxyprotocol import preface
from uproxy.proxy.services import (
    PER_PEER,
    PER_PEER_AND_SOURCE,
    Reports,
    Services,
    cache_scope,
    overtaken,
    unresolved,
)
from uproxy.snapshot import Application, Snapshot

_log = logging.getLogger(__name__)


def target_of(application: Application, meant: TcpAddress | None) -> Target | Refusal:
    """Return what rules see of the target of a connection that was meant for `meant`
    (`Arrival.target`): it is what is dialled, so the two can't differ."""
    door = application.settings
    if meant is None or meant == door.to:
        return application.target
    reason = f"door {door.name} leads to {door.to} alone, and this was meant for {meant}"
    return Refusal(Outcome.NO_DESTINATION, reason)


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
        self._info = ConnectionInfo(
            direction=Direction.INBOUND,
            door=application.settings.name,
            transport=application.settings.transport,
            own=application.tls.own if isinstance(application.tls, TlsPlan) else None,
            target=application.target,
            port=application.target.port,
        )

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
    def tunnels(self) -> TunnelSettings | None:
        """None: its connections are relayed themselves."""
        return None

    def tls(self) -> TlsPlan | Refusal | None:
        """Return the plan with the snapshot's SVID and verifier; a Refusal if there is no SVID;
        None in plaintext."""
        return self._application.tls

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Authorize the caller; return the route to the application, or the refusal."""
        refusal = self._refusal_of_handshake(arrival)
        if refusal is not None:
            return refusal
        target = target_of(self._application, arrival.target)
        if isinstance(target, Refusal):
            return target
        decision = self._snapshot.policy.decide(caller_of(arrival), target)
        self._report(decision)
        if not decision.allowed:
            return Refusal(Outcome.DENIED, decision.reason, decision.rule)
        addresses = self._application.addresses
        candidates = self._endpoints.candidates(addresses, self._services.monotonic())
        if not candidates:
            return unresolved(addresses.names, self._services)
        self._admitted(arrival)
        return Route(
            destination=self.name,
            candidates=candidates,
            upstream=PLAIN,
            timeouts=self.timeouts,
            rule=decision.rule,
            preface=b"" if self._application.settings.proxy_protocol is None else preface(arrival),
            cache_scope=self._cache_scope(),
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
        return self._reports.opened(connection)

    def carrying(self, connection: Connection) -> OnClosed:
        """Not called: the door has no `tunnels`."""
        raise AssertionError(f"connection {connection.arrival.id} can't carry streams")

    def closed(self, connection: Connection, ending: Ending) -> None:
        """Register the end of a connection that never opened, admitted or not."""
        info = self._info_of(connection.arrival.tls)
        self._services.connections.never_opened(connection, ending, info)

    def _refusal_of_handshake(self, arrival: Arrival) -> Refusal | None:
        """Return why a handshake made at an earlier door isn't good enough here; None: it is."""
        mine, made_with = self._application.tls, arrival.tls
        if mine is made_with:
            return None
        if isinstance(mine, Refusal):
            return mine
        if mine is None or made_with is None:
            transport = self._application.settings.transport
            return overtaken(f"door {self.name} became {transport}")
        if (mine.settings, mine.alpn) != (made_with.settings, made_with.alpn):
            return overtaken(f"the TLS settings of door {self.name} changed")
        info, now = self._info_of(made_with), self._services.wall_clock()
        distrust = distrust_of(self._snapshot, info, arrival.peer, now)
        if distrust is None:
            return None
        return Refusal(Outcome.IDENTITY_DISTRUSTED, distrust.reason, distrust.rule)

    def _cache_scope(self) -> frozenset[CacheScope] | None:
        if self._application.settings.proxy_protocol is not None:
            return None  # the preface has this arrival's address
        by_source = self._snapshot.policy.by_source
        scope = PER_PEER_AND_SOURCE if by_source else PER_PEER
        return cache_scope(self._application.addresses, scope)

    def _admitted(self, arrival: Arrival) -> None:
        info = self._info_of(arrival.tls)
        self._services.connections.admitted(info, arrival, self._snapshot.revision)

    def _report(self, decision: Decision) -> None:
        metrics = self._services.metrics
        metrics.decided(decision.rule, decision.allowed)
        for match in decision.shadow:
            metrics.decided(match.rule, match.action == "allow", mode="shadow")
            _log.info("shadow rule %s would %s: %s", match.rule, match.action, decision.reason,
                      extra=alike("shadow rule", match.rule))  # fmt: skip

    def _info_of(self, plan: TlsPlan | None) -> ConnectionInfo:
        """Return what is known of a connection whose handshake was made with `plan`, which may be
        an earlier door's."""
        own = None if plan is None else plan.own
        return self._info if self._info.own is own else replace(self._info, own=own)
