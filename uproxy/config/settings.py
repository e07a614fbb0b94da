"""The parsed configuration: one immutable tree, valid from birth.

Every duration is in seconds, every size in bytes, every address parsed.  The field names
are the keys of the file.  `load` in `uproxy.config` is the only way text becomes one of
these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType

from uproxy.model import (
    Address,
    Limits,
    ListenAddress,
    TcpAddress,
    Timeouts,
    TlsSettings,
    Transport,
    UnixAddress,
)

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class FilesIdentity:
    """`identity.files`: paths, relative ones resolved against the configuration's folder."""

    svid: str
    key: str
    bundles: Mapping[str, str]
    """Trust domain name to path."""
    crls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Where the workload's identity comes from: exactly one of `workload_api` and `files`."""

    workload_api: UnixAddress | TcpAddress | None = None
    files: FilesIdentity | None = None
    spiffe_id: str | None = None
    hint: str | None = None
    on_expiry: str = "keep"
    on_distrust: str = "close"
    revocation_grace: float = 30.0


@dataclass(frozen=True, slots=True)
class InboundSettings:
    """A door for other workloads."""

    name: str
    """As written, or the listen address."""
    listen: ListenAddress
    transport: Transport
    to: Address
    alpn: tuple[str, ...] = ()
    proxy_protocol: str | None = None
    mode: int | None = None
    """Permission bits of a unix listener."""


@dataclass(frozen=True, slots=True)
class OutboundSettings:
    """A door for this workload."""

    listen: ListenAddress
    to: str
    """A key of `destinations`."""
    expose: bool = False
    mode: int | None = None
    owner: str | None = None
    """`user`, `user:group` or numbers: who may use a unix listener."""


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """Where outbound connections go, and who may answer there."""

    name: str
    addresses: tuple[Address, ...]
    transport: Transport
    identities: tuple[str, ...] = ()
    """Patterns; empty only for plaintext."""
    alpn: tuple[str, ...] = ()
    idle: float | None = None
    """Overrides `timeouts.idle`."""
    server_name: str | None = None
    """SNI to each address; None: the name in the address, if it has one."""


@dataclass(frozen=True, slots=True)
class RuleFrom:
    """The callers a rule speaks of; an empty tuple is an absent field."""

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
    """The targets a rule speaks of; an empty tuple is an absent field."""

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
    """Where uProxy answers its operators; None is off."""

    listen: ListenAddress | None = TcpAddress("127.0.0.1", 15000)
    metrics: ListenAddress | None = TcpAddress("127.0.0.1", 15020)
    ready: ListenAddress | None = TcpAddress("::", 15021)
    """The kubelet probes from outside the pod, over IPv4 or IPv6."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written to standard output."""

    level: str = "info"
    format: str = "json"
    """`json` or `text`."""
    access: str = "all"
    """`all`, `denied` or `none`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration."""

    identity: IdentitySettings
    name: str = "uproxy"
    inbound: tuple[InboundSettings, ...] = ()
    outbound: tuple[OutboundSettings, ...] = ()
    destinations: Mapping[str, DestinationSettings] = field(
        default_factory=lambda: MappingProxyType({})
    )
    authorization: tuple[RuleSettings, ...] = ()
    on_policy_change: str = "close"
    tls: TlsSettings = TlsSettings()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    engine: str = "native"
    workers: int | None = None
    """Threads of the engine; None leaves it to what this machine allows."""
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
