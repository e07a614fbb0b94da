"""Builds the Workload API messages that each caller receives from all trust domains.

Pure: `server` knows who calls and when to send again.  Rules: a message always holds the full
set (WA-4); workloads get the bundles of the domains theirs federates with, each under its own
name (FE-2); a caller that matches no entry gets nothing, not even a bundle.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.authority.definition import CallingProcess, Definition
from uproxy.authority.domain import Domain
from uproxy.spiffe.workload_messages import (
    WireSvid,
    X509BundlesResponse,
    X509SvidResponse,
    encode_bundles_response,
    encode_svid_response,
)


class DomainSet:
    """All trust domains of the authority."""

    def __init__(self, definition: Definition, now: datetime) -> None:
        self.domains = {name: Domain(one, now) for name, one in definition.trust_domains.items()}

    def apply(self, definition: Definition, now: datetime) -> None:
        """Apply a changed definition to each trust domain; the set of domains never changes."""
        for name, domain in self.domains.items():
            domain.apply(definition.trust_domains[name], now)

    def tick(self, now: datetime) -> None:
        """Do what is due in each trust domain."""
        for domain in self.domains.values():
            domain.tick(now)

    def due(self) -> datetime:
        """Return when `tick` must be called next."""
        return min(domain.due() for domain in self.domains.values())

    def svids(self, trust_domain: str, caller: CallingProcess) -> bytes | None:
        """Return the encoded X509SVIDResponse for this process; None: no entry matches it."""
        domain = self.domains[trust_domain]
        found = domain.svids_for(caller)
        if not found:
            return None
        svids = tuple(
            WireSvid(svid.spiffe_id, _chain(svid.chain), svid.key, domain.bundle, entry.hint)
            for entry, svid in found
        )
        federated = tuple((f"spiffe://{other.definition.name}", other.bundle)
                          for other in self._federated(domain))  # fmt: skip
        return encode_svid_response(X509SvidResponse(svids, self._crls(domain), federated))

    def bundles(self, trust_domain: str, caller: CallingProcess) -> bytes | None:
        """Return the encoded X509BundlesResponse for this process; None: no entry matches it."""
        domain = self.domains[trust_domain]
        if not domain.svids_for(caller):
            return None
        bundles = tuple((f"spiffe://{one.definition.name}", one.bundle)
                        for one in self.seen_from(domain))  # fmt: skip
        return encode_bundles_response(X509BundlesResponse(self._crls(domain), bundles))

    def seen_from(self, domain: Domain) -> tuple[Domain, ...]:
        """Return the trust domains whose bundles this one's workloads get: itself first."""
        return domain, *self._federated(domain)

    def _federated(self, domain: Domain) -> list[Domain]:
        return [self.domains[name] for name in domain.definition.federates_with]

    def _crls(self, domain: Domain) -> tuple[bytes, ...]:
        return tuple(crl for one in self.seen_from(domain) for crl in one.crls)


def _chain(certificates: tuple[x509.Certificate, ...]) -> bytes:
    return b"".join(one.public_bytes(Encoding.DER) for one in certificates)
