"""Certificate revocation lists: which can be applied, to which certificates, and what they revoke.

A CRL can only take trust away, so what is signed by the issuer's key is applied whether or not the
issuer may sign CRLs.  If a CRL of an issuer can't be understood in full, none of its certificates
is trusted.  Whether a CRL is stale is checked by the verifier.  Source: RFC 5280 §5 and §6.3;
SPIFFE says nothing on CRLs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from uproxy.errors import BundleError
from uproxy.spiffe.encoding import UNREADABLE, first_line

_UNDERSTOOD = (
    x509.AuthorityKeyIdentifier, x509.CRLNumber, x509.AuthorityInformationAccess,
    x509.IssuingDistributionPoint,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Revocations:
    """What an issuer's CRLs revoke: of each distribution point the newest one counts."""

    serials: frozenset[int] = frozenset()
    next_updates: tuple[tuple[datetime, bool | None], ...] = ()
    """UTC; behind one of them nothing is known about this issuer's certificates: of leaves where
    the second is True, of CAs where it is False, of all where it is None."""
    problem: str = ""
    """Why a CRL of the issuer can't be applied."""

    def next_update(self, *, is_leaf: bool) -> datetime | None:
        """Return the earliest nextUpdate of the CRLs about leaves, or about CAs."""
        ends = [end for end, leaves in self.next_updates if leaves in (None, is_leaf)]
        return min(ends, default=None)


def why_unusable(crl: x509.CertificateRevocationList) -> str:
    """Return why a CRL can't be applied; empty where it can."""
    try:
        check_usable(crl)
    except BundleError as error:
        return str(error)
    return ""


def check_usable(crl: x509.CertificateRevocationList) -> None:
    """Refuse a CRL of a kind that uProxy doesn't apply in full.

    Raises:
        BundleError: delta, indirect or for some reasons only; no nextUpdate; an unknown critical
            extension.
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


def has_issuers_name(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    """Return whether `certificate` has the name of the CRL's issuer.  Small and capital letters
    and the number of blanks don't count (RFC 5280 §7.1): a CRL that isn't taken for its issuer's
    would revoke nothing."""
    return _folded(crl.issuer) == _folded(certificate.subject)


def _folded(name: x509.Name) -> list[frozenset[tuple[x509.ObjectIdentifier, str]]]:
    return [
        frozenset((each.oid, " ".join(str(each.value).casefold().split())) for each in part)
        for part in name.rdns
    ]


def issued_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Return whether `issuer` (name and key) signed `crl`."""
    if not has_issuers_name(crl, issuer):
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # a key of a kind that can't sign raises TypeError
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def revocations_by(
    issuer: x509.Certificate, crls: Iterable[x509.CertificateRevocationList]
) -> Revocations:
    """Return what those of `crls` revoke that `issuer` signed."""
    newest: dict[x509.IssuingDistributionPoint | None, x509.CertificateRevocationList] = {}
    for crl in crls:
        if not issued_by(crl, issuer):
            continue
        if problem := why_unusable(crl):
            return Revocations(problem=problem)
        point = _distribution_point(crl)
        if point not in newest or crl.last_update_utc > newest[point].last_update_utc:
            newest[point] = crl
    return Revocations(
        frozenset(entry.serial_number for crl in newest.values() for entry in crl),
        tuple(
            # check_usable let no CRL in without nextUpdate
            (crl.next_update_utc or crl.last_update_utc, _only_leaves(point))
            for point, crl in newest.items()
        ),
    )


def _distribution_point(
    crl: x509.CertificateRevocationList,
) -> x509.IssuingDistributionPoint | None:
    try:
        return crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    except x509.ExtensionNotFound:
        return None


def _only_leaves(point: x509.IssuingDistributionPoint | None) -> bool | None:
    """Return True if the CRL is about leaves only, False if about CAs only, None if about all."""
    if point is None or not (point.only_contains_user_certs or point.only_contains_ca_certs):
        return None
    return point.only_contains_user_certs


def _check_extension(extension: x509.Extension[x509.ExtensionType]) -> None:
    match extension.value:
        case x509.DeltaCRLIndicator():
            raise BundleError("a delta CRL; only complete CRLs are applied")
        case x509.IssuingDistributionPoint() as point:
            _check_distribution_point(point)
        case value if extension.critical and not isinstance(value, _UNDERSTOOD):
            raise BundleError(
                f"a CRL has the unknown critical extension {extension.oid.dotted_string}"
            )


def _check_distribution_point(point: x509.IssuingDistributionPoint) -> None:
    if point.indirect_crl:
        raise BundleError("an indirect CRL; only CRLs of their own issuer are applied")
    if point.only_some_reasons is not None:
        raise BundleError("a CRL for some reasons only; only complete CRLs are applied")
    if point.only_contains_attribute_certs:
        raise BundleError("a CRL of attribute certificates; leave it out")


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
