"""Values that all parts of uProxy share: enums, addresses, limits, configuration mistakes.

States, metrics, logs, configuration and tests all use these names.  Nothing here does I/O,
reads a clock or imports another module of uProxy.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address


class Direction(enum.StrEnum):
    """Which way a connection goes, seen from the workload that this uProxy serves."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Transport(enum.StrEnum):
    """What uProxy and its peer speak with each other."""

    PLAINTEXT = "plaintext"
    MTLS = "mtls"
    HBONE = "hbone"
    """HTTP/2 CONNECT over mutual TLS: each connection is a stream of a tunnel."""
    PASSTHROUGH = "passthrough"
    """Whatever the application and its caller speak, TLS of their own say; only at doors that
    capture brings connections to."""

    @property
    def is_mutual_tls(self) -> bool:
        """Whether the peer is verified by its certificate."""
        return self in (Transport.MTLS, Transport.HBONE)


class Role(enum.StrEnum):
    """Which part the verified peer played in the TLS handshake."""

    CLIENT = "client"
    SERVER = "server"


class Outcome(enum.StrEnum):
    """How a connection ended."""

    CLOSED = "closed"
    PROBED = "probed"
    RESET = "reset"
    DRAINED = "drained"
    TIMED_OUT = "timed_out"
    LIMIT = "limit"
    NO_DESTINATION = "no_destination"
    CONNECT_FAILED = "connect_failed"
    HANDSHAKE_FAILED = "handshake_failed"
    PEER_UNTRUSTED = "peer_untrusted"
    PEER_UNEXPECTED = "peer_unexpected"
    PEER_REFUSED = "peer_refused"
    DENIED = "denied"
    POLICY_CHANGED = "policy_changed"
    IDENTITY_EXPIRED = "identity_expired"
    IDENTITY_DISTRUSTED = "identity_distrusted"
    NO_IDENTITY = "no_identity"
    L7_UNAVAILABLE = "l7_unavailable"
    L7_REFUSED = "l7_refused"

    @property
    def is_failure(self) -> bool:
        """Whether somebody was refused, cut or not reached; not for an end that an application or
        the network made."""
        return self not in _ORDINARY

    @property
    def flag(self) -> str:
        """The response flag in metrics, Istio's where one exists; `-` for an ordinary end."""
        return _FLAGS.get(self, "-")


_ORDINARY = frozenset(
    {Outcome.CLOSED, Outcome.PROBED, Outcome.RESET, Outcome.DRAINED, Outcome.TIMED_OUT}
)
_FLAGS = {
    Outcome.TIMED_OUT: "DURATION",
    Outcome.LIMIT: "OVERFLOW",
    Outcome.NO_DESTINATION: "NO_ROUTE",
    Outcome.CONNECT_FAILED: "CONNECT",
    Outcome.HANDSHAKE_FAILED: "TLS_FAILURE",
    Outcome.PEER_UNTRUSTED: "TLS_FAILURE",
    Outcome.PEER_UNEXPECTED: "IDENTITY_ERROR",
    Outcome.PEER_REFUSED: "PEER_REFUSED",
    Outcome.DENIED: "DENY",
    Outcome.POLICY_CHANGED: "DENY",
    Outcome.IDENTITY_EXPIRED: "IDENTITY_ERROR",
    Outcome.IDENTITY_DISTRUSTED: "CERT_REVOKED",
    Outcome.NO_IDENTITY: "IDENTITY_ERROR",
    Outcome.L7_UNAVAILABLE: "CONNECT",
    Outcome.L7_REFUSED: "DENY",
}


class Alert(enum.Enum):
    """The TLS alerts with which a peer's certificate can be refused (RFC 8446 §6.2)."""

    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    UNKNOWN_CA = 48


@dataclass(frozen=True, slots=True)
class Claim:
    """What a certificate that was refused says of itself.  None of it is proven."""

    spiffe_id: str | None
    """None: it names none, or not as a leaf may."""
    serial: str
    """In hexadecimal, of bounded length."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """`host:port`; `host` is an IP literal without brackets, or a name to be resolved."""

    host: str
    port: int

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The IP address; None when `host` is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Host:
    """A host without a port: an IP literal without brackets, or a name to be resolved."""

    name: str

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The IP address; None when it is a name."""
        return TcpAddress(self.name, 0).ip

    def at(self, port: int) -> TcpAddress:
        """Return the address of a port there."""
        return TcpAddress(self.name, port)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The absolute path of a unix socket, written `unix:///path`."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """A socket opened by systemd, named by its `FileDescriptorName=`, written `systemd:NAME`."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


Address = TcpAddress | UnixAddress
ListenAddress = TcpAddress | UnixAddress | SystemdAddress


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in the configuration, described so that it can be corrected."""

    path: str
    """The path of the setting: `destinations.orders-db.identities[0]`."""
    reason: str
    """What is wrong and what would be right, in lower case."""
    value: str | None = None
    """The value as written; None for a missing key, or if it may be secret."""
    line: int | None = None
    """1-based; None if the value came from the environment or --set."""
    column: int | None = None
    """1-based."""
    nearest: str | None = None
    """The valid key most similar to the unknown one; None if none is similar."""
    file: str | None = None
    """The name of the file, for people; None: not known, or it wasn't written in a file."""

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self._place}: {self._what}"
        where = "" if self.line is None else f" (line {self.line}, column {self.column})"
        return self._said(where)

    def in_file(self, name: str) -> Mistake:
        """Return the same mistake with the file's name, if it has a line."""
        return self if self.line is None else replace(self, file=name)

    def labelled(self, severity: str) -> str:
        """Return the line for a terminal, as compilers write it and editors read it:
        `orders.yaml:4:25: error: …`, or `uproxy: error: …` for what isn't in a file."""
        return f"{'uproxy' if self.file is None else self._place}: {severity}: {self._what}"

    @property
    def _place(self) -> str:
        parts = (self.file, self.line, self.column)
        return ":".join(str(part) for part in parts if part is not None)

    @property
    def _what(self) -> str:
        return self._said("")

    def _said(self, where: str) -> str:
        hint = "" if self.nearest is None else f"; did you mean {self.nearest!r}?"
        if self.file is not None and not self.path and self.value is None:
            return f"{self.reason}{hint}"  # about the file, which is named already
        value = "" if self.value is None else f" = {self.value!r}"
        return f"{self.path or 'the configuration'}{value}{where}: {self.reason}{hint}"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What may be negotiated in a handshake; the defaults are those of the configuration."""

    min_version: str = "1.3"
    groups: tuple[str, ...] = ("X25519MLKEM768", "X25519", "P-256")
    ciphers: tuple[str, ...] = (
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    )


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """How tunnels (HBONE) are used; the defaults are those of the configuration."""

    max_streams: int = 1024
    """Streams that a peer may have open on a tunnel to us."""
    streams_per_connection: int = 100
    """Streams that we have open on a tunnel of ours; the next one dials another."""
    stream_window: int = 256 * 1024
    """Bytes that a peer may send on a stream before they are consumed, at first."""
    connection_window: int = 1024 * 1024
    """Bytes that a peer may send on all streams of a tunnel before they are consumed, at first."""
    idle: float = 300.0
    """Seconds after which a tunnel without streams is closed; 0: never."""
    keepalive: float = 30.0
    """Seconds in which a peer with streams says nothing, after which it is asked whether it is
    there (PING), and then those for its answer; 0: it isn't asked."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 switches a timeout off."""

    handshake: float = 5.0
    connect: float = 5.0
    half_close: float = 60.0
    """From the last byte relayed, once one side has finished sending."""
    idle: float = 3600.0
    drain_delay: float = 5.0
    """From SIGTERM until listeners close; included in `drain`."""
    drain: float = 25.0
    """From SIGTERM until open connections are cut (Kubernetes kills after 30 s)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum counts; 0 switches `per_source_connections` off."""

    connections: int = 20_000
    handshakes_in_flight: int = 512
    per_source_connections: int = 0
