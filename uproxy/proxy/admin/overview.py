"""Rows that sum up many things: mistakes, connections by peer, rates, what isn't listed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from uproxy.proxy.admin.row import Row


@dataclass(frozen=True, slots=True)
class Stale(Row):
    """Why the present contents of the configuration file aren't in force."""

    file: str
    since: datetime
    """When the first contents were refused since the last that weren't."""
    mistakes: tuple[str, ...]
    """The first of the present contents."""
    mistakes_total: int


@dataclass(frozen=True, slots=True)
class PeerRow(Row):
    """The open connections with one peer."""

    direction: str
    identity: str | None
    """The peer's verified SPIFFE ID; None: it has shown none."""
    host: str | None
    """The peer's address without the port; None if it has an identity, which may have many."""
    destination: str
    """The destination's name, or the inbound door's."""
    connections: int
    oldest: float
    """Seconds since the first of them was accepted."""
    bytes_received: int
    """Bytes from the peer, on the connections that are open."""
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class PeerList(Row):
    """The open connections by peer."""

    total: int
    """How many peers there are; `peers` may have fewer rows."""
    peers: tuple[PeerRow, ...]
    """Those with most connections first."""


@dataclass(frozen=True, slots=True)
class Rates(Row):
    """How much happened per second, in each of the last steps; the oldest first."""

    step: float
    """Seconds of one step."""
    opened: tuple[float, ...] = ()
    """Connections that began to relay."""
    failed: tuple[float, ...] = ()
    """Connections that were refused or couldn't be made."""
    received: tuple[float, ...] = ()
    """Bytes from peers."""
    sent: tuple[float, ...] = ()
    """Bytes to peers."""


@dataclass(frozen=True, slots=True)
class LostRow(Row):
    """That denials of callers, or outbound at destinations, are in no row: there were too many."""

    direction: str
    outcome: str
    at: datetime
    """When the last of them was."""
