"""An inbound door: other workloads come in here, and reach the application if they may.

    accepted → handshaking: `tls` → authorized: `admit` → connecting to the application
             → relaying: `opened` → closed: `closed`

One object per door and configuration; a reload makes a new one, open connections stay with
theirs.  It decides and reports; bytes are the engine's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from uproxy.config.settings import InboundSettings, Settings
from uproxy.connections import InForce, Party, Shown, caller_of
from uproxy.contract import Arrival, Candidate, Connection, Ending, Refusal, Route, Stands, TlsPlan
from uproxy.log import alike
from uproxy.model import Address, Direction, Outcome, Role, TcpAddress, Timeouts, Transport
from uproxy.policy import Decision, Policy, Target
from uproxy.proxy.handshakes import Handshake, Handshakes, Terms
from uproxy.proxy.proxyprotocol import preface
from uproxy.proxy.services import Reports, Services

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a route's `memo` holds: what to tell of everybody whom the route is given to."""

    decision: Decision
    plan: TlsPlan | None
    """What handshakes were made with when the route was given; None in plaintext."""
    party: Party
    """Whoever shook hands with `plan`."""
    edition: int
    """What was in force when the route was given."""


class InboundDoor:
    """Satisfies `contract.Door`."""

    def __init__(self, door: InboundSettings, settings: Settings, services: Services) -> None:
        """`services.destinations` must know `settings` already."""
        self._door = door
        self._timeouts = settings.timeouts
        self._services = services
        self._target = _target(door)
        self._application = services.destinations[Direction.INBOUND, door.name]
        self._reports = Reports(Direction.INBOUND, services, self._application)
        terms = Terms(Role.SERVER, settings.tls, door.alpn)
        self._handshakes = Handshakes(terms, services.wall_clock, self._party)

    @property
    def name(self) -> str:
        """As configured, or the listen address."""
        return self._door.name

    @property
    def direction(self) -> Direction:
        """Inbound."""
        return Direction.INBOUND

    @property
    def timeouts(self) -> Timeouts:
        """The configuration's."""
        return self._timeouts

    def tls(self) -> TlsPlan | Refusal | None:
        """Our SVID of this moment and the verifier of this moment's bundles."""
        if self._door.transport is Transport.PLAINTEXT:
            return None
        handshake = self._handshakes.now(self._services.connections.in_force)
        return handshake if isinstance(handshake, Refusal) else handshake.plan

    def admit(self, arrival: Arrival) -> Route | Refusal:
        """Authorize the caller, then show the way to the application."""
        in_force = self._services.connections.in_force
        decision = in_force.policy.decide(caller_of(arrival), self._target)
        self._tell(decision)
        if not decision.allowed:
            return Refusal(Outcome.DENIED, decision.reason, decision.rule)
        candidates = self._application.candidates(self._services.monotonic())
        if not candidates:
            return Refusal(Outcome.CONNECT_FAILED, f"{self._door.to} has not been resolved yet")
        admission = self._admission(decision, in_force)
        self._admitted(admission, arrival)
        return Route(
            destination=self.name,
            candidates=candidates,
            tls=None,
            timeouts=self._timeouts,
            rule=decision.rule,
            preface=b"" if self._door.proxy_protocol is None else preface(arrival),
            stands=self._stands(in_force.policy),
            memo=admission,
        )

    def repeated(self, arrival: Arrival, route: Route) -> None:
        """One more caller of the same kind: told and registered as if it had been decided on."""
        admission = cast("Admission", route.memo)
        self._tell(admission.decision)
        self._admitted(admission, arrival)

    def attempted(
        self,
        route: Route,  # noqa: ARG002  the contract's
        candidate: Candidate,
        failure: Refusal | None,
    ) -> None:
        """An address of the application that fails is passed over for a while."""
        self._reports.attempted(candidate, failure)

    def opened(self, connection: Connection) -> None:
        """Both sides are ready."""
        self._reports.opened(connection)

    def closed(self, connection: Connection, ending: Ending) -> None:
        """It has ended, whether it was let in or not."""
        self._reports.closed(connection, ending, self._party_of)

    def _stands(self, policy: Policy) -> Stands:
        if self._door.proxy_protocol is not None:
            return Stands.NEVER  # the preface names this arrival
        return self._reports.stands(Stands.FOR_SOURCE if policy.by_source else Stands.FOR_PEER)

    def _admission(self, decision: Decision, in_force: InForce) -> Admission:
        handshake = None
        if self._door.transport is not Transport.PLAINTEXT:
            handshake = self._handshakes.now(in_force)
        plan = handshake.plan if isinstance(handshake, Handshake) else None
        return Admission(decision, plan, self._handshakes.party(plan), in_force.edition)

    def _admitted(self, admission: Admission, arrival: Arrival) -> None:
        connections = self._services.connections
        if arrival.tls is admission.plan:
            connections.admitted(admission.party, arrival, admission.edition)
        else:
            # its peer was verified, and we were known to it, under what isn't in force any more
            connections.admitted(self._handshakes.party(arrival.tls), arrival, 0)

    def _tell(self, decision: Decision) -> None:
        metrics = self._services.metrics
        metrics.decided(decision.rule, decision.allowed)
        for match in decision.shadow:
            metrics.decided(match.rule, match.action == "allow", mode="shadow")
            _log.info("shadow rule %s would %s: %s", match.rule, match.action, decision.reason,
                      extra=alike("shadow rule", match.rule))  # fmt: skip

    def _party_of(self, connection: Connection) -> Party:
        return self._handshakes.party(connection.arrival.tls)

    def _party(self, ours: Shown | None) -> Party:
        return Party(
            direction=Direction.INBOUND,
            door=self.name,
            transport=self._door.transport,
            ours=ours,
            target=self._target,
            port=self._target.port,
        )


def _target(door: InboundSettings) -> Target:
    """What rules see; an application named by a name has no address that could be judged."""
    to: Address = door.to
    if isinstance(to, TcpAddress):
        return Target(to.port, to.ip, door.name)
    return Target(None, None, door.name)
