"""What each caller gets to see: the trust domains of one authority put together.

Pure composition of messages from `domain`s; who is calling and when to look again is
the server's business.  Rules: a message is always the full set (WA-4); a domain's workloads
get the bundles of those domains it federates with, never pooled (FE-2); nobody who matches
no entry gets anything, not even a bundle.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.authority.definition import Caller, Definition
from uproxy.authority.domain import Domain
from uproxy.spiffe.workload_messages import (
    WireSvid,
    X509BundlesResponse,
    X509SvidResponse,
    encode_bundles_response,
    encode_svid_response,
)


class World:
    """Every trust domain of the authority."""

    def __init__(self, definition: Definition, now: datetime) -> None:
        self.domains = {name: Domain(one, now) for name, one in definition.trust_domains.items()}

    def apply(self, definition: Definition, now: datetime) -> None:
        """Take over changed trust domains; which ones exist is settled at start."""
        for name, domain in self.domains.items():
            domain.apply(definition.trust_domains[name], now)

    def tick(self, now: datetime) -> None:
        """Do what is due in every trust domain."""
        for domain in self.domains.values():
            domain.tick(now)

    def due(self) -> datetime:
        """When `tick` has something to do next."""
        return min(domain.due() for domain in self.domains.values())

    def svids(self, trust_domain: str, caller: Caller) -> bytes | None:
        """The X509SVIDResponse for this process; None: no identity issued."""
        domain = self.domains[trust_domain]
        offers = domain.offers(caller)
        if not offers:
            return None
        svids = tuple(
            WireSvid(svid.spiffe_id, _chain(svid.chain), svid.key, domain.bundle, entry.hint)
            for entry, svid in offers
        )
        federated = tuple((f"spiffe://{other.definition.name}", other.bundle)
                          for other in self._federated(domain))  # fmt: skip
        return encode_svid_response(X509SvidResponse(svids, self._crls(domain), federated))

    def bundles(self, trust_domain: str, caller: Caller) -> bytes | None:
        """The X509BundlesResponse for this process; None: no identity issued."""
        domain = self.domains[trust_domain]
        if not domain.offers(caller):
            return None
        bundles = tuple((f"spiffe://{one.definition.name}", one.bundle)
                        for one in (domain, *self._federated(domain)))  # fmt: skip
        return encode_bundles_response(X509BundlesResponse(self._crls(domain), bundles))

    def _federated(self, domain: Domain) -> list[Domain]:
        return [self.domains[name] for name in domain.definition.federates_with]

    def _crls(self, domain: Domain) -> tuple[bytes, ...]:
        return tuple(crl for one in (domain, *self._federated(domain)) for crl in one.crls)


def _chain(certificates: tuple[x509.Certificate, ...]) -> bytes:
    return b"".join(one.public_bytes(Encoding.DER) for one in certificates)
