"""The rows of `/l7`: the L7 proxies that destinations are reached through."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from uproxy.proxy.admin.row import Row, UnresolvedRow


@dataclass(frozen=True, slots=True)
class L7EndpointRow(Row):
    """One address of an L7 proxy."""

    address: str
    name: str
    """As configured."""
    draining: bool
    """It gets no new streams: the configuration says so."""
    passed_over: bool
    """It gets none while others can be used: it has just failed, or fails its health check."""
    connections: int
    """Streams that are open there."""
    reason: str | None
    """Why the last attempt, or the last health check, failed; None: it didn't."""
    since: datetime | None
    """Since when every attempt has failed; None: the last one didn't, or it is the health check
    that fails."""
    only_unhealthy: bool = False
    """It is passed over for its health check alone, so it is tried for want of another."""


@dataclass(frozen=True, slots=True)
class L7DestinationRow(Row):
    """A destination that is reached through an L7 proxy."""

    name: str
    proof: bool
    """Whether our JWT-SVID goes along."""


@dataclass(frozen=True, slots=True)
class L7ProxyRow(Row):
    """An entry of `l7_proxies`."""

    name: str
    identities: tuple[str, ...]
    """Who may answer."""
    when_unavailable: str
    endpoints: tuple[L7EndpointRow, ...]
    """Empty until a name has been resolved."""
    unresolved: tuple[UnresolvedRow, ...]
    """The names among its addresses whose last look-up failed."""
    destinations: tuple[L7DestinationRow, ...]

    @property
    def tried_all_the_same(self) -> bool:
        """Whether none passes its health check, and one gets new streams for want of another."""
        return not self.usable and any(
            not each.draining and each.only_unhealthy for each in self.endpoints
        )

    @property
    def usable(self) -> bool:
        """Whether an address gets new streams, and hasn't just failed."""
        return any(not each.draining and not each.passed_over for each in self.endpoints)
