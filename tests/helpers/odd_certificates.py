"""Unusual certificates that exist in practice, made with openssl or by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import NameAttribute
from cryptography.x509.name import _ASN1Type  # there is no other way to choose a kind of string

from uproxy.lab.pki import Authority, Issued, private_bytes


def rsassa_pss(authority: Authority, folder: Path) -> tuple[bytes, bytes]:
    """Return an RSASSA-PSS key and an SVID for it, in PEM; cryptography can't make them."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    uri = f"spiffe://{authority.trust_domain}/ns/default/sa/workload"
    (folder / "extensions").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:{uri}\n"
    )
    (folder / "ca").write_bytes(authority.pem)
    (folder / "ca.key").write_bytes(private_bytes(authority.key, Encoding.PEM))
    openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "pss")
    openssl("req", "-new", "-key", "pss", "-subj", "/CN=workload", "-out", "request")
    openssl(
        "x509", "-req", "-in", "request", "-CA", "ca", "-CAkey", "ca.key", "-days", "1",
        "-extfile", "extensions", "-out", "pss.pem",
    )  # fmt: skip
    return (folder / "pss").read_bytes(), (folder / "pss.pem").read_bytes()


def first_version(authority: Authority) -> x509.Certificate:
    """Return the root of an authority with a P-256 key as X.509 version 1 has it: without a version
    and without extensions."""
    _version, *parts, _extensions = _signed_parts(authority.root)
    return _signed_anew(authority.root, parts, authority.key)


def generalized_time(issued: Issued, issuer: Authority) -> Issued:
    """Return the same certificate with its dates in GeneralizedTime, which RFC 5280 allows from
    2050."""
    leaf, *above = issued.chain
    return Issued((with_generalized_time(leaf, issuer.key), *above), issued.key)


def with_generalized_time(
    certificate: x509.Certificate, signer: CertificateIssuerPrivateKeyTypes
) -> x509.Certificate:
    """The same certificate with other bytes for its dates, signed anew by a P-256 key."""
    parts = _signed_parts(certificate)
    dates = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    # version, serial, algorithm, issuer, validity
    parts[4] = _der(0x30, b"".join(_der(0x18, f"{date:%Y%m%d%H%M%SZ}".encode()) for date in dates))
    return _signed_anew(certificate, parts, signer)


def with_a_broken_extension(
    certificate: x509.Certificate, signer: CertificateIssuerPrivateKeyTypes
) -> x509.Certificate:
    """The same CA certificate, whose basicConstraints are a SET, signed anew by a P-256 key."""
    parts = _signed_parts(certificate)
    good, bad = b"\x30\x03\x01\x01\xff", b"\x31\x03\x01\x01\xff"
    if good not in parts[-1]:
        raise ValueError("no CA without a path length")
    parts[-1] = parts[-1].replace(good, bad)
    return _signed_anew(certificate, parts, signer)


def with_a_broken_name(certificate: x509.Certificate, name: bytes) -> bytes:
    """The same certificate (DER), of which a name isn't UTF-8; its signature is wrong."""
    der = certificate.public_bytes(Encoding.DER)
    if name not in der:
        raise ValueError("no such name")
    return der.replace(name, b"\xff" * len(name))


def with_another_key(
    certificate: x509.Certificate,
    key: CertificatePublicKeyTypes,
    signer: CertificateIssuerPrivateKeyTypes,
) -> x509.Certificate:
    """The same certificate for another key, with the key identifiers that it had."""
    builder = x509.CertificateBuilder(
        certificate.issuer, certificate.subject, key, certificate.serial_number,
        certificate.not_valid_before_utc, certificate.not_valid_after_utc,
        [*certificate.extensions],
    )  # fmt: skip
    return builder.sign(signer, hashes.SHA256())


def with_printable_issuer(
    certificate: x509.Certificate,
    signer: CertificateIssuerPrivateKeyTypes,
    rsa_padding: padding.PSS | None = None,
) -> x509.Certificate:
    """The same certificate with its issuer's name in a PrintableString, where the issuer itself
    has a UTF8String."""
    name = x509.Name(
        [
            NameAttribute(each.oid, each.value, _ASN1Type.PrintableString)
            for each in certificate.issuer
        ]
    )
    builder = x509.CertificateBuilder(
        name, certificate.subject, certificate.public_key(), certificate.serial_number,
        certificate.not_valid_before_utc, certificate.not_valid_after_utc,
        [*certificate.extensions],
    )  # fmt: skip
    # cryptography's types say less than it takes
    algorithm = cast("Any", certificate.signature_hash_algorithm)
    return builder.sign(signer, algorithm, rsa_padding=rsa_padding)


def with_a_key_of_an_unknown_kind(
    certificate: x509.Certificate, signer: CertificateIssuerPrivateKeyTypes
) -> x509.Certificate:
    """The same certificate of a P-256 key, whose kind has a number that nobody knows, signed anew
    by a P-256 key."""
    parts = _signed_parts(certificate)
    kind = bytes.fromhex("06072a8648ce3d0201")
    # version, serial, algorithm, issuer, validity, subject, key
    parts[6] = parts[6].replace(kind, kind[:-1] + b"\x7f")
    return _signed_anew(certificate, parts, signer)


def with_false_written_out(
    certificate: x509.Certificate, signer: CertificateIssuerPrivateKeyTypes
) -> x509.Certificate:
    """The same certificate with a cA FALSE in its basicConstraints, which were empty, signed anew
    by a P-256 key."""
    parts = _signed_parts(certificate)
    extensions = _der_elements(_der_content(_der_content(parts[-1])))
    constraints = bytes.fromhex("0603551d13")
    empty, full = b"\x04\x02\x30\x00", b"\x04\x05\x30\x03\x01\x01\x00"
    extensions = [
        _der(0x30, _der_content(each).replace(empty, full)) if constraints in each else each
        for each in extensions
    ]
    parts[-1] = _der(0xA3, _der(0x30, b"".join(extensions)))
    return _signed_anew(certificate, parts, signer)


def with_its_last_extension_twice(
    certificate: x509.Certificate, signer: CertificateIssuerPrivateKeyTypes
) -> x509.Certificate:
    """The same certificate, signed anew by a P-256 key."""
    parts = _signed_parts(certificate)
    extensions = _der_elements(_der_content(_der_content(parts[-1])))
    parts[-1] = _der(0xA3, _der(0x30, b"".join([*extensions, extensions[-1]])))
    return _signed_anew(certificate, parts, signer)


def _signed_parts(certificate: x509.Certificate) -> list[bytes]:
    return _der_elements(_der_content(certificate.tbs_certificate_bytes))


def serial_that_is_not_positive(
    certificate: x509.Certificate, signer: CertificateIssuerPrivateKeyTypes
) -> bytes:
    """The same certificate (DER) with the serial number -128, which RFC 5280 §4.1.2.2 says to
    expect."""
    return with_serial(certificate, b"\x80", signer)


def with_serial(
    certificate: x509.Certificate, serial: bytes, signer: CertificateIssuerPrivateKeyTypes
) -> bytes:
    """The same certificate (DER) with these bytes of an INTEGER as its serial number."""
    version, _, *rest = _signed_parts(certificate)
    return _der_signed_anew(certificate, [version, _der(0x02, serial), *rest], signer)


def _signed_anew(
    certificate: x509.Certificate, parts: list[bytes], signer: CertificateIssuerPrivateKeyTypes
) -> x509.Certificate:
    return x509.load_der_x509_certificate(_der_signed_anew(certificate, parts, signer))


def _der_signed_anew(
    certificate: x509.Certificate, parts: list[bytes], signer: CertificateIssuerPrivateKeyTypes
) -> bytes:
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("a P-256 key")
    _, algorithm, _ = _der_elements(_der_content(certificate.public_bytes(Encoding.DER)))
    signed = _der(0x30, b"".join(parts))
    signature = signer.sign(signed, ec.ECDSA(hashes.SHA256()))
    return _der(0x30, signed + algorithm + _der(0x03, b"\0" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _der_header(data: bytes) -> tuple[int, int]:
    """Return the offsets where the content of the first element begins and ends."""
    if data[1] < 0x80:
        return 2, 2 + data[1]
    start = 2 + (data[1] & 0x7F)
    return start, start + int.from_bytes(data[2:start], "big")


def _der_content(data: bytes) -> bytes:
    start, end = _der_header(data)
    return data[start:end]


def _der_elements(data: bytes) -> list[bytes]:
    elements = []
    while data:
        _, end = _der_header(data)
        elements.append(data[:end])
        data = data[end:]
    return elements
