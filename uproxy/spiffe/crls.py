"""Certificate revocation lists: which kinds can be applied, to whom, and what they say.

A CRL can only take trust away, so what is signed by the issuer's key is applied whether or
not the issuer may sign CRLs; what can't be understood in full is refused when it is read.
It knows no time: whether a CRL is stale is the verifier's to say.  Source: RFC 5280 §5 and
§6.3; SPIFFE says nothing on CRLs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from uproxy.errors import BundleError
from uproxy.spiffe.encoding import UNREADABLE, first_line

_UNDERSTOOD = (x509.AuthorityKeyIdentifier, x509.CRLNumber, x509.AuthorityInformationAccess)


@dataclass(frozen=True, slots=True)
class Revocations:
    """What an issuer's newest CRL says."""

    serials: frozenset[int]
    next_update: datetime
    """UTC; past it nothing is known about this issuer's certificates."""


def check_usable(crl: x509.CertificateRevocationList) -> None:
    """Refuse a CRL that says more, or less, than uProxy would apply.

    Raises:
        BundleError: delta, indirect or partial; no nextUpdate; an unknown critical extension.
    """
    try:
        # cryptography reads lazily: what is damaged shall show now, not in a handshake
        _ = crl.issuer, crl.last_update_utc
        extensions = [*crl.extensions]
        for entry in crl:
            _check_entry(entry)
        next_update = crl.next_update_utc
    except UNREADABLE as error:
        raise BundleError(f"a CRL can't be read: {first_line(error)}") from error
    for extension in extensions:
        _check_extension(extension)
    if next_update is None:
        raise BundleError("a CRL has no nextUpdate, so nobody could tell that it is stale")


def issued_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether `issuer` (name and key) signed `crl`."""
    if crl.issuer != issuer.subject:
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # a key of a kind that can't sign raises TypeError
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def newest_revocations(
    issuer: x509.Certificate, crls: Iterable[x509.CertificateRevocationList]
) -> Revocations | None:
    """What `issuer`'s newest CRL among `crls` says; None when it signed none of them."""
    signed = [crl for crl in crls if issued_by(crl, issuer)]
    if not signed:
        return None
    newest = max(signed, key=lambda crl: crl.last_update_utc)
    serials = frozenset(entry.serial_number for entry in newest)
    # check_usable let no CRL in without nextUpdate
    return Revocations(serials, newest.next_update_utc or newest.last_update_utc)


def _check_extension(extension: x509.Extension[x509.ExtensionType]) -> None:
    match extension.value:
        case x509.DeltaCRLIndicator():
            raise BundleError("a delta CRL; only complete CRLs are applied")
        case x509.IssuingDistributionPoint():
            raise BundleError("an indirect or partial CRL; only complete CRLs are applied")
        case value if extension.critical and not isinstance(value, _UNDERSTOOD):
            raise BundleError(
                f"a CRL has the unknown critical extension {extension.oid.dotted_string}"
            )


def _check_entry(entry: x509.RevokedCertificate) -> None:
    _ = entry.serial_number
    for extension in entry.extensions:
        match extension.value:
            case x509.CertificateIssuer():
                raise BundleError("an indirect CRL; only complete CRLs are applied")
            case x509.CRLReason(reason=x509.ReasonFlags.remove_from_crl):
                raise BundleError("a delta CRL; only complete CRLs are applied")
            case x509.CRLReason() | x509.InvalidityDate():
                pass
            case _ if extension.critical:
                oid = extension.oid.dotted_string
                raise BundleError(f"a CRL entry has the unknown critical extension {oid}")
