"""Groups open connections by peer, for the admin server."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from uproxy.connections import OpenConnection
from uproxy.model import Direction, TcpAddress
from uproxy.proxy.admin.overview import PeerList, PeerRow

_Key = tuple[Direction, str | None, str | None, str]
"""Direction, identity, host, destination."""


class _Group:
    """The sums over the connections with one peer."""

    __slots__ = ("connections", "received", "sent", "since")

    def __init__(self) -> None:
        self.connections = self.received = self.sent = 0

    def add(self, entry: OpenConnection) -> None:
        self.connections += 1
        self.received += entry.connection.bytes_received
        self.sent += entry.connection.bytes_sent
        self.since = entry.since  # of the oldest, which comes last


def by_peer(newest_first: Iterable[OpenConnection], at: datetime, limit: int) -> PeerList:
    """Return the connections by peer: at most `limit` peers, those with most connections first;
    `at` is the present time."""
    groups: dict[_Key, _Group] = {}
    for entry in newest_first:
        key = _key(entry)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group()
        group.add(entry)
    most = sorted(groups.items(), key=lambda item: (-item[1].connections, item[1].since))
    shown = tuple(_row(key, group, at) for key, group in most[:limit])
    return PeerList(len(groups), shown)


def _key(entry: OpenConnection) -> _Key:
    connection, info = entry.connection, entry.info
    identity, destination = info.identity_of(connection), info.destination or info.door
    if identity is not None:
        return info.direction, identity, None, destination
    inbound = info.direction is Direction.INBOUND
    other = connection.arrival.source if inbound else connection.dialled
    host = other.host if isinstance(other, TcpAddress) else str(other)
    return info.direction, None, host, destination


def _row(key: _Key, group: _Group, at: datetime) -> PeerRow:
    direction, identity, host, destination = key
    return PeerRow(
        direction=direction.value,
        identity=identity,
        host=host,
        destination=destination,
        connections=group.connections,
        oldest=(at - group.since).total_seconds(),
        bytes_received=group.received,
        bytes_sent=group.sent,
    )
