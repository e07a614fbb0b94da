"""This workload's SVID and the bundles that it trusts, at one moment: an immutable snapshot.

A source (Workload API or files) replaces the whole snapshot; handshakes take the one that
is current when they start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.jwt_bundles import JwtBundle

NO_JWT_BUNDLES: Mapping[str, JwtBundle] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Svid:
    """Our own X509-SVID."""

    spiffe_id: str
    chain: tuple[x509.Certificate, ...]
    """Leaf first, then intermediates."""
    key: PrivateKeyTypes = field(repr=False)
    hint: str = ""

    @property
    def not_before(self) -> datetime:
        """UTC."""
        return self.chain[0].not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """The earliest in the chain, UTC."""
        return min(certificate.not_valid_after_utc for certificate in self.chain)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A snapshot.  Without an SVID no handshake is made; without a bundle for a trust domain
    no peer of that domain is trusted."""

    svid: Svid | None
    reason: str
    """Why there is no SVID, in words; empty when there is one."""
    bundles: Mapping[str, Bundle]
    """Trust domain name to its bundle (roots and CRLs), never pooled."""
    generation: int
    """Grows when bundles or CRLs change, and only then: peers are then verified again."""
    jwt_bundles: Mapping[str, JwtBundle] = field(default_factory=lambda: NO_JWT_BUNDLES)
    """Trust domain name to the keys of its JWT-SVIDs; empty unless they are wanted
    (`IdentitySource.want_jwt_bundles`)."""


class IdentitySource(Protocol):
    """Where credentials come from."""

    @property
    def current(self) -> Credentials:
        """The snapshot to use for a handshake that starts now."""

    @property
    def status(self) -> Mapping[str, object]:
        """Facts for /certs and the status page: source, state, last error in words, counters
        (`rotations`, `reconnects`, `discarded_messages`, `revocations`) ; never a key."""

    def subscribe(self, changed: Callable[[Credentials, Credentials], None]) -> None:
        """Call `changed(before, after)` on every replacement, on the event loop's thread."""

    def want_jwt_bundles(self, wanted: bool) -> None:
        """Provide `Credentials.jwt_bundles` from now on, or none; before `start` too."""

    async def start(self) -> None:
        """Begin to watch; returns at once, an identity may come later."""

    async def stop(self) -> None: ...
