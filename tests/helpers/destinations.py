"""A destination as a door meets it: what is listed, and how that fares."""

from __future__ import annotations

from collections.abc import Mapping

from uproxy.addresses import Addresses
from uproxy.contract import Candidate
from uproxy.destinations import Endpoints, EndpointStatus
from uproxy.model import Address, TcpAddress


class Destination:
    """Takes a new `Addresses` at each change, as new snapshots do, and keeps its `Endpoints`."""

    def __init__(self, configured: tuple[Address, ...], server_name: str | None = None) -> None:
        self._records: dict[TcpAddress, tuple[TcpAddress, ...]] = {}
        self.endpoints = Endpoints()
        self.addresses = Addresses.of(configured, {}, server_name)

    def configure(self, configured: tuple[Address, ...], server_name: str | None = None) -> None:
        """A reload."""
        kept = {name: found for name, found in self._records.items() if name in configured}
        self._records = kept
        self._list(configured, server_name)

    def resolved(self, name: TcpAddress, records: tuple[TcpAddress, ...]) -> None:
        """The resolver's answer; none at all is no answer."""
        if records and name in self.addresses.names:
            self._records[name] = records
            self._list(self.addresses.configured, self.addresses.server_name)

    def candidates(self, now: float) -> tuple[Candidate, ...]:
        return self.endpoints.candidates(self.addresses, now)

    def status(self, now: float) -> tuple[EndpointStatus, ...]:
        return self.endpoints.status(self.addresses, now)

    def failing(self, address: Address, now: float) -> bool:
        return self.endpoints.failing(address, now)

    def failed(self, address: Address, now: float, reason: str) -> None:
        self.endpoints.failed(address, now, reason)

    def opened(self, tried: tuple[Candidate, ...], dialled: Address, now: float) -> None:
        self.endpoints.opened(tried, dialled, now)

    def closed(self, dialled: Address) -> None:
        self.endpoints.closed(dialled)

    @property
    def connections(self) -> Mapping[Address, int]:
        return self.endpoints.connections

    @property
    def names(self) -> tuple[TcpAddress, ...]:
        return self.addresses.names

    @property
    def choice(self) -> bool:
        return self.addresses.choice

    def _list(self, configured: tuple[Address, ...], server_name: str | None) -> None:
        self.addresses = Addresses.of(configured, self._records, server_name)
        self.endpoints.forget_all_but(self.addresses.listed)
