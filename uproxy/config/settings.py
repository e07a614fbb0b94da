"""The parsed configuration: one immutable tree of validated values.

Durations are in seconds, sizes in bytes, addresses parsed.  The field names are the keys of the
file.  `uproxy.config.load` is the only way from text to these objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from types import MappingProxyType

from uproxy.model import (
    Address,
    Host,
    Limits,
    ListenAddress,
    TcpAddress,
    Timeouts,
    TlsSettings,
    Transport,
    TunnelSettings,
    UnixAddress,
)

Network = IPv4Network | IPv6Network

HBONE_PORT = 15008
"""Where tunnels end unless the configuration says otherwise; Istio's port."""
ALL_PORTS = "all"
"""The value of an inbound door's `ports` that opens every port."""


@dataclass(frozen=True, slots=True)
class FilesIdentity:
    """`identity.files`: paths, resolved against the configuration's folder."""

    svid: str
    key: str
    bundles: Mapping[str, str]
    """The path of the bundle, by trust domain."""
    crls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Where our identity comes from: exactly one of `workload_api` and `files` is set."""

    workload_api: UnixAddress | TcpAddress | None = None
    files: FilesIdentity | None = None
    spiffe_id: str | None = None
    hint: str | None = None
    on_expiry: str = "keep"
    on_distrust: str = "close"
    revocation_grace: float = 30.0


@dataclass(frozen=True, slots=True)
class InboundSettings:
    """A door at which other workloads connect."""

    name: str
    """As configured; else the listen address."""
    listen: ListenAddress
    transport: Transport
    to: Address | Host | None = None
    """The application.  With hbone a host, or None: the one that a tunnel names is dialled.  With
    `captured` likewise: the original destination is."""
    ports: tuple[int, ...] | str | Mapping[int, Transport] = ()
    """With hbone: the ports of the application that a tunnel may name, or ALL_PORTS.  With
    `captured`: what callers speak, by the port of the original destination."""
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    """With hbone: addresses of this workload besides the one at which a tunnel arrives."""
    alpn: tuple[str, ...] = ()
    proxy_protocol: str | None = None
    mode: int | None = None
    """The permission bits of a unix socket; None: what the umask leaves."""
    owner: str | None = None
    """The owner of a unix socket: `user`, `user:group` or numbers."""
    captured: bool = False
    """Whether capture brings connections here.  `transport` is then mtls if any port's is."""
    migrate: tuple[int, ...] = ()
    """With `captured`: the ports at which plaintext is admitted beside mtls."""
    preserve_source: bool = False
    """With `captured`: whether the application sees its callers' own addresses."""

    def transport_at(self, port: int | None) -> Transport:
        """Return what callers speak that connect to a port of the application; plaintext at one
        that a door with `captured` doesn't list."""
        if not isinstance(self.ports, Mapping):
            return self.transport
        return self.ports.get(port or 0, Transport.PLAINTEXT)

    @property
    def tls_ports(self) -> frozenset[int] | None:
        """With `captured`: the ports at which callers make a handshake; None: at every one."""
        if not isinstance(self.ports, Mapping):
            return None
        return frozenset(port for port, how in self.ports.items() if how.is_mutual_tls)

    @property
    def leads_to(self) -> str:
        """Where connections go, for people: `127.0.0.1:8080`, or `ports 8080, 5432`."""
        if isinstance(self.ports, Mapping):
            ports = ", ".join(f"{port} {how}" for port, how in self.ports.items())
            words = f"ports {ports}"
            return words if self.to is None else f"{self.to}, {words}"
        if self.transport is not Transport.HBONE:
            return str(self.to)
        ports = self.ports if isinstance(self.ports, str) else ", ".join(map(str, self.ports))
        words = "all ports" if ports == ALL_PORTS else f"ports {ports}"
        return words if self.to is None else f"{self.to}, {words}"


@dataclass(frozen=True, slots=True)
class OutboundSettings:
    """A door at which this workload connects."""

    listen: ListenAddress
    to: str | None = None
    """A key of `destinations`; None at a door with `captured`."""
    expose: bool = False
    mode: int | None = None
    owner: str | None = None
    """The owner of a unix socket: `user`, `user:group` or numbers."""
    captured: bool = False
    """Whether capture brings connections here; each goes where its original destination says."""


EVERYWHERE: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """Which captured connections go to a destination, by the address they were made to."""

    addresses: tuple[Network, ...] = EVERYWHERE
    """Without IPv4-mapped ones."""
    ports: tuple[int, ...] = ()
    """Empty: all."""


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """Where outbound connections go, and the identities expected there."""

    name: str
    addresses: tuple[Address, ...]
    """The application's; empty: a captured connection goes to the address it was made to."""
    transport: Transport
    identities: tuple[str, ...] = ()
    """Patterns of SPIFFE IDs; empty only for plaintext."""
    alpn: tuple[str, ...] = ()
    idle: float | None = None
    """Overrides `timeouts.idle`."""
    server_name: str | None = None
    """SNI to each address; None: the name in the address, if it has one, and none with hbone."""
    hbone_address: TcpAddress | None = None
    """Where tunnels to all addresses end; None: at `hbone_port` of each."""
    hbone_port: int | None = None
    """None: HBONE_PORT."""
    via: str | None = None
    """The key of `l7_proxies` through which connections go; None: straight there."""
    match: MatchSettings | None = None
    """The captured connections that come here; None: none does."""

    @property
    def tunnel_end(self) -> TcpAddress | int:
        """Where tunnels end: an address, or the port of each address's host."""
        return self.hbone_address or self.hbone_port or HBONE_PORT


@dataclass(frozen=True, slots=True)
class L7EndpointSettings:
    """One of the shared Envoys of an entry of `l7_proxies`."""

    address: TcpAddress
    draining: bool = False
    """Whether it gets no new streams."""


@dataclass(frozen=True, slots=True)
class L7HealthSettings:
    """How the health of a shared Envoy is asked: GET in clear at its own host."""

    port: int
    path: str = "/ready"
    interval: float = 5.0


@dataclass(frozen=True, slots=True)
class L7ProxySettings:
    """Shared Envoys, each as good as the other, through which destinations are reached."""

    name: str
    addresses: tuple[L7EndpointSettings, ...]
    identities: tuple[str, ...]
    """Patterns of SPIFFE IDs: who may answer."""
    when_unavailable: str = "refuse"
    """`refuse`, or `bypass`: straight to the destination."""
    health: L7HealthSettings | None = None


@dataclass(frozen=True, slots=True)
class InboundTrustSettings:
    """Shared Envoys that may say for whom they connect to this workload."""

    name: str
    """What `via` in rules calls them."""
    identities: tuple[str, ...]
    """Their SPIFFE IDs."""
    speaks_for: tuple[str, ...]
    """Patterns of the SPIFFE IDs of callers for whom they may connect."""
    require_proof: bool = False
    """Whether the caller's JWT-SVID for this workload must come along."""


@dataclass(frozen=True, slots=True)
class RuleFrom:
    """The callers that a rule matches; an empty tuple means that the field is absent."""

    any: bool = False
    unauthenticated: bool = False
    identities: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    cidrs: tuple[Network, ...] = ()
    via: tuple[str, ...] = ()
    not_identities: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    not_cidrs: tuple[Network, ...] = ()
    not_via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleTo:
    """The targets that a rule matches; an empty tuple means that the field is absent."""

    ports: tuple[int, ...] = ()
    addresses: tuple[Network, ...] = ()
    inbound: tuple[str, ...] = ()
    not_ports: tuple[int, ...] = ()
    not_addresses: tuple[Network, ...] = ()
    not_inbound: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """One authorization rule."""

    name: str
    action: str
    """`allow` or `deny`."""
    from_: RuleFrom
    to: RuleTo = RuleTo()
    mode: str = "enforce"
    """`enforce` or `shadow`."""


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The addresses of the admin listeners; None switches one off."""

    listen: ListenAddress | None = TcpAddress("127.0.0.1", 15000)
    metrics: ListenAddress | None = TcpAddress("127.0.0.1", 15020)
    ready: ListenAddress | None = TcpAddress("::", 15021)
    """The kubelet probes from outside the pod, over IPv4 or IPv6."""
    mode: int | None = None
    """The permission bits of those that are unix sockets; None: what the umask leaves."""
    owner: str | None = None
    """Their owner: `user`, `user:group` or numbers."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged on standard output."""

    level: str = "info"
    format: str = "json"
    """`json` or `text`."""
    access: str = "all"
    """`all`, `denied` or `none`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    identity: IdentitySettings
    name: str = "uproxy"
    inbound: tuple[InboundSettings, ...] = ()
    outbound: tuple[OutboundSettings, ...] = ()
    destinations: Mapping[str, DestinationSettings] = field(
        default_factory=lambda: MappingProxyType({})
    )
    l7_proxies: Mapping[str, L7ProxySettings] = field(default_factory=lambda: MappingProxyType({}))
    inbound_trust: Mapping[str, InboundTrustSettings] = field(
        default_factory=lambda: MappingProxyType({})
    )
    authorization: tuple[RuleSettings, ...] = ()
    on_policy_change: str = "close"
    tls: TlsSettings = TlsSettings()
    hbone: TunnelSettings = TunnelSettings()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    engine: str = "native"
    workers: int | None = None
    """Threads of the native engine; None: as many as processors may be used, 4 at most."""
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
