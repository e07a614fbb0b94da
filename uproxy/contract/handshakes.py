"""What a TLS handshake is made with, and what it proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from uproxy.model import Role, TlsSettings


@dataclass(frozen=True, slots=True)
class PeerSvid:
    """A peer's identity, verified in the connection's own handshake."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    """DER, leaf first, as validated, without the trust anchor."""
    not_after: datetime
    """When the first certificate of the validated chain expires, UTC."""
    anchor: bytes = b""
    """DER of the root that the chain ended at.  All peers below it share the one object."""


VerifyPeer = Callable[[tuple[bytes, ...]], PeerSvid]
"""Verifies a presented chain (DER, leaf first) during the handshake; raises UntrustedError, or
RefusedError with the outcome `peer_unexpected`."""


next_trust_id: Callable[[], int] = count(1).__next__
"""Returns the next unused `TlsPlan.trust_id`."""


@dataclass(frozen=True, slots=True)
class OwnSvid:
    """The SVID that we show in a handshake, without its key: a connection keeps this, and mustn't
    keep an old key in memory."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    """DER: our SVID and intermediates, leaf first; the trust anchor is not sent."""
    not_after: datetime
    """When the first certificate of the chain expires, UTC."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TlsPlan:
    """Everything a handshake needs.  Plans are compared by identity, and engines cache by them:
    make one per snapshot of credentials, not one per connection."""

    role: Role
    """What *we* are in the handshake."""
    own: OwnSvid
    """What we show."""
    key: PrivateKeyTypes = field(repr=False)
    settings: TlsSettings
    verify: VerifyPeer
    alpn: tuple[str, ...] = ()
    trust_id: int = field(default_factory=next_trust_id)
    """Plans with equal numbers accept the same chains, so an engine may keep a verdict under it.
    A new SVID of ours doesn't change it, new bundles do."""


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What a finished handshake negotiated, as OpenSSL names it."""

    version: str
    cipher: str
    group: str
    duration: float
    """Seconds from the first byte of the ClientHello to the end of the handshake."""

    def __str__(self) -> str:
        return f"{self.version} {self.group} {self.cipher}"
