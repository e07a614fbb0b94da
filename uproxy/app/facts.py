"""What the admin server may know: the parts of a running uProxy, as rows of plain facts."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import datetime

from uproxy.app.identity import now
from uproxy.app.parts import Parts
from uproxy.app.state import RunState
from uproxy.config import Settings
from uproxy.config.settings import DestinationSettings
from uproxy.connections import OpenConnection
from uproxy.destinations import Destinations
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


@dataclass(frozen=True, slots=True)
class Facts:
    """Implements `admin.facts.AdminFacts`."""

    state: RunState
    parts: Parts
    versions: Mapping[str, str]
    drain: Callable[[], None]
    """Drain without exiting."""
    quit: Callable[[], None]
    """Drain and exit."""

    def readiness(self) -> rows.Readiness:
        """Why new work shouldn't be sent here."""
        reasons = list(self.state.not_ready)
        settings, credentials = self._settings, self.parts.source.current
        if credentials.svid is None and _needs_identity(settings):
            reasons.append(self._no_identity(credentials.reason))
        return rows.Readiness(tuple(reasons), (*self.state.notes, *self._identity_notes()))

    def liveness(self) -> tuple[str, ...]:
        """What doesn't answer; that this runs shows that the loop does."""
        return () if self.parts.engine.responsive() else ("an engine thread doesn't answer",)

    def certificates(self) -> rows.Certificates:
        """Our SVID and the bundles, without keys."""
        return describe(self.parts.source.current, self.parts.source.status)

    def connections(self, limit: int) -> rows.ConnectionList:
        """The newest open connections."""
        registry = self.parts.connections
        at = now()
        return rows.ConnectionList(
            total=len(registry),
            connections=tuple(_connection(entry, at) for entry in registry.newest(limit)),
        )

    def doors(self) -> tuple[rows.DoorRow, ...]:
        """The configured doors, open or not."""
        counts: dict[tuple[Direction, str], int] = {}
        for entry in self.parts.connections:
            key = entry.party.direction, entry.party.door
            counts[key] = counts.get(key, 0) + 1
        return tuple(_doors(self._settings, self.parts.doors.listening, counts))

    def destinations(self) -> tuple[rows.DestinationRow, ...]:
        """Where outbound connections go."""
        return tuple(
            _destination(destination, self.parts.destinations)
            for destination in self._settings.destinations.values()
        )

    def denials(self) -> tuple[rows.DenialRow, ...]:
        """The last refusals for who somebody is."""
        return tuple(
            rows.DenialRow(
                at=denial.at,
                direction=denial.direction.value,
                door=denial.door,
                source=denial.source,
                identity=denial.identity,
                outcome=denial.ending.outcome.value,
                reason=denial.ending.reason or "",
                rule=denial.ending.rule,
                destination=denial.destination,
            )
            for denial in self.parts.connections.denials
        )

    def outcomes(self) -> Mapping[str, int]:
        """Finished connections."""
        return {each.value: count for each, count in self.parts.connections.outcomes.items()}

    def config_dump(self) -> Mapping[str, object]:
        """The settings in force; they hold paths and names, never secrets."""
        return {
            "settings": plain_settings(self._settings),
            "loaded_at": self.state.loaded_at,
            "stale": self.state.stale,
        }

    def process(self) -> rows.ProcessFacts:
        """Which uProxy this is."""
        return rows.ProcessFacts(
            name=self._settings.name,
            pid=os.getpid(),
            started=self.state.started_at,
            log_level=self.parts.log.level_word,
            versions=self.versions,
        )

    def render_metrics(self, accept: str) -> tuple[str, bytes]:
        """For scrapers."""
        return self.parts.metrics.render(accept)

    def set_log_level(self, level: str) -> None:
        """Until the next reload that changes `log`."""
        self.parts.log.set_level(level)

    def _no_identity(self, reason: str) -> str:
        had_one = self.parts.connections.in_force.own_trust_domain is not None
        words = f"no identity {'any more' if had_one else 'yet'}: {reason}"
        trouble = self._trouble
        return words if trouble is None or trouble in reason else f"{words}; {trouble}"

    def _identity_notes(self) -> tuple[str, ...]:
        """An identity that isn't renewed is still good, until it expires."""
        trouble = self._trouble
        if trouble is None or self.parts.source.current.svid is None:
            return ()
        return (f"identity_stale: {trouble}",)

    @property
    def _trouble(self) -> str | None:
        """What keeps the source from renewing, in words; None: nothing."""
        status = self.parts.source.status
        said = status.get("last_error") or status.get("error")
        return None if said is None else str(said)

    @property
    def _settings(self) -> Settings:
        return self.parts.connections.in_force.settings


def _needs_identity(settings: Settings) -> bool:
    transports = [door.transport for door in settings.inbound]
    transports += [each.transport for each in settings.destinations.values()]
    return Transport.MTLS in transports


def _connection(entry: OpenConnection, at: datetime) -> rows.ConnectionRow:
    connection, party = entry.connection, entry.party
    route, tls, peer = connection.route, connection.tls, connection.peer
    return rows.ConnectionRow(
        id=connection.arrival.id,
        direction=party.direction.value,
        door=party.door,
        state=connection.state.value,
        transport=party.transport.value,
        source=str(connection.arrival.source),
        identity=None if peer is None else peer.spiffe_id,
        destination=None if route is None else route.destination,
        endpoint=None if connection.dialled is None else str(connection.dialled),
        tls=None if tls is None else f"{tls.version} {tls.group} {tls.cipher}",
        rule=None if route is None else route.rule,
        age=(at - entry.since).total_seconds(),
        bytes_received=connection.bytes_received,
        bytes_sent=connection.bytes_sent,
    )


def _doors(
    settings: Settings,
    listening: Container[ListenAddress],
    counts: Mapping[tuple[Direction, str], int],
) -> list[rows.DoorRow]:
    inbound = [
        (Direction.INBOUND, door.name, door.listen, door.transport, str(door.to))
        for door in settings.inbound
    ]
    outbound = [
        (
            Direction.OUTBOUND, str(door.listen), door.listen,
            settings.destinations[door.to].transport, door.to,
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
        )
        for direction, name, listen, transport, to in (*inbound, *outbound)
    ]


def _destination(settings: DestinationSettings, all_: Destinations) -> rows.DestinationRow:
    endpoints = all_[Direction.OUTBOUND, settings.name].status(time.monotonic())
    return rows.DestinationRow(
        name=settings.name,
        transport=settings.transport.value,
        identities=settings.identities,
        endpoints=tuple(
            rows.EndpointRow(
                address=str(each.address),
                name=str(each.name),
                connections=each.connections,
                passed_over=each.passed_over,
                reason=each.reason,
            )
            for each in endpoints
        ),
    )


def plain_settings(value: object) -> object:
    """Settings as JSON values: addresses and networks as text, `from_` as `from`."""
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
