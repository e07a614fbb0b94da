"""What every door works with, and what every door reports alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from uproxy.connections import Connections
from uproxy.contract import CacheScope, Candidate, Connection, Ending, OnClosed, Refusal
from uproxy.destinations import Addresses, AllEndpoints, Endpoints
from uproxy.metrics import Metrics
from uproxy.model import Direction, Outcome

HANDSHAKE_FAILURES = frozenset(
    {Outcome.HANDSHAKE_FAILED, Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED}
)
"""The outcomes of an attempt that can only come from its handshake."""

PER_PEER = frozenset({CacheScope.PEER})
PER_PEER_AND_SOURCE = frozenset({CacheScope.PEER, CacheScope.SOURCE})


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """What every door works with: all of it outlives the door's snapshot."""

    connections: Connections
    endpoints: AllEndpoints
    metrics: Metrics
    wall_clock: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = monotonic
    """Seconds."""


def cache_scope(addresses: Addresses, scope: frozenset[CacheScope]) -> frozenset[CacheScope] | None:
    """The scope of a route to `addresses` that depends on the caller as `scope` says: if there
    are several to choose from, each connection needs a choice of its own."""
    return None if addresses.choice else scope


def overtaken(what: str) -> Refusal:
    """The refusal of an arrival that doesn't fit the door which the listener has by now."""
    return Refusal(Outcome.POLICY_CHANGED, f"while it was arriving, {what}: dial again")


@dataclass(frozen=True, slots=True)
class Reports:
    """Tells the registry, and the `endpoints` that a door dials, what became of a connection.
    An open connection keeps this, so it holds nothing of the snapshot."""

    direction: Direction
    services: Services
    endpoints: Endpoints

    def attempted(self, candidate: Candidate, failure: Refusal | None) -> None:
        """An endpoint that failed is passed over for a while."""
        if failure is None:
            return
        now = self.services.monotonic()
        self.endpoints.failed(candidate.addresses[0], now, failure.reason)
        # the next candidate may succeed, so a connection's end can't tell of this one
        if failure.outcome in HANDSHAKE_FAILURES:
            self.services.metrics.handshake_failed(self.direction, failure.outcome, failure.rule)

    def opened(self, connection: Connection) -> OnClosed:
        """It is connected; what is to be told of its end."""
        route, dialled = connection.route, connection.dialled
        if route is not None and dialled is not None:
            self.endpoints.opened(route.candidates, dialled, self.services.monotonic())
        self.services.connections.opened(connection)
        return self.closed

    def closed(self, connection: Connection, ending: Ending) -> None:
        """It was open and has ended."""
        self.services.connections.closed(connection, ending)
        if connection.dialled is not None:
            self.endpoints.closed(connection.dialled)
