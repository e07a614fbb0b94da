"""The words: values every floor shares, with no behavior beyond their own validity.

States, outcomes, metrics, logs, configuration and tests all use these names.  Nothing
here does I/O, reads a clock or knows another module.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address


class Direction(enum.StrEnum):
    """Which way a connection goes, seen from this workload."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Transport(enum.StrEnum):
    """What travels between uProxy and the peer."""

    PLAINTEXT = "plaintext"
    MTLS = "mtls"


class Role(enum.StrEnum):
    """Who the verified peer was in the handshake."""

    CLIENT = "client"
    SERVER = "server"


class Outcome(enum.StrEnum):
    """How a connection ended.  `flag` is the response flag in metrics, Istio's where one exists."""

    CLOSED = "closed"
    RESET = "reset"
    DRAINED = "drained"
    TIMED_OUT = "timed_out"
    LIMIT = "limit"
    NO_DESTINATION = "no_destination"
    CONNECT_FAILED = "connect_failed"
    HANDSHAKE_FAILED = "handshake_failed"
    PEER_UNTRUSTED = "peer_untrusted"
    PEER_UNEXPECTED = "peer_unexpected"
    DENIED = "denied"
    POLICY_CHANGED = "policy_changed"
    IDENTITY_EXPIRED = "identity_expired"
    IDENTITY_DISTRUSTED = "identity_distrusted"
    NO_IDENTITY = "no_identity"

    @property
    def flag(self) -> str:
        """The response flag: `-` for an ordinary end."""
        return _FLAGS.get(self, "-")


_FLAGS = {
    Outcome.TIMED_OUT: "DURATION",
    Outcome.LIMIT: "OVERFLOW",
    Outcome.NO_DESTINATION: "NO_ROUTE",
    Outcome.CONNECT_FAILED: "CONNECT",
    Outcome.HANDSHAKE_FAILED: "TLS_FAILURE",
    Outcome.PEER_UNTRUSTED: "TLS_FAILURE",
    Outcome.PEER_UNEXPECTED: "IDENTITY_ERROR",
    Outcome.DENIED: "DENY",
    Outcome.POLICY_CHANGED: "DENY",
    Outcome.IDENTITY_EXPIRED: "IDENTITY_ERROR",
    Outcome.IDENTITY_DISTRUSTED: "CERT_REVOKED",
    Outcome.NO_IDENTITY: "IDENTITY_ERROR",
}


class Alert(enum.Enum):
    """The TLS alerts a refused peer certificate can be answered with (RFC 8446 §6.2)."""

    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    UNKNOWN_CA = 48


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """`host:port`; `host` is an IP literal without brackets, or a name to resolve."""

    host: str
    port: int

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The literal address, or None when `host` is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """An absolute path of a unix socket, written `unix:///path`."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """A socket that systemd opened (`FileDescriptorName=`), written `systemd:NAME`."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


Address = TcpAddress | UnixAddress
ListenAddress = TcpAddress | UnixAddress | SystemdAddress


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with the configuration, told so that it can be mended."""

    path: str
    """Where: `destinations.orders-db.identities[0]`."""
    reason: str
    """What is wrong with it and what would be right, lower-case."""
    value: str | None = None
    """The value as written; None when there is none (a missing key) or it may be secret."""
    line: int | None = None
    """1-based; None when it didn't come from the file (environment, --set)."""
    column: int | None = None
    """1-based."""
    nearest: str | None = None
    """The valid key that the unknown one resembles."""

    def __str__(self) -> str:
        where = self.path or "the configuration"
        place = "" if self.line is None else f" (line {self.line}, column {self.column})"
        value = "" if self.value is None else f" = {self.value!r}"
        hint = "" if self.nearest is None else f"; did you mean {self.nearest!r}?"
        return f"{where}{value}{place}: {self.reason}{hint}"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What may be negotiated; the defaults are the configuration's."""

    min_version: str = "1.3"
    groups: tuple[str, ...] = ("X25519MLKEM768", "X25519", "P-256")
    ciphers: tuple[str, ...] = (
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 is off."""

    handshake: float = 5.0
    connect: float = 5.0
    half_close: float = 60.0
    """From the last byte, once one side has finished sending."""
    idle: float = 3600.0
    drain_delay: float = 5.0
    """How long SIGTERM leaves the doors open; part of `drain`."""
    drain: float = 25.0
    """From SIGTERM until what is left is cut (Kubernetes kills at 30 s)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts; 0 is off for `per_source_connections`."""

    connections: int = 20_000
    handshakes_in_flight: int = 512
    per_source_connections: int = 0
