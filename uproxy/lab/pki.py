"""A certificate authority made at run time, whose certificates can have any defect.

`Authority("example.org")` is the CA of a trust domain: `.issue("/ns/web/sa/frontend")` returns a
valid SVID, with keyword arguments (the fields of `Quirks`) an invalid one; `.intermediate()`
returns an authority below it, `.crl([...])` revokes.  Not for production: keys are in memory and
callers aren't authenticated.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from uproxy.contract import OwnSvid
from uproxy.identity.credentials import Svid
from uproxy.spiffe.bundles import Bundle

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
UNKNOWN_OID = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")

_KEY_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True)
class Quirks:
    """The contents of a certificate; a field that is None is left out."""

    uris: tuple[str, ...] | None = None
    """URI SANs; None: the SPIFFE ID of the path.  For no SAN at all see `without_san`."""
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    without_san: bool = False
    san_critical: bool | None = None
    """None: critical if and only if the subject is empty, as the standard demands."""
    subject: str | None = "workload"
    """The common name; None: an empty subject."""
    ca: bool | None = False
    """cA of basicConstraints; None: no basicConstraints."""
    ca_critical: bool = True
    path_length: int | None = None
    key_usage: tuple[str, ...] | None = ("digital_signature",)
    key_usage_critical: bool = True
    eku: tuple[x509.ObjectIdentifier, ...] | None = (SERVER_AUTH, CLIENT_AUTH)
    eku_critical: bool = False
    aki: bool = True
    ski: bool = True
    not_before: datetime | None = None
    """None: a minute before the authority's `now`."""
    not_after: datetime | None = None
    """None: an hour after the authority's `now`."""
    key: str = "p256"
    """p256, p384, p521, p224, secp256k1, rsa2048, rsa1024, dsa, ed25519 or ed448."""
    hash: type[hashes.HashAlgorithm] = hashes.SHA256
    forged: bool = False
    """Whether it is signed with another key than the issuer's."""
    unknown_critical: bool = False
    """Whether it has a critical extension that nobody knows."""
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    """Further extensions, and whether they are critical."""
    permitted: tuple[x509.GeneralName, ...] | None = None
    excluded: tuple[x509.GeneralName, ...] | None = None
    """Name constraints."""
    constraints_critical: bool = True


_LASTS, _LASTS_BY_THE_CLOCK = timedelta(hours=1), timedelta(hours=12)
"""How long what an authority issues lasts, if its `now` was given, or is the clock's: tests that
made it when they were imported may run hours later."""
_CA = Quirks(subject=None, ca=True, key_usage=("key_cert_sign", "crl_sign"), eku=None)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key and its intermediates."""

    chain: tuple[x509.Certificate, ...]
    """Leaf first, without the root."""
    key: CertificateIssuerPrivateKeyTypes

    @property
    def certificate(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def spiffe_id(self) -> str:
        """The first URI SAN."""
        san = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return san.value.get_values_for_type(x509.UniformResourceIdentifier)[0]

    @property
    def der(self) -> tuple[bytes, ...]:
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in self.chain)

    @property
    def own(self) -> OwnSvid:
        """As a handshake shows it; a certificate that is no SVID has no SPIFFE ID."""
        try:
            spiffe_id = self.spiffe_id
        except (x509.ExtensionNotFound, IndexError):
            spiffe_id = ""
        return OwnSvid(spiffe_id, self.der, self.certificate.not_valid_after_utc)

    @property
    def pem(self) -> bytes:
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)

    @property
    def key_der(self) -> bytes:
        """PKCS#8, unencrypted."""
        return private_bytes(self.key, Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        """PKCS#8, unencrypted."""
        return private_bytes(self.key, Encoding.PEM)

    @property
    def svid(self) -> Svid:
        """As an identity source returns it."""
        return Svid(self.spiffe_id, self.chain, self.key)


class Authority:
    """The CA of a trust domain, or an intermediate CA below it."""

    def __init__(
        self, trust_domain: str = "example.org", *, now: datetime | None = None, **quirks: Any
    ) -> None:
        self.trust_domain = trust_domain
        self.now = (now or datetime.now(UTC)).replace(microsecond=0)
        self._ends = self.now + (_LASTS_BY_THE_CLOCK if now is None else _LASTS)
        self.intermediates: tuple[x509.Certificate, ...] = ()
        how = replace(_CA, subject=f"CA of {trust_domain}", uris=(f"spiffe://{trust_domain}",))
        self._how = replace(how, **quirks)
        self.key = make_key(self._how.key)
        self.certificate = self._build(self._how, self.key, None)
        self.root = self.certificate

    def issue(self, path: str = "/ns/default/sa/workload", **quirks: Any) -> Issued:
        """Return an SVID for `path`; `quirks` are fields of Quirks."""
        how = replace(Quirks(uris=(f"spiffe://{self.trust_domain}{path}",)), **quirks)
        key = make_key(how.key)
        return Issued((self._build(how, key, self), *self.intermediates), key)

    def intermediate(self, name: str = "intermediate", **quirks: Any) -> Authority:
        """Return an authority whose certificate this one signs.  Its subject includes its
        depth."""
        child = Authority(self.trust_domain, now=self.now, **{"key": self._how.key, **quirks})
        depth = len(self.intermediates) + 1
        how = replace(
            child._how, subject=quirks.get("subject", f"{name} {depth} of {self.trust_domain}")
        )
        child._how, child._ends = how, self._ends
        child.certificate = self._build(how, child.key, self)
        child.intermediates = (child.certificate, *self.intermediates)
        child.root = self.root
        return child

    def crl(
        self,
        revoked: Iterable[x509.Certificate | Issued] = (),
        *,
        last_update: datetime | None = None,
        next_update: datetime | None = None,
        extensions: Collection[tuple[x509.ExtensionType, bool]] = (),
        entry_extensions: Collection[tuple[x509.ExtensionType, bool]] = (),
        forged: bool = False,
        issuer: x509.Name | None = None,
    ) -> x509.CertificateRevocationList:
        """Return a CRL of this authority, under another name if `issuer` is given; `extensions`
        are (value, critical)."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer or self.certificate.subject)
            .last_update(last_update or self.now - timedelta(minutes=1))
            .next_update(next_update or self._ends)
        )
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        for item in revoked:
            certificate = item.certificate if isinstance(item, Issued) else item
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, self.now)
            for value, critical in entry_extensions:
                entry = entry.add_extension(value, critical)
            builder = builder.add_revoked_certificate(entry.build())
        key = make_key(self._how.key) if forged else self.key
        return builder.sign(key, _hash(key, self._how))

    @property
    def pem(self) -> bytes:
        """The root, as a bundle in PEM."""
        return self.root.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The root, as a bundle in DER."""
        return self.root.public_bytes(Encoding.DER)

    @property
    def jwks(self) -> bytes:
        """The root, as a SPIFFE bundle document."""
        return json.dumps({"keys": [jwk(self.root)]}).encode()

    @property
    def bundle(self) -> Bundle:
        """The root, as the verifier takes it."""
        return Bundle(self.trust_domain, (self.root,))

    def _build(
        self, how: Quirks, key: CertificateIssuerPrivateKeyTypes, issuer: Authority | None
    ) -> x509.Certificate:
        issuer_key = issuer.key if issuer else key
        builder = (
            x509.CertificateBuilder()
            .serial_number(x509.random_serial_number())
            .subject_name(_name(how.subject))
            .issuer_name(issuer.certificate.subject if issuer else _name(how.subject))
            .public_key(key.public_key())
            .not_valid_before(how.not_before or self.now - timedelta(minutes=1))
            .not_valid_after(how.not_after or self._ends)
        )
        for value, critical in _extensions(how, key, issuer_key):
            builder = builder.add_extension(value, critical)
        signer = make_key(issuer._how.key if issuer else how.key) if how.forged else issuer_key
        return builder.sign(signer, _hash(signer, how))


def make_key(kind: str) -> CertificateIssuerPrivateKeyTypes:
    """Return a new private key of one of the kinds listed at `Quirks.key`."""
    curves: dict[str, ec.EllipticCurve] = {
        "p224": ec.SECP224R1(), "p256": ec.SECP256R1(), "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(), "secp256k1": ec.SECP256K1(),
    }  # fmt: skip
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    if kind == "dsa":
        return dsa.generate_private_key(2048)
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def private_bytes(
    key: CertificateIssuerPrivateKeyTypes,
    encoding: Encoding,
    *,
    sec1: bool = False,
    password: bytes | None = None,
) -> bytes:
    """Return a key as PKCS#8, or with `sec1` in the traditional format (SEC1 for elliptic
    curves)."""
    formats = serialization.PrivateFormat
    return key.private_bytes(
        encoding,
        formats.TraditionalOpenSSL if sec1 else formats.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


def jwk(certificate: x509.Certificate, **members: object) -> dict[str, object]:
    """Return the entry of a SPIFFE bundle document for a P-256 certificate; `members` replace
    or add."""
    x5c = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
    entry: dict[str, object] = {"kty": "EC", "crv": "P-256", "use": "x509-svid", "x5c": [x5c]}
    public = certificate.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        numbers = public.public_numbers()
        entry |= {"x": _base64url(numbers.x), "y": _base64url(numbers.y)}
    return entry | members


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


def _name(common_name: str | None) -> x509.Name:
    if common_name is None:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _hash(key: CertificateIssuerPrivateKeyTypes, how: Quirks) -> Any:
    """Return the hash to sign with; None for Edwards curves, which need none."""
    edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return None if edwards else how.hash()


def _extensions(
    how: Quirks,
    key: CertificateIssuerPrivateKeyTypes,
    issuer_key: CertificateIssuerPrivateKeyTypes,
) -> Iterable[tuple[x509.ExtensionType, bool]]:
    if not how.without_san:
        critical = how.subject is None if how.san_critical is None else how.san_critical
        yield x509.SubjectAlternativeName(_names(how)), critical
    if how.ca is not None:
        yield x509.BasicConstraints(how.ca, how.path_length), how.ca_critical
    if how.key_usage is not None:
        usages = {usage: usage in how.key_usage for usage in _KEY_USAGES}
        yield x509.KeyUsage(**usages), how.key_usage_critical
    if how.eku is not None:
        yield x509.ExtendedKeyUsage(how.eku), how.eku_critical
    if how.ski:
        yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    if how.aki:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        yield identifier, False
    if how.unknown_critical:
        yield x509.UnrecognizedExtension(UNKNOWN_OID, b"\x05\x00"), True
    yield from how.extensions
    if how.permitted is not None or how.excluded is not None:
        yield x509.NameConstraints(how.permitted, how.excluded), how.constraints_critical


def _names(how: Quirks) -> list[x509.GeneralName]:
    return [
        *(x509.UniformResourceIdentifier(uri) for uri in how.uris or ()),
        *(x509.DNSName(name) for name in how.dns),
        *(x509.IPAddress(ip_address(text)) for text in how.ips),
        *(x509.RFC822Name(address) for address in how.emails),
    ]
