"""Collects what the admin server shows from the parts of a running uProxy, as rows."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from uproxy.app.identity import now
from uproxy.app.parts import Parts
from uproxy.app.state import RunState
from uproxy.config import Settings
from uproxy.connections import Denial, OpenConnection
from uproxy.destinations import Addresses, AllEndpoints, Key
from uproxy.model import (
    Direction,
    ListenAddress,
    SystemdAddress,
    TcpAddress,
    Transport,
    UnixAddress,
)
from uproxy.proxy.admin import facts as rows
from uproxy.proxy.admin.certificates import describe
from uproxy.snapshot import Destination


@dataclass(frozen=True, slots=True)
class Facts:
    """Implements `proxy.admin.facts.AdminFacts`."""

    state: RunState
    parts: Parts
    versions: Mapping[str, str]
    drain: Callable[[], None]
    """Start to drain without exiting."""
    quit: Callable[[], None]
    """Start to drain, then exit."""

    def readiness(self) -> rows.Readiness:
        """Return the reasons not to send new work here, and notes."""
        reasons = list(self.state.not_ready)
        settings, credentials = self._settings, self.parts.source.current
        if credentials.svid is None and _needs_identity(settings):
            reasons.append(self._no_identity(credentials.reason))
        elif credentials.svid is not None and not any(
            bundle.roots for bundle in credentials.bundles.values()
        ):
            reasons.append("no bundle has a usable root: all peers are refused")
        return rows.Readiness(tuple(reasons), (*self.state.notes, *self._identity_notes()))

    def liveness(self) -> tuple[str, ...]:
        """Return the parts that don't respond.  That this method runs shows that the loop does."""
        return () if self.parts.engine.responsive() else ("an engine thread doesn't answer",)

    def certificates(self) -> rows.Certificates:
        """Return our SVID and the bundles, without keys."""
        source, own = self.parts.source, self.parts.snapshot.own_trust_domain
        return describe(source.current, source.status, own)

    def connections(self, limit: int) -> rows.ConnectionList:
        """Return the newest open connections, at most `limit` of them."""
        registry = self.parts.connections
        at = now()
        return rows.ConnectionList(
            total=len(registry),
            connections=tuple(_connection(entry, at) for entry in registry.newest(limit)),
        )

    def doors(self) -> tuple[rows.DoorRow, ...]:
        """Return the configured doors, open or not."""
        counts: dict[tuple[Direction, str], int] = {}
        for entry in self.parts.connections:
            key = entry.info.direction, entry.info.door
            counts[key] = counts.get(key, 0) + 1
        trouble = partial(self._trouble, self.parts.snapshot.addresses)
        return tuple(_doors(self._settings, self.parts.doors.listening, counts, trouble))

    def destinations(self) -> tuple[rows.DestinationRow, ...]:
        """Return the configured destinations with their endpoints."""
        return tuple(
            _destination(destination, self.parts.endpoints, self._unresolved(destination.addresses))
            for destination in self.parts.snapshot.destinations.values()
        )

    def denials(self) -> tuple[rows.DenialRow, ...]:
        """Return the last connections that were refused, cut, or couldn't be made."""
        return tuple(_denial(denial) for denial in self.parts.connections.denials)

    def outcomes(self) -> Mapping[str, int]:
        """Return how many connections have ended, by outcome."""
        return {each.value: count for each, count in self.parts.connections.outcomes.items()}

    def config_dump(self) -> Mapping[str, object]:
        """Return the settings in force; they hold paths and names, never secrets."""
        return {
            "settings": plain_settings(self._settings),
            "loaded_at": self.state.loaded_at,
            "stale": self.state.stale,
        }

    def process(self) -> rows.ProcessFacts:
        """Return what this process runs."""
        return rows.ProcessFacts(
            name=self._settings.name,
            pid=os.getpid(),
            started=self.state.started_at,
            log_level=self.parts.log.level_word,
            config=self.state.file,
            versions=self.versions,
        )

    def render_metrics(self, accept: str) -> tuple[str, bytes]:
        """Return (content type, text) of the metrics."""
        return self.parts.metrics.render(accept)

    def set_log_level(self, level: str) -> None:
        """Change the log level until a reload that changes `log`."""
        self.parts.log.set_level(level)

    def _no_identity(self, reason: str) -> str:
        """Return why there is no identity, with what the source last failed at."""
        had_one = self.parts.snapshot.own_trust_domain is not None
        words = f"no identity {'any more' if had_one else 'yet'}: {reason}"
        error = self._renewal_error
        return words if error is None or error in reason else f"{words}; {error}"

    def _identity_notes(self) -> tuple[str, ...]:
        """Return notes on an SVID that can't be renewed (it is valid until it expires), and on
        the trust domains refused because of a bad bundle or CRL."""
        source, error = self.parts.source, self._renewal_error
        distrusted = source.status.get("distrusted")
        notes = (
            [f"distrusted: {each}" for each in distrusted] if isinstance(distrusted, list) else []
        )
        if error is not None and source.current.svid is not None:
            notes.insert(0, f"identity_stale: {error}")
        return tuple(notes)

    def _trouble(
        self, all_: Mapping[Key, Addresses], direction: Direction, name: str
    ) -> str | None:
        """Return why the last attempt failed at each address of a destination, or of an inbound
        door's application; None: one was reached, or none was tried."""
        endpoints = self.parts.endpoints[direction, name]
        fates = endpoints.status(all_[direction, name], time.monotonic())
        if not fates:
            unresolved = self._unresolved(all_[direction, name])
            return (
                "; ".join(f"{each.name} can't be resolved: {each.reason}" for each in unresolved)
                or None
            )
        reasons = [fate.reason for fate in fates]
        return None if None in reasons else reasons[-1]

    def _unresolved(self, addresses: Addresses) -> tuple[rows.UnresolvedRow, ...]:
        why = {name: self.parts.resolver.why_failing(name) for name in addresses.names}
        return tuple(
            rows.UnresolvedRow(str(name), reason)
            for name, reason in why.items()
            if reason is not None
        )

    @property
    def _renewal_error(self) -> str | None:
        """Why the identity source can't renew our SVID; None: it can."""
        status = self.parts.source.status
        said = status.get("last_error") or status.get("error")
        return None if said is None else str(said)

    @property
    def _settings(self) -> Settings:
        return self.parts.snapshot.settings


def _needs_identity(settings: Settings) -> bool:
    """Return whether any door or destination uses mTLS."""
    transports = [door.transport for door in settings.inbound]
    transports += [each.transport for each in settings.destinations.values()]
    return Transport.MTLS in transports


def _connection(entry: OpenConnection, at: datetime) -> rows.ConnectionRow:
    """Return the row of an open connection; `at` is the present time."""
    connection, info = entry.connection, entry.info
    route, tls, peer = connection.route, connection.tls, connection.peer
    inbound = info.direction is Direction.INBOUND
    local = connection.arrival.local if inbound else connection.dialled_from
    return rows.ConnectionRow(
        id=connection.arrival.id,
        direction=info.direction.value,
        door=info.door,
        state=connection.state.value,
        transport=info.transport.value,
        source=str(connection.arrival.source),
        identity=None if peer is None else peer.spiffe_id,
        destination=None if route is None else route.destination,
        endpoint=None if connection.dialled is None else str(connection.dialled),
        tls=None if tls is None else str(tls),
        rule=None if route is None else route.rule,
        local=None if local is None else str(local),
        age=(at - entry.since).total_seconds(),
        bytes_received=connection.bytes_received,
        bytes_sent=connection.bytes_sent,
    )


def _denial(denial: Denial) -> rows.DenialRow:
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
        unproven_identity=None if claim is None else claim.spiffe_id,
        unproven_serial=None if claim is None else claim.serial,
    )


def _doors(
    settings: Settings,
    listening: Container[ListenAddress],
    counts: Mapping[tuple[Direction, str], int],
    trouble: Callable[[Direction, str], str | None],
) -> list[rows.DoorRow]:
    """Return the rows of inbound and outbound doors; `counts` are their open connections, and
    `trouble` tells why nothing can be reached there."""
    inbound = [
        (
            Direction.INBOUND,
            door.name,
            door.listen,
            door.transport,
            str(door.to),
            trouble(Direction.INBOUND, door.name),
        )
        for door in settings.inbound
    ]
    outbound = [
        (
            Direction.OUTBOUND, str(door.listen), door.listen,
            settings.destinations[door.to].transport, door.to,
            trouble(Direction.OUTBOUND, door.to),
        )
        for door in settings.outbound
    ]  # fmt: skip
    return [
        rows.DoorRow(
            name=name,
            direction=direction.value,
            listen=str(listen),
            transport=transport.value,
            to=to,
            open=listen in listening,
            connections=counts.get((direction, name), 0),
            trouble=why,
        )
        for direction, name, listen, transport, to, why in (*inbound, *outbound)
    ]


def _destination(
    to: Destination, all_: AllEndpoints, unresolved: tuple[rows.UnresolvedRow, ...]
) -> rows.DestinationRow:
    endpoints = all_[Direction.OUTBOUND, to.settings.name]
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
            )
            for each in endpoints.status(to.addresses, time.monotonic())
        ),
        unresolved=unresolved,
    )


def plain_settings(value: object) -> object:
    """Return settings as JSON values: addresses and networks as text, `from_` as `from`."""
    if isinstance(value, TcpAddress | UnixAddress | SystemdAddress):
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
