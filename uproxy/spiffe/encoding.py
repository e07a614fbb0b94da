"""Certificates and CRLs out of bytes: PEM, or DER elements one behind the other.

It decodes and bounds; what the certificates mean is judged elsewhere.  Rules: nothing is
skipped silently except PEM blocks of another kind (a file may hold the key beside the
chain); what is cut off, misspelt or too long is an error.
"""

from __future__ import annotations

import base64
import binascii
import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from uproxy.errors import BundleError

MAX_BYTES = 1 << 20
"""The largest bundle, chain or CRL read: some thousand certificates, or 25,000 revocations."""

UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm,
    x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What cryptography raises, sooner or later, about damaged certificates and CRLs."""

# the body has no hyphen, so that a flood of BEGIN lines costs one pass
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----([^-]*)-----END \1-----")
_PEM_BEGIN = b"-----BEGIN "


def certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Every certificate in `data` (PEM or concatenated DER), in order, at least one.

    Raises:
        BundleError: not certificates, damaged, empty or beyond MAX_BYTES.
    """
    blocks = _elements(data, b"CERTIFICATE")
    if not blocks:
        raise BundleError("it holds no certificate")
    return tuple(certificate(block) for block in blocks)


def certificate(data: bytes) -> x509.Certificate:
    """One certificate from exactly one DER element, with all that is used later readable.

    Raises:
        BundleError: damaged, or with a key or extension cryptography can't read.
    """
    try:
        parsed = x509.load_der_x509_certificate(data)
        # cryptography reads lazily: what is damaged shall show now, not in a handshake
        parsed.public_key()
        _ = parsed.extensions, parsed.subject, parsed.issuer
        # DER knows a year 0, Python doesn't
        _ = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    except UNREADABLE as error:
        raise BundleError(f"a certificate can't be read: {first_line(error)}") from error
    return parsed


def der(parsed: x509.Certificate) -> bytes:
    """The DER of a certificate, as handshakes carry it."""
    return parsed.public_bytes(Encoding.DER)


def revocation_lists(data: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """Every CRL in `data` (PEM or concatenated DER), in order, at least one.

    Raises:
        BundleError: not CRLs, damaged, empty or beyond MAX_BYTES.
    """
    blocks = _elements(data, b"X509 CRL")
    if not blocks:
        raise BundleError("it holds no CRL")
    try:
        return tuple(x509.load_der_x509_crl(block) for block in blocks)
    except UNREADABLE as error:
        raise BundleError(f"a CRL can't be read: {first_line(error)}") from error


def split_der(data: bytes) -> tuple[bytes, ...]:
    """The DER SEQUENCEs that `data` is made of, one behind the other.

    Raises:
        BundleError: anything else, or a rest.
    """
    elements: list[bytes] = []
    start = 0
    while start < len(data):
        end = _element_end(data, start)
        elements.append(data[start:end])
        start = end
    return tuple(elements)


def first_line(error: Exception) -> str:
    """What a library says, short enough for a message of ours."""
    return str(error).partition("\n")[0]


def _elements(data: bytes, label: bytes) -> tuple[bytes, ...]:
    if len(data) > MAX_BYTES:
        raise BundleError(f"{len(data)} bytes; at most {MAX_BYTES} are read")
    return _pem_blocks(data, label) if _PEM_BEGIN in data else split_der(data)


def _pem_blocks(data: bytes, label: bytes) -> tuple[bytes, ...]:
    blocks = [match.groups() for match in _PEM_BLOCK.finditer(data)]
    if len(blocks) != data.count(_PEM_BEGIN):
        raise BundleError("a PEM block is damaged or cut off")
    try:
        return tuple(
            base64.b64decode(b"".join(body.split()), validate=True)
            for name, body in blocks
            if name == label
        )
    except binascii.Error as error:
        raise BundleError(f"a PEM block is not base64: {error}") from error


def _element_end(data: bytes, start: int) -> int:
    """Where the SEQUENCE at `start` ends (X.690 §8.1.3, definite lengths only)."""
    header = data[start : start + 2]
    if len(header) < 2 or header[0] != 0x30:
        raise BundleError("neither PEM nor DER")
    length, body = header[1], start + 2
    if length >= 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[body : body + octets], "big")
        body += octets
        # 0 is the indefinite form; four octets are beyond MAX_BYTES by far
        if not 1 <= octets <= 4:
            raise BundleError("neither PEM nor DER")
    if body + length > len(data):
        raise BundleError("a DER element is cut off")
    return body + length
