"""The objects that all doors use, and the reports that all doors make in the same way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

from uproxy import originals
from uproxy.addresses import Addresses
from uproxy.connections import Connections
from uproxy.contract import CacheScope, Candidate, Connection, Ending, OnClosed, Refusal
from uproxy.destinations import AllEndpoints, Endpoints
from uproxy.metrics import Metrics
from uproxy.model import Direction, Outcome, TcpAddress
from uproxy.policy import IpAddress
from uproxy.proxy.caller_proofs import CallerProofs

_log = logging.getLogger(__name__)

HANDSHAKE_FAILURES = frozenset(
    {Outcome.HANDSHAKE_FAILED, Outcome.PEER_UNTRUSTED, Outcome.PEER_UNEXPECTED}
)
"""The outcomes of a failed attempt that mean that its handshake failed."""

PER_PEER = frozenset({CacheScope.PEER})
PER_PEER_AND_SOURCE = frozenset({CacheScope.PEER, CacheScope.SOURCE})
PER_ORIGINAL = frozenset({CacheScope.PEER, CacheScope.SOURCE, CacheScope.TARGET, CacheScope.LOCAL})
"""What captured connections must have in common to share a cached route: the destination depends on
the address that each was made to, and whether it may come here at all on where it arrived, and
from where."""
PER_TARGET = frozenset({CacheScope.TARGET})
"""What streams must have in common besides to share a cached route, because each CONNECT names an
address of its own."""


def utc_now() -> datetime:
    """Return the time of the wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that all doors use; each of them outlives the doors' snapshot."""

    connections: Connections
    endpoints: AllEndpoints
    metrics: Metrics
    wall_clock: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = monotonic
    """Seconds."""
    why_unresolved: Callable[[TcpAddress], str | None] = lambda _name: None
    """Returns why the last look-up of a name failed; None: it didn't, or hasn't ended yet."""
    is_own: Callable[[IpAddress], bool] = originals.is_own
    """Whether an address is one of this host."""
    passed_ports: frozenset[int] = frozenset()
    """The TCP ports of the listening sockets that systemd has passed."""
    proofs: CallerProofs = field(default_factory=CallerProofs)
    """The proofs of callers that L7 proxies have forwarded."""


def cache_scope(addresses: Addresses, scope: frozenset[CacheScope]) -> frozenset[CacheScope] | None:
    """Return `Route.cache_scope` of a route to `addresses`: `scope` if there is one address, None
    if there are several, because each connection then needs a choice of its own."""
    return None if addresses.choice else scope


def unresolved(names: Iterable[TcpAddress], services: Services) -> Refusal:
    """Return the refusal of an arrival for which there is no address, because none of the `names`
    has been resolved."""
    reasons = ((name, services.why_unresolved(name)) for name in names)
    words = [
        f"{name} has not been resolved yet" if why is None else f"{name} can't be resolved: {why}"
        for name, why in reasons
    ]
    return Refusal(Outcome.CONNECT_FAILED, "; ".join(words))


def overtaken(what: str) -> Refusal:
    """Return the refusal of an arrival that doesn't fit the listener's new door; `what` says what
    has changed."""
    return Refusal(Outcome.POLICY_CHANGED, f"while it was arriving, {what}: dial again")


@dataclass(frozen=True, slots=True)
class Reports:
    """Reports what becomes of a connection to the registry, the metrics and the `endpoints` that
    are dialled.  An open connection keeps this, so it refers to nothing of the snapshot."""

    direction: Direction
    services: Services
    endpoints: Endpoints

    def attempted(self, candidate: Candidate, failure: Refusal | None) -> None:
        """Count a failed attempt; its endpoint is passed over for a while.  None: it succeeded."""
        if failure is None:
            return
        _log.debug("%s: dialling %s failed: %s", candidate.endpoint, candidate.addresses[0],
                   failure.reason)  # fmt: skip
        now = self.services.monotonic()
        self.endpoints.failed(candidate.addresses[0], now, failure.reason)
        # counted here: the next candidate may succeed, and the connection's end then names no
        # failure
        if failure.outcome in HANDSHAKE_FAILURES:
            self.services.metrics.handshake_failed(self.direction, failure.outcome, failure.rule)

    def opened(self, connection: Connection) -> OnClosed:
        """Report that a connection is open; return what is called with its end."""
        route, dialled = connection.route, connection.dialled
        if route is not None and dialled is not None:
            self.endpoints.opened(route.candidates, dialled, self.services.monotonic())
        self.services.connections.opened(connection)
        return self

    def closed(self, connection: Connection, ending: Ending) -> None:
        """Report the end of a connection that was open."""
        self.services.connections.closed(connection, ending)
        if connection.dialled is not None:
            self.endpoints.closed(connection.dialled)

    # so that `opened` returns this: a bound method would be 64 bytes for each connection
    __call__ = closed
