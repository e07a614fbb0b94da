"""Which endpoint of a destination to try next, and what became of those tried before.

It resolves nothing and dials nothing: records are handed in, candidates handed out, time
comes in as `now` (seconds of a monotonic clock).  Rules it obeys: every record of a name
is an endpoint; the one with the fewest open connections comes first, equals take turns; a
failing address is passed over for a while, unless all of them fail; a race is between the
two address families of one name, never among replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uproxy.config.settings import Settings
from uproxy.contract import Candidate
from uproxy.model import Address, Direction, TcpAddress

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
"""How long a failing address is passed over: doubling from the first to the longest."""


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
    """Why the last attempt failed; None if it didn't."""


Key = tuple[Direction, str]
"""A destination's name, or an inbound door's, and which of the two it is."""


@dataclass(slots=True)
class _Endpoint:
    """What is remembered of one literal address, as long as it is used or listed."""

    connections: int = 0
    failures: int = 0
    """In a row."""
    passed_over_until: float = 0.0
    reason: str | None = None
    """Why the last attempt failed."""


class Destination:
    """One destination's endpoints and how they fare."""

    def __init__(self, addresses: tuple[Address, ...], server_name: str | None = None) -> None:
        """`server_name` is sent as SNI to each address, instead of the name in the address."""
        self._server_name = server_name
        self._addresses = addresses  # as configured; replaced by a reload
        self._names = _names(addresses)  # those of them that a resolver must look up
        self._records: dict[Address, tuple[TcpAddress, ...]] = {}  # the last good ones by name
        self._listed = self._list()  # of the addresses and the records
        self._endpoints: dict[Address, _Endpoint] = {}  # by literal address
        self._turn = 0  # moves with every choice, so that equals take turns

    @property
    def names(self) -> tuple[TcpAddress, ...]:
        """The addresses that a resolver must look up."""
        return self._names

    @property
    def connections(self) -> Mapping[Address, int]:
        """Open connections by literal address, those no longer listed included."""
        return {
            address: endpoint.connections
            for address, endpoint in self._endpoints.items()
            if endpoint.connections
        }

    @property
    def choice(self) -> bool:
        """Whether `candidates` has anything to choose: unless there is exactly one address, it
        may answer differently each time.  Else not until `configure` or `resolved`."""
        return len(self._listed) != 1

    def configure(self, addresses: tuple[Address, ...], server_name: str | None = None) -> None:
        """Replace the addresses, as a reload does; counts and failures of equal ones stay."""
        self._server_name = server_name
        self._addresses = addresses
        self._names = _names(addresses)
        self._records = {
            name: records for name, records in self._records.items() if name in self._names
        }
        self._relist()

    def resolved(self, name: TcpAddress, records: tuple[TcpAddress, ...]) -> bool:
        """Replace the records of `name`; none at all is a failure and keeps the last good ones.
        Whether they are others than before."""
        if not records or name not in self._names or self._records.get(name) == records:
            return False
        self._records[name] = records
        self._relist()
        return True

    def failing(self, address: Address, now: float) -> bool:
        """Whether `address` is passed over at `now`."""
        endpoint = self._endpoints.get(address)
        return endpoint is not None and now < endpoint.passed_over_until

    def candidates(self, now: float) -> tuple[Candidate, ...]:
        """The endpoints to try, best first; empty while no name has been resolved."""
        listed = self._listed
        if len(listed) == 1:
            [(address, name)] = listed.items()
            return (Candidate(str(name), (address,), self._server_name or server_name_of(name)),)
        usable = [address for address in listed if not self.failing(address, now)]
        ranked = self._ranked(usable or list(listed))
        best: dict[tuple[Address, bool], Address] = {}  # of each name and family
        for address in ranked:
            best.setdefault((listed[address], _is_v6(address)), address)
        return tuple(
            Candidate(
                str(listed[address]),
                _without_none(address, best.get((listed[address], not _is_v6(address)))),
                self._server_name or server_name_of(listed[address]),
            )
            for address in ranked
        )

    def status(self, now: float) -> tuple[EndpointStatus, ...]:
        """Every listed endpoint, in the order of the configuration."""
        return tuple(
            EndpointStatus(
                address=address,
                name=name,
                connections=self._load(address),
                passed_over=self.failing(address, now),
                reason=self._endpoints[address].reason if address in self._endpoints else None,
            )
            for address, name in self._listed.items()
        )

    def failed(self, address: Address, now: float, reason: str) -> None:
        """An attempt failed.  While passed over, further failures say nothing new."""
        endpoint = self._endpoints.setdefault(address, _Endpoint())
        if now < endpoint.passed_over_until:
            return
        pause = min(FIRST_BACKOFF_S * 2.0 ** min(endpoint.failures, 10), LONGEST_BACKOFF_S)
        endpoint.failures += 1
        endpoint.reason = reason
        endpoint.passed_over_until = now + pause

    def opened(self, tried: tuple[Candidate, ...], dialled: Address, now: float) -> None:
        """A connection to `dialled` is open.  What was preferred to it among `tried` failed or
        lost the race, so that the next connection needn't wait for it again."""
        endpoint = self._endpoints.get(dialled)
        if endpoint is None:
            endpoint = self._endpoints[dialled] = _Endpoint()
        endpoint.connections += 1
        endpoint.failures = 0
        endpoint.passed_over_until = 0.0
        endpoint.reason = None
        for candidate in tried:
            if candidate.addresses[0] == dialled:
                return
            self.failed(candidate.addresses[0], now, "another address answered first")
            if dialled in candidate.addresses:
                return

    def closed(self, dialled: Address) -> None:
        """A connection that was `opened` has ended."""
        endpoint = self._endpoints[dialled]
        endpoint.connections -= 1
        if endpoint.connections == 0 and endpoint.failures == 0:
            del self._endpoints[dialled]

    def _list(self) -> dict[Address, Address]:
        """Address as configured by literal address, in order; a literal listed twice counts for
        the first."""
        listed: dict[Address, Address] = {}
        for address in self._addresses:
            named = address in self._names
            for literal in self._records.get(address, ()) if named else (address,):
                listed.setdefault(literal, address)
        return listed

    def _ranked(self, addresses: Sequence[Address]) -> list[Address]:
        turn = self._turn % max(1, len(addresses))
        self._turn += 1
        # sorting is stable: equals stay in the order of whose turn it is
        return sorted((*addresses[turn:], *addresses[:turn]), key=self._load)

    def _load(self, address: Address) -> int:
        endpoint = self._endpoints.get(address)
        return 0 if endpoint is None else endpoint.connections

    def _relist(self) -> None:
        """List the addresses anew; forget what is known of those neither listed nor used."""
        self._listed = self._list()
        self._endpoints = {
            address: endpoint
            for address, endpoint in self._endpoints.items()
            if endpoint.connections > 0 or address in self._listed
        }


class Destinations:
    """Every destination and every inbound door's application, kept across reloads by name."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Destination] = {}

    def configure(self, settings: Settings) -> None:
        """Follow a configuration: equal names keep their counts and failures."""
        wanted: dict[Key, tuple[tuple[Address, ...], str | None]] = {
            (Direction.OUTBOUND, name): (destination.addresses, destination.server_name)
            for name, destination in settings.destinations.items()
        }
        wanted |= {(Direction.INBOUND, door.name): ((door.to,), None) for door in settings.inbound}
        kept = {key: self._by_key.get(key) or Destination(*wanted[key]) for key in wanted}
        for key, destination in kept.items():
            destination.configure(*wanted[key])
        self._by_key = kept

    def __getitem__(self, key: Key) -> Destination:
        return self._by_key[key]

    @property
    def names(self) -> frozenset[TcpAddress]:
        """Everything a resolver must look up."""
        return frozenset(name for each in self._by_key.values() for name in each.names)

    def resolved(self, name: TcpAddress, records: tuple[TcpAddress, ...]) -> bool:
        """Hand the records of `name` to every destination that lists it; whether they are new to
        any."""
        # a list: each of them must hear it
        return any([each.resolved(name, records) for each in self._by_key.values()])


def server_name_of(address: Address) -> str | None:
    """What SNI says of an address as configured: its name without a dot at the end (RFC 6066
    section 3); None for a literal address or a unix socket."""
    if isinstance(address, TcpAddress) and address.ip is None:
        return address.host.removesuffix(".")
    return None


def _names(addresses: tuple[Address, ...]) -> tuple[TcpAddress, ...]:
    return tuple(
        address for address in addresses if isinstance(address, TcpAddress) and address.ip is None
    )


def _is_v6(address: Address) -> bool:
    return isinstance(address, TcpAddress) and ":" in address.host


def _without_none(address: Address, rival: Address | None) -> tuple[Address, ...]:
    return (address,) if rival is None else (address, rival)
