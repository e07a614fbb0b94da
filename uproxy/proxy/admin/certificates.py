"""Describes credentials as rows for /certs and the status page; never with a key."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509

from uproxy.identity.credentials import Credentials, Svid
from uproxy.proxy.admin.facts import CertificateRow, Certificates, CrlRow, SvidRow, TrustDomainRow
from uproxy.spiffe.bundles import Bundle
from uproxy.spiffe.encoding import serial_text


def describe(
    credentials: Credentials, status: Mapping[str, object], own: str | None
) -> Certificates:
    """Describe these credentials.  The trust domain `own` comes first, the others by name.

    Args:
        status: `IdentitySource.status`.
        own: the trust domain of our last SVID, expired or not; None if there never was one.
    """
    svid = credentials.svid
    names = sorted(credentials.bundles, key=lambda name: (name != own, name))
    return Certificates(
        svid=_own(svid) if svid else None,
        reason=credentials.reason,
        source=status,
        trust_domains=tuple(_trust_domain(credentials.bundles[name], own) for name in names),
    )


def _own(svid: Svid) -> SvidRow:
    return SvidRow(
        spiffe_id=svid.spiffe_id,
        not_before=svid.not_before,
        expires=svid.not_after,
        hint=svid.hint,
        chain=tuple(_certificate(certificate) for certificate in svid.chain),
    )


def _trust_domain(bundle: Bundle, own: str | None) -> TrustDomainRow:
    return TrustDomainRow(
        name=bundle.trust_domain,
        own=None if own is None else bundle.trust_domain == own,
        roots=tuple(_certificate(root) for root in bundle.roots),
        crls=tuple(_crl(crl) for crl in bundle.crls),
    )


def _certificate(certificate: x509.Certificate) -> CertificateRow:
    return CertificateRow(
        subject=certificate.subject.rfc4514_string(),
        serial=serial_text(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _crl(crl: x509.CertificateRevocationList) -> CrlRow:
    return CrlRow(crl.issuer.rfc4514_string(), crl.next_update_utc, len(crl))
