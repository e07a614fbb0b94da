"""Makes rows for the admin server out of connections, denials, doors and destinations."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from uproxy.addresses import Addresses
from uproxy.app.identity import now
from uproxy.config import Settings
from uproxy.connections import Denial, Entry, OpenConnection
from uproxy.destinations import AllEndpoints, EndpointStatus
from uproxy.model import (
    Direction,
    Host,
    ListenAddress,
    SystemdAddress,
    TcpAddress,
    Transport,
    UnixAddress,
)
from uproxy.proxy.admin import facts as rows
from uproxy.proxy.admin.row import UnresolvedRow
from uproxy.snapshot import Destination

TRIED_SHOWN: Final = 10
"""How many addresses that connections have named themselves are shown of each destination."""

REASONS_SHOWN: Final = 3
"""Of how many applications behind one door it is told why they can't be reached."""


class Down(NamedTuple):
    """Why nothing can be reached behind a door, and since when."""

    reason: str
    since: datetime | None
    """None: unknown."""


def down_among(addresses: Addresses, tried: Iterable[EndpointStatus]) -> Down | None:
    """Return why applications can't be reached, and since when, behind a door at which connections
    name the port themselves; None: none fails.  One is down when its port fails at each host in the
    door's `to`, or without a `to` at the address that was named."""
    hosts = {each.host for each in addresses.listed if isinstance(each, TcpAddress)}
    by_port: dict[int, dict[str, EndpointStatus]] = {}
    for each in tried:
        if each.failing_s is not None and isinstance(each.address, TcpAddress):
            by_port.setdefault(each.address.port, {})[each.address.host] = each
    down = [each for at in by_port.values() if at.keys() >= hosts for each in at.values()]
    if not down:
        return None
    reasons = list(dict.fromkeys(str(each.reason) for each in down))
    more = len(reasons) - REASONS_SHOWN
    words = [*reasons[:REASONS_SHOWN], f"{more} more"] if more > 0 else reasons
    return Down("; ".join(words), ago(max(each.failing_s or 0.0 for each in down)))


def ago(seconds: float) -> datetime:
    """Return the time so many seconds ago."""
    return now() - timedelta(seconds=seconds)


def connection_row(entry: OpenConnection, at: datetime) -> rows.ConnectionRow:
    """Return the row of an open connection; `at` is the present time."""
    connection, info = entry.connection, entry.info
    route, tls, caller = connection.route, connection.tls, info.caller
    inbound = info.direction is Direction.INBOUND
    local = connection.arrival.local if inbound else connection.dialled_from
    end = connection.tunnel_end
    return rows.ConnectionRow(
        id=connection.arrival.id,
        direction=info.direction.value,
        door=info.door,
        state=connection.state.value,
        transport=info.transport.value,
        source=str(connection.arrival.source),
        identity=info.identity_of(connection),
        destination=None if route is None else route.destination,
        endpoint=None if connection.dialled is None else str(connection.dialled),
        tls=None if tls is None else str(tls),
        rule=None if route is None else route.rule,
        local=None if local is None else str(local),
        age=(at - entry.since).total_seconds(),
        bytes_received=connection.bytes_received,
        bytes_sent=connection.bytes_sent,
        tunnel=connection.arrival.tunnel,
        tunnel_end=None if end is None else str(end),
        via=connection.via if caller is None else caller.via,
        via_identity=None if caller is None else str(caller.via_identity),
    )


def tunnel_row(entry: Entry, at: datetime) -> rows.TunnelRow:
    """Return the row of an open tunnel; `at` is the present time."""
    connection, info = entry.connection, entry.info
    tls, peer = connection.tls, connection.peer
    return rows.TunnelRow(
        id=connection.arrival.id,
        direction=info.direction.value,
        door=info.door,
        source=str(connection.arrival.source),
        identity=None if peer is None else peer.spiffe_id,
        local=str(connection.arrival.local),
        tls=None if tls is None else str(tls),
        streams=connection.streams,
        age=(at - entry.since).total_seconds(),
    )


def denial_row(denial: Denial) -> rows.DenialRow:
    """Return the row of a denial."""
    claim = denial.ending.claim
    return rows.DenialRow(
        at=denial.at,
        direction=denial.direction.value,
        door=denial.door,
        source=denial.source,
        identity=denial.identity,
        outcome=denial.ending.outcome.value,
        reason=denial.ending.reason or "",
        rule=denial.ending.rule,
        destination=denial.destination,
        count=denial.count,
        since=denial.since,
        unproven_identity=None if claim is None else claim.spiffe_id,
        unproven_serial=None if claim is None else claim.serial,
        port=denial.port,
        via=denial.via,
    )


class _Door(NamedTuple):
    """A configured door, of either direction."""

    direction: Direction
    name: str
    listen: ListenAddress
    transport: str
    to: str
    """The application's address, or the name of the destination."""
    behind: str | None
    """The name under which attempts to reach what is behind it are kept; None: there are several
    destinations."""


def _doors(settings: Settings) -> Iterator[_Door]:
    for door in settings.inbound:
        to = door.leads_to
        transport = "captured" if door.captured else door.transport.value
        yield _Door(Direction.INBOUND, door.name, door.listen, transport, to, door.name)
    for each in settings.outbound:
        name = str(each.listen)
        if each.to is None:
            words = "original destinations"
            yield _Door(Direction.OUTBOUND, name, each.listen, "captured", words, None)
            continue
        transport = settings.destinations[each.to].transport.value
        yield _Door(Direction.OUTBOUND, name, each.listen, transport, each.to, each.to)


_OPAQUE = "for eBPF the socket isn't transparent, which takes CAP_NET_ADMIN or CAP_NET_RAW"


def door_rows(
    settings: Settings,
    listening: Container[ListenAddress],
    counts: Mapping[tuple[Direction, str], int],
    tunnels: Mapping[str, int],
    trouble: Callable[[Direction, str], Down | None],
    opaque: Container[ListenAddress] = (),
) -> Iterator[rows.DoorRow]:
    """Yield the rows of inbound and outbound doors; `counts` are their open connections, `tunnels`
    those of inbound doors by name, `trouble` tells why nothing can be reached there, and `opaque`
    are the addresses to which eBPF can't bring connections."""
    for door in _doors(settings):
        down = None if door.behind is None else trouble(door.direction, door.behind)
        inbound = door.direction is Direction.INBOUND
        yield rows.DoorRow(
            name=door.name,
            direction=door.direction.value,
            listen=str(door.listen),
            transport=door.transport,
            to=f"{door.to} (by nft alone: {_OPAQUE})" if door.listen in opaque else door.to,
            open=door.listen in listening,
            connections=counts.get((door.direction, door.name), 0),
            tunnels=tunnels.get(door.name, 0) if inbound else 0,
            trouble=None if down is None else down.reason,
            trouble_since=None if down is None else down.since,
        )


def destination_row(
    to: Destination, all_: AllEndpoints, unresolved: tuple[UnresolvedRow, ...]
) -> rows.DestinationRow:
    """Return the row of a destination, with its endpoints in the order of the configuration; where
    connections name theirs, with those that were tried lately."""
    endpoints, at = all_[Direction.OUTBOUND, to.settings.name], time.monotonic()
    original = to.addresses.is_open
    fates = endpoints.tried_lately(at) if original else endpoints.status(to.addresses, at)
    return rows.DestinationRow(
        name=to.settings.name,
        transport=to.settings.transport.value,
        identities=to.settings.identities,
        endpoints=tuple(
            rows.EndpointRow(
                address=str(each.address),
                name=str(each.name),
                connections=each.connections,
                passed_over=each.passed_over,
                reason=each.reason,
                since=None if each.failing_s is None else ago(each.failing_s),
            )
            for each in (fates[-TRIED_SHOWN:] if original else fates)
        ),
        unresolved=unresolved,
        tunnel_end=_tunnel_end(to),
        via=to.settings.via,
        original=original,
    )


def _tunnel_end(to: Destination) -> str | None:
    """Return where the tunnels to a destination end; None: there are none."""
    if to.settings.transport is not Transport.HBONE:
        return None
    end = to.settings.tunnel_end
    return f"*:{end}" if isinstance(end, int) else str(end)


def plain_settings(value: object) -> object:
    """Return settings as JSON values: addresses and networks as text, `from_` as `from`."""
    if isinstance(value, TcpAddress | UnixAddress | SystemdAddress | Host):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name.rstrip("_"): plain_settings(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: plain_settings(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [plain_settings(each) for each in value]
    return value if isinstance(value, str | int | float | None) else str(value)
