"""What the admin server knows of the rest of uProxy: one interface, and rows of plain facts.

It gathers nothing itself; the application's wiring implements `AdminFacts`.  Rules: rows are
immutable and become JSON with `to_json`, field names are the keys that users see (extend,
don't rename); addresses are text, times UTC, durations seconds; never a private key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

LOG_LEVELS = ("debug", "info", "warning", "error")
"""What `POST /logging?level=` takes."""


class Row:
    """A dataclass that becomes a JSON object, field by field."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values only: str, int, float, bool, None, lists and dictionaries."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return {field.name: plain(getattr(self, field.name)) for field in fields}


def plain(value: object) -> Any:
    """`value` as json.dumps takes it; times as RFC 3339, to the second."""
    if isinstance(value, Row):
        return value.to_json()
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [plain(member) for member in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)


@dataclass(frozen=True, slots=True)
class Readiness(Row):
    """Whether new work should be sent here."""

    reasons: tuple[str, ...] = ()
    """Why not, in words; empty is ready."""
    notes: tuple[str, ...] = ()
    """What an operator should know although it decides nothing: `config_stale: …`."""


@dataclass(frozen=True, slots=True)
class Certificate(Row):
    """What may be told of a certificate."""

    subject: str
    serial: str
    """Hexadecimal."""
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class OwnSvid(Row):
    """The identity this uProxy shows."""

    spiffe_id: str
    not_before: datetime
    expires: datetime
    """The earliest in the chain."""
    hint: str
    chain: tuple[Certificate, ...]
    """Leaf first."""


@dataclass(frozen=True, slots=True)
class Crl(Row):
    """A revocation list of one trust domain."""

    issuer: str
    next_update: datetime | None
    """Afterwards, chains of that issuer are refused; None: never said."""
    revoked: int
    """How many certificates."""


@dataclass(frozen=True, slots=True)
class TrustDomain(Row):
    """Whom a bundle lets us believe."""

    name: str
    own: bool
    roots: tuple[Certificate, ...]
    crls: tuple[Crl, ...]


@dataclass(frozen=True, slots=True)
class Certificates(Row):
    """The answer of `/certs`."""

    svid: OwnSvid | None
    reason: str
    """Why there is no SVID; empty when there is one."""
    source: Mapping[str, object]
    """`IdentitySource.status`."""
    trust_domains: tuple[TrustDomain, ...]


@dataclass(frozen=True, slots=True)
class ConnectionRow(Row):
    """One open connection."""

    id: int
    direction: str
    door: str
    state: str
    transport: str
    """Towards the peer."""
    source: str
    """Who dialled in."""
    identity: str | None
    """The peer's verified SPIFFE ID; None in plaintext or before the handshake."""
    destination: str | None
    """The destination's name, or the inbound door's; None until admitted."""
    endpoint: str | None
    """The address that was dialled; None until connected."""
    tls: str | None
    """`TLSv1.3 X25519MLKEM768 TLS_AES_128_GCM_SHA256`."""
    rule: str | None
    """The allow rule that let the caller in."""
    age: float
    bytes_received: int
    """From the peer."""
    bytes_sent: int
    """To the peer."""


@dataclass(frozen=True, slots=True)
class Connections(Row):
    """The answer of `/connections`."""

    total: int
    """Open now; more than there are rows when the rows were limited."""
    connections: tuple[ConnectionRow, ...]
    """Newest first."""


@dataclass(frozen=True, slots=True)
class DoorRow(Row):
    """A listener with its meaning."""

    name: str
    direction: str
    listen: str
    transport: str
    to: str
    open: bool
    """False once it no longer accepts (draining)."""
    connections: int


@dataclass(frozen=True, slots=True)
class EndpointRow(Row):
    """One literal address of a destination, and how it fares."""

    address: str
    name: str
    """As configured: the name it was resolved from, or the address itself."""
    connections: int
    passed_over: bool
    """It failed lately and others are tried first."""
    reason: str | None = None
    """Why the last attempt failed; None if it didn't."""


@dataclass(frozen=True, slots=True)
class DestinationRow(Row):
    """Where outbound connections go, and who may answer there."""

    name: str
    transport: str
    identities: tuple[str, ...]
    endpoints: tuple[EndpointRow, ...]
    """Empty while no name has been resolved."""


@dataclass(frozen=True, slots=True)
class DenialRow(Row):
    """A connection that was refused or cut."""

    at: datetime
    direction: str
    door: str
    source: str
    identity: str | None
    outcome: str
    reason: str
    rule: str | None
    """The rule of the policy, or of SPIFFE, that decided; None: no rule allowed it."""
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessFacts(Row):
    """Which uProxy this is."""

    name: str
    pid: int
    started: datetime
    log_level: str
    versions: Mapping[str, str]
    """`uproxy`, `python`, `openssl`, …"""


class AdminFacts(Protocol):
    """What the rest of uProxy tells the admin server, and the three things it may be asked to
    do.  Called on the event loop's thread; nothing here may block or raise."""

    def readiness(self) -> Readiness: ...

    def liveness(self) -> tuple[str, ...]:
        """What doesn't answer, in words (`engine thread 2 …`); empty is alive."""

    def certificates(self) -> Certificates: ...

    def connections(self, limit: int) -> Connections:
        """At most `limit` rows: with many connections, rows are what a poll costs."""

    def doors(self) -> tuple[DoorRow, ...]: ...

    def destinations(self) -> tuple[DestinationRow, ...]: ...

    def denials(self) -> tuple[DenialRow, ...]:
        """The last fifty or so, newest first."""

    def outcomes(self) -> Mapping[str, int]:
        """Finished connections since the start, by outcome."""

    def config_dump(self) -> Mapping[str, object]:
        """The configuration in force and what is known of it; secrets redacted."""

    def process(self) -> ProcessFacts: ...

    def render_metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and text, by the Accept header of the scraper."""

    def set_log_level(self, level: str) -> None:
        """`level` is one of LOG_LEVELS."""

    def drain(self) -> None:
        """Begin to drain without exiting; returns at once.  A second call changes nothing."""

    def quit(self) -> None:
        """Begin to drain, then exit; returns at once."""
