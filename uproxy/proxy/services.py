"""What every door works with, and what every door reports alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from uproxy.connections import Connections, Party
from uproxy.contract import Candidate, Connection, Ending, Refusal, Stands
from uproxy.destinations import Destination, Destinations
from uproxy.metrics import Metrics
from uproxy.model import Direction, Outcome

HANDSHAKE_FAILURES = frozenset(
    {Outcome.HANDSHAKE_FAILED, Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED}
)
"""The outcomes of an attempt that can only come from its handshake."""


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """What every door works with."""

    connections: Connections
    destinations: Destinations
    metrics: Metrics
    wall_clock: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = monotonic
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Tells the registry, and the `endpoints` that a door dials, what became of a connection."""

    direction: Direction
    services: Services
    endpoints: Destination

    def stands(self, whom: Stands) -> Stands:
        """Whom a route stands for that depends on the caller as `whom` says: if endpoints are to
        be chosen from, each connection needs a choice of its own."""
        return Stands.NEVER if self.endpoints.choice else whom

    def attempted(self, candidate: Candidate, failure: Refusal | None) -> None:
        """An endpoint that failed is passed over for a while."""
        if failure is None:
            return
        now = self.services.monotonic()
        self.endpoints.failed(candidate.addresses[0], now, failure.reason)
        # the next candidate may succeed, so a connection's end can't tell of this one
        if failure.outcome in HANDSHAKE_FAILURES:
            self.services.metrics.handshake_failed(self.direction, failure.outcome, failure.rule)

    def opened(self, connection: Connection) -> None:
        """It is connected."""
        route, dialled = connection.route, connection.dialled
        if route is not None and dialled is not None:
            self.endpoints.opened(route.candidates, dialled, self.services.monotonic())
        self.services.connections.opened(connection)

    def closed(
        self, connection: Connection, ending: Ending, party_of: Callable[[Connection], Party]
    ) -> None:
        """It has ended; `party_of` is asked about one that was never admitted."""
        was_open = self.services.connections.closed(connection, ending, party_of)
        if was_open and connection.dialled is not None:
            self.endpoints.closed(connection.dialled)
