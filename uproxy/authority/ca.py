"""A development CA: it keeps one signing key in memory and issues SVIDs and CRLs.

Not for production: nothing is stored or audited, and callers are hardly attested.  Rules: a
private key leaves the process only in the message that delivers its SVID; certificates obey
the X509-SVID standard (X5-1, X5-5, X5-7 to X5-13) and are backdated by some seconds, as
SPIRE's are, because clocks differ.  The time is passed in as `now`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATE = timedelta(seconds=10)
_MAX_COMMON_NAME_DOMAIN = 40  # a common name has at most 64 characters (X.520)


@dataclass(frozen=True, slots=True)
class IssuedSvid:
    """One SVID with its chain and private key, as the Workload API delivers it."""

    spiffe_id: str
    chain: tuple[x509.Certificate, ...]
    """Leaf first, then the intermediate, if any."""
    key: bytes = field(repr=False)
    """PKCS#8 DER."""

    @property
    def leaf(self) -> x509.Certificate:
        """The workload's own certificate."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class Revoked:
    """One revoked certificate."""

    serial: int
    at: datetime
    not_after: datetime
    """When the certificate expires; from then on it may be left off the CRL."""


class Signer:
    """A root CA and, with `with_intermediate`, one intermediate CA that signs in its place."""

    def __init__(
        self, trust_domain: str, now: datetime, lifetime: timedelta, *, with_intermediate: bool
    ) -> None:
        self.not_after = now + lifetime
        self.half_life = now + lifetime / 2
        self._uri = f"spiffe://{trust_domain}"
        root_key = ec.generate_private_key(ec.SECP256R1())
        name = self._name(trust_domain, "root")
        self.root = self._certify_ca(name, root_key.public_key(), now, (name, root_key), None)
        self._key, self._issuer = root_key, self.root
        self._intermediates: tuple[x509.Certificate, ...] = ()
        if with_intermediate:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._issuer = self._certify_ca(
                self._name(trust_domain, "intermediate"),
                self._key.public_key(), now, (name, root_key), 0,
            )  # fmt: skip
            self._intermediates = (self._issuer,)

    def issue(self, spiffe_id: str, now: datetime, lifetime: timedelta) -> IssuedSvid:
        """Make a key pair and a certificate that is valid for `lifetime`, but not longer than
        the CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "uProxy development")])
        builder = (
            self._builder(subject, key.public_key(), spiffe_id, now)
            .issuer_name(self._issuer.subject)
            .not_valid_after(min(now + lifetime, self.not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(_authority_key_id(self._key), critical=False)
        )  # fmt: skip
        leaf = builder.sign(self._key, hashes.SHA256())
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return IssuedSvid(spiffe_id, (leaf, *self._intermediates), der)

    def revocation_list(
        self, revoked: Iterable[Revoked], number: int, now: datetime, lifetime: timedelta
    ) -> bytes:
        """Return a signed CRL (DER) of the `revoked` certificates.

        `number` is the CRL number, which must grow from one CRL to the next.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._issuer.subject)
            .last_update(now - BACKDATE)
            .next_update(now + lifetime)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(_authority_key_id(self._key), critical=False)
        )
        for one in revoked:
            entry = x509.RevokedCertificateBuilder(one.serial, one.at)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _certify_ca(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey],
        path_length: int | None,
    ) -> x509.Certificate:
        """Return a CA certificate for `public_key`, signed by `issuer` (its name and key)."""
        issuer_name, issuer_key = issuer
        builder = (
            self._builder(subject, public_key, self._uri, now)
            .issuer_name(issuer_name)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(_usage(is_ca=True), critical=True)
            .add_extension(_authority_key_id(issuer_key), critical=False)
        )
        return builder.sign(issuer_key, hashes.SHA256())

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, uri: str, now: datetime
    ) -> x509.CertificateBuilder:
        """Return a certificate builder with what every certificate here has in common."""
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    @staticmethod
    def _name(trust_domain: str, part: str) -> x509.Name:
        """Return a CA's distinguished name."""
        # the serial number keeps the names of an old and a new CA apart during a rotation
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "uProxy development"),
                x509.NameAttribute(
                    NameOID.COMMON_NAME, f"{trust_domain[:_MAX_COMMON_NAME_DOMAIN]} {part}"
                ),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{x509.random_serial_number():x}"),
            ]
        )


def _authority_key_id(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    """Return the key usage of a CA (signs certificates and CRLs) or a leaf (digital signature)."""
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
