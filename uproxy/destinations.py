"""Which endpoint of a destination to try next, from how earlier attempts went.

It resolves nothing and dials nothing: `addresses.Addresses` are handed in, candidates handed out,
time comes in as `now` (seconds of a monotonic clock).  `Endpoints` remembers how addresses fare,
outlives snapshots, and says only which is better.  Rules: every record of a name is an endpoint;
the one with the fewest open connections comes first, equals take turns; a failing address is passed
over for a while, unless all of them fail; a race is between the two address families of one name,
never among replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Literal

from uproxy.addresses import Addresses
from uproxy.contract import Candidate
from uproxy.model import Address, Direction, TcpAddress

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
"""How long a failing address is passed over: doubling from the first to the longest."""
MAX_FAILING = 1024
"""How many addresses without a connection are remembered as failing: a tunnel may name any port."""
LATELY_S = 900.0
"""For how many seconds after its last attempt an address that isn't listed counts as failing:
perhaps nobody ever tries it again."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One listed endpoint, for operators."""

    address: Address
    """Literal."""
    name: Address
    """As configured: the name it was resolved from, or the address itself."""
    connections: int
    passed_over: bool
    reason: str | None
    """Why the last attempt, or the last health check, failed; None if it didn't."""
    failing_s: float | None
    """Seconds since the first of the attempts in a row that failed; None if the last one didn't."""
    only_unhealthy: bool = False
    """Whether it is passed over for its health check alone: no attempt has just failed."""


L7: Final[Literal["l7"]] = "l7"
"""Beside the directions, the kind of the endpoints of an L7 proxy."""
Kind = Direction | Literal["l7"]
Key = tuple[Kind, str]
"""The name of a destination, an inbound door or an L7 proxy, and which of them it is."""


@dataclass(slots=True)
class _Endpoint:
    """The counts of one literal address, kept while it is used or listed."""

    connections: int = 0
    failures: int = 0
    """How many attempts have failed one after the other."""
    failing_since: float | None = None
    """When the first of them failed; None: the last attempt didn't fail."""
    passed_over_until: float = 0.0
    reason: str | None = None
    """Why the last attempt failed."""
    is_other: bool = False
    """Whether the last attempt failed because somebody else is there."""
    unhealthy: str | None = None
    """Why its last health check failed; None: it passed, or there was none."""

    def has_failed(self, now: float) -> bool:
        """Whether an attempt has just failed there."""
        return now < self.passed_over_until


_NEW: Final = _Endpoint()
"""What is known of an address that is neither used nor failing."""


class Endpoints:
    """How the endpoints of one destination fare, whichever snapshots list them."""

    def __init__(self) -> None:
        self._endpoints: dict[Address, _Endpoint] = {}  # by literal address
        self._turn = 0  # grows with every choice, so that endpoints with equal counts take turns
        self._reached: Address | None = None  # the last one that was; None: it fails

    @property
    def connections(self) -> Mapping[Address, int]:
        """How many connections are open, by literal address, also to those no longer listed."""
        counts = {address: each.connections for address, each in self._endpoints.items()}
        return {address: count for address, count in counts.items() if count}

    def failing(self, address: Address, now: float) -> bool:
        """Whether `address` is passed over at `now`."""
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            return False
        return endpoint.has_failed(now) or endpoint.unhealthy is not None

    def has_other(self, addresses: Addresses, now: float) -> bool:
        """Whether one of `addresses` is passed over at `now` because somebody else is there."""
        found = map(self._endpoints.get, addresses.listed)
        return any(each is not None and each.is_other and each.has_failed(now) for each in found)

    def choose(self, addresses: Addresses, now: float) -> list[Address]:
        """The addresses to try, best first; those that fail only if all do."""
        usable = [address for address in addresses.listed if not self.failing(address, now)]
        return self._ranked(usable or list(addresses.listed))

    def choose_unfailed(self, addresses: Addresses, now: float) -> list[Address]:
        """The addresses at which no attempt has just failed, best first; behind the others those
        whose health check fails."""
        found = {address: self._endpoints.get(address, _NEW) for address in addresses.listed}
        unfailed = [address for address, each in found.items() if not each.has_failed(now)]
        return sorted(self._ranked(unfailed), key=lambda each: found[each].unhealthy is not None)

    def candidates(self, addresses: Addresses, now: float) -> tuple[Candidate, ...]:
        """The endpoints of `addresses` to try, best first; empty while no name has been
        resolved."""
        listed = addresses.listed
        if len(listed) == 1:
            [(address, name)] = listed.items()
            return (Candidate(str(name), (address,), addresses.sni(name)),)
        ranked = self.choose(addresses, now)
        best: dict[tuple[Address, bool], Address] = {}  # of each name and family
        for address in ranked:
            best.setdefault((listed[address], _is_v6(address)), address)
        return tuple(
            Candidate(
                str(listed[address]),
                _without_none(address, best.get((listed[address], not _is_v6(address)))),
                addresses.sni(listed[address]),
            )
            for address in ranked
        )

    def status(self, addresses: Addresses, now: float) -> tuple[EndpointStatus, ...]:
        """Return how every endpoint of `addresses` fares, in the order of the configuration."""
        return tuple(self._status(address, name, now) for address, name in addresses.listed.items())

    def tried_lately(self, now: float) -> tuple[EndpointStatus, ...]:
        """Return the addresses at which the last attempt failed within LATELY_S seconds, listed or
        not, in the order of these attempts; then the one that was reached last, unless it fails."""
        failing = [
            (endpoint.passed_over_until, address)
            for address, endpoint in self._endpoints.items()
            if endpoint.failing_since is not None and endpoint.passed_over_until > now - LATELY_S
        ]
        tried = [address for _, address in sorted(failing, key=itemgetter(0))]
        tried += [] if self._reached is None else [self._reached]
        return tuple(self._status(address, address, now) for address in tried)

    def _status(self, address: Address, name: Address, now: float) -> EndpointStatus:
        endpoint = self._endpoints.get(address, _NEW)
        return EndpointStatus(
            address=address,
            name=name,
            connections=endpoint.connections,
            passed_over=self.failing(address, now),
            only_unhealthy=endpoint.unhealthy is not None and not endpoint.has_failed(now),
            reason=endpoint.unhealthy or endpoint.reason,
            failing_s=None if endpoint.failing_since is None else now - endpoint.failing_since,
        )

    def failed(self, address: Address, now: float, reason: str, *, is_other: bool = False) -> None:
        """Count a failed attempt; ignored while the address is passed over, but for `is_other`:
        that somebody else is there."""
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            self._make_room()
            endpoint = self._endpoints[address] = _Endpoint()
        if endpoint.has_failed(now):
            endpoint.is_other = endpoint.is_other or is_other
            return
        endpoint.is_other = is_other
        if endpoint.failing_since is None:
            endpoint.failing_since = now
            self._reached = None if self._reached == address else self._reached
        pause = min(FIRST_BACKOFF_S * 2.0 ** min(endpoint.failures, 10), LONGEST_BACKOFF_S)
        endpoint.failures += 1
        endpoint.reason = reason
        endpoint.passed_over_until = now + pause

    def checked(self, address: Address, reason: str | None) -> bool:
        """Note how a health check went: why it failed, or None.  Return whether that has changed
        whether it is healthy."""
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            if reason is None:
                return False
            endpoint = self._endpoints[address] = _Endpoint()
        changed = (endpoint.unhealthy is None) != (reason is None)
        endpoint.unhealthy = reason
        return changed

    def forget_checks(self) -> None:
        """Forget how health checks went: there are none any more."""
        for endpoint in self._endpoints.values():
            endpoint.unhealthy = None

    def opened(self, tried: tuple[Candidate, ...], dialled: Address, now: float) -> None:
        """Count an open connection to `dialled`.  Whatever came before it in `tried` failed or lost
        the race, and counts as failed, so that the next connection doesn't wait for it again."""
        endpoint = self._endpoints.get(dialled)
        if endpoint is None:
            endpoint = self._endpoints[dialled] = _Endpoint()
        endpoint.connections += 1
        endpoint.failures = 0
        endpoint.failing_since = None
        endpoint.passed_over_until = 0.0
        endpoint.is_other = False
        endpoint.reason = None
        self._reached = dialled
        for candidate in tried:
            if candidate.addresses[0] == dialled:
                return
            self.failed(candidate.addresses[0], now, "another address answered first")
            if dialled in candidate.addresses:
                return

    def closed(self, dialled: Address) -> None:
        """Count the end of a connection that was `opened`."""
        endpoint = self._endpoints[dialled]
        endpoint.connections -= 1
        if (endpoint.connections, endpoint.failures, endpoint.unhealthy) == (0, 0, None):
            del self._endpoints[dialled]

    def forget_all_but(self, listed: Mapping[Address, Address]) -> bool:
        """Forget the addresses that are neither `listed` nor used; return whether any are left."""
        self._reached = None
        self._endpoints = {
            address: endpoint
            for address, endpoint in self._endpoints.items()
            if endpoint.connections > 0 or address in listed
        }
        return bool(self._endpoints)

    def _make_room(self) -> None:
        """Forget an address that fails, if there are too many: of those without a connection the
        one that was met first."""
        if len(self._endpoints) < MAX_FAILING:
            return
        unused = (each for each, kept in self._endpoints.items() if kept.connections == 0)
        oldest = next(unused, None)
        if oldest is not None:
            del self._endpoints[oldest]

    def _ranked(self, addresses: Sequence[Address]) -> list[Address]:
        turn = self._turn % max(1, len(addresses))
        self._turn += 1
        # sorting is stable, so endpoints with equal counts stay in turn
        return sorted((*addresses[turn:], *addresses[:turn]), key=self._load)

    def _load(self, address: Address) -> int:
        endpoint = self._endpoints.get(address)
        return 0 if endpoint is None else endpoint.connections


class AllEndpoints:
    """The endpoints of every destination and every inbound door's application."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Endpoints] = {}

    def __getitem__(self, key: Key) -> Endpoints:
        """Return the endpoints of one of them, made at the first call."""
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = Endpoints()
        return found

    def follow(self, addresses: Mapping[Key, Addresses], *, reloaded: bool = True) -> None:
        """Forget the endpoints that are neither listed in `addresses` nor used; unless the
        configuration was reloaded, what connections have named themselves is kept."""
        for key, endpoints in tuple(self._by_key.items()):
            if not reloaded and key in addresses and addresses[key].is_open:
                continue
            listed = addresses[key].listed if key in addresses else {}
            if not endpoints.forget_all_but(listed) and key not in addresses:
                del self._by_key[key]


def _is_v6(address: Address) -> bool:
    return isinstance(address, TcpAddress) and ":" in address.host


def _without_none(address: Address, rival: Address | None) -> tuple[Address, ...]:
    return (address,) if rival is None else (address, rival)
