"""What the admin server can ask of the rest of uProxy beside its `vitals`, and the rows it returns.

`app.facts` implements it.  Rows that sum up many things are in `overview`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from uproxy.proxy.admin.l7_rows import L7ProxyRow
from uproxy.proxy.admin.overview import LostRow, PeerList, Rates, Stale
from uproxy.proxy.admin.row import Row, UnresolvedRow
from uproxy.proxy.admin.vitals import Vitals


@dataclass(frozen=True, slots=True)
class CertificateRow(Row):
    """A certificate, or a trust anchor."""

    subject: str
    serial: str
    """Hexadecimal."""
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class SvidRow(Row):
    """The SVID that this uProxy uses."""

    spiffe_id: str
    not_before: datetime
    expires: datetime
    """The earliest expiry in the chain."""
    hint: str
    chain: tuple[CertificateRow, ...]
    """Leaf first."""


@dataclass(frozen=True, slots=True)
class CrlRow(Row):
    """A certificate revocation list of one trust domain."""

    issuer: str
    next_update: datetime | None
    """After this time chains of that issuer are refused; None: the list has no such time."""
    revoked: int
    """How many certificates it lists."""


@dataclass(frozen=True, slots=True)
class TrustDomainRow(Row):
    """A trust domain and the bundle with which its certificates are verified."""

    name: str
    own: bool | None
    """Whether it is the trust domain of our SVID, or of the last one if there is none now; None:
    there never was one."""
    roots: tuple[CertificateRow, ...]
    crls: tuple[CrlRow, ...]


@dataclass(frozen=True, slots=True)
class TokenRow(Row):
    """The JWT-SVID for one destination behind an L7 proxy; never the token itself."""

    destination: str
    audience: tuple[str, ...]
    expires: datetime | None
    """None: there is none."""
    error: str | None
    """Why there is none, or no newer one."""


@dataclass(frozen=True, slots=True)
class Certificates(Row):
    """The answer of `/certs`."""

    svid: SvidRow | None
    reason: str
    """Why there is no SVID; empty if there is one."""
    source: Mapping[str, object]
    """`IdentitySource.status`."""
    trust_domains: tuple[TrustDomainRow, ...]
    tokens: tuple[TokenRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionRow(Row):
    """One open connection."""

    id: int
    direction: str
    door: str
    state: str
    transport: str
    """What is spoken with the peer: `mtls`, `hbone` or `plaintext`."""
    source: str
    """The address of the client: the peer (inbound) or the application (outbound)."""
    identity: str | None
    """The SPIFFE ID of the peer, verified, or of whom an L7 proxy connects for (`via`); None in
    plaintext or before the handshake."""
    destination: str | None
    """The name of the destination, or of the inbound door; None before the connection is
    admitted."""
    endpoint: str | None
    """The address that was dialled; None before it is connected."""
    tls: str | None
    """`TLSv1.3 X25519MLKEM768 TLS_AES_128_GCM_SHA256`."""
    rule: str | None
    """The allow rule that admitted the caller."""
    local: str | None
    """Our own address on the connection with the peer: the other end's log has it too."""
    age: float
    """Seconds since it was accepted."""
    bytes_received: int
    """Bytes from the peer."""
    bytes_sent: int
    """Bytes to the peer."""
    tunnel: int | None = None
    """The id of the tunnel that the peer has made and that carries this one as a stream."""
    tunnel_end: str | None = None
    """Where our tunnel ends whose stream this one is: `endpoint` is dialled there."""
    via: str | None = None
    """The L7 proxy in between, as the configuration calls it; None: none."""
    via_identity: str | None = None
    """Inbound, the verified SPIFFE ID of the one that connects for `identity`."""


@dataclass(frozen=True, slots=True)
class TunnelRow(Row):
    """A connection that carries others as its streams (HBONE)."""

    id: int
    direction: str
    door: str
    source: str
    identity: str | None
    """The peer's verified SPIFFE ID."""
    local: str
    """Our own address on it."""
    tls: str | None
    streams: int
    """How many are open."""
    age: float
    """Seconds since its handshake."""


@dataclass(frozen=True, slots=True)
class ConnectionList(Row):
    """The answer of `/connections`."""

    total: int
    """How many are open; `connections` may have fewer rows."""
    connections: tuple[ConnectionRow, ...]
    """Newest first."""
    tunnels_total: int = 0
    """How many tunnels peers have made to us; they aren't among the connections."""
    tunnels: tuple[TunnelRow, ...] = ()
    """Newest first; perhaps not all."""


@dataclass(frozen=True, slots=True)
class DoorRow(Row):
    """A listener and where its connections go."""

    name: str
    direction: str
    listen: str
    transport: str
    to: str
    open: bool
    """Whether it accepts connections; false while draining."""
    connections: int
    """How many of its connections are open."""
    trouble: str | None = None
    """Why the last attempt to reach where it leads failed, at each address there is; None: one
    was reached, or there was no attempt."""
    trouble_since: datetime | None = None
    """Since when every attempt at each of them has failed."""
    tunnels: int = 0
    """How many tunnels are open that arrived there."""


@dataclass(frozen=True, slots=True)
class EndpointRow(Row):
    """One address of a destination, and its state."""

    address: str
    name: str
    """As configured: the host name that was resolved, or the address itself."""
    connections: int
    passed_over: bool
    """Whether it failed lately, so that other addresses are tried first."""
    reason: str | None = None
    """Why the last attempt failed; None if it succeeded or there was none."""
    since: datetime | None = None
    """Since when every attempt has failed; None: the last one didn't."""


@dataclass(frozen=True, slots=True)
class DestinationRow(Row):
    """Where outbound connections go, and the identities expected there."""

    name: str
    transport: str
    identities: tuple[str, ...]
    endpoints: tuple[EndpointRow, ...]
    """Empty until a name has been resolved; of original destinations those tried lately."""
    unresolved: tuple[UnresolvedRow, ...] = ()
    """The names among its addresses whose last look-up failed."""
    tunnel_end: str | None = None
    """Where tunnels to it end: an address, or `*:15008`, a port of each endpoint's host; None:
    there are none."""
    via: str | None = None
    """The L7 proxy through which it is reached; None: straight."""
    original: bool = False
    """Whether it has no addresses: each captured connection goes where it was made to."""


@dataclass(frozen=True, slots=True)
class DenialRow(Row):
    """A connection that was refused, here or by the peer, was cut because of an identity, or
    couldn't be made."""

    at: datetime
    direction: str
    door: str
    source: str
    identity: str | None
    outcome: str
    reason: str
    rule: str | None
    """The policy's rule or the SPIFFE rule that decided; None: no rule allowed it."""
    destination: str | None = None
    count: int = 1
    """How often the same was refused from the same host; `at`, `source` and `unproven_serial` are
    the last one's."""
    since: datetime | None = None
    """When the first of them was; None: it was the only one."""
    unproven_identity: str | None = None
    """The SPIFFE ID in a certificate that was refused; not proven."""
    unproven_serial: str | None = None
    """Its serial number in hexadecimal, as `openssl x509 -serial` writes it; not proven."""
    port: int | None = None
    """The application's port, as a tunnel named it; None: it was no stream of one."""
    via: str | None = None
    """The L7 proxy that connected for `identity`, as `inbound_trust` calls it; None: none."""


@dataclass(frozen=True, slots=True)
class ProcessFacts(Row):
    """What this process runs, and since when."""

    name: str
    pid: int
    started: datetime
    log_level: str
    config: str
    """The absolute path of the configuration file."""
    versions: Mapping[str, str]
    """`uproxy`, `python`, `openssl`, …"""
    loaded_at: datetime | None = None
    """When the configuration in force was loaded; None: it isn't known."""


class AdminFacts(Vitals, Protocol):
    """What the admin server can ask of the rest of uProxy.

    Called on the event loop's thread; no method may block or raise.
    """

    def certificates(self) -> Certificates:
        """Return our SVID and the bundles."""

    def connections(self, limit: int) -> ConnectionList:
        """Return the newest open connections, at most `limit` of them."""

    def peers(self, limit: int) -> PeerList:
        """Return the open connections by peer, at most `limit` peers, those with most first."""

    def rates(self) -> Rates:
        """Return how much happened in each of the last few seconds, for a quarter of an hour."""

    def stale(self) -> Stale | None:
        """Return why the configuration file's contents aren't in force; None: they are."""

    def doors(self) -> tuple[DoorRow, ...]:
        """Return the configured doors, open or not."""

    def destinations(self) -> tuple[DestinationRow, ...]:
        """Return the configured destinations with their endpoints."""

    def l7_proxies(self) -> tuple[L7ProxyRow, ...]:
        """Return the configured L7 proxies with their addresses."""

    def denials(self) -> tuple[DenialRow, ...]:
        """Return about the last fifty denials that differ, newest first."""

    def denials_lost(self) -> tuple[LostRow, ...]:
        """Return which kinds of denials there were more of."""

    def outcomes(self) -> Mapping[str, int]:
        """Return how many connections have ended since the start, by outcome."""

    def config_dump(self) -> Mapping[str, object]:
        """Return the configuration in force, and when it was loaded; no secrets."""

    def process(self) -> ProcessFacts:
        """Return what this process runs."""
