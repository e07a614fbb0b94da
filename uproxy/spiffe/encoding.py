"""Decodes certificates and CRLs from PEM, or from DER elements one behind the other.

It checks form and size; what certificates mean is checked elsewhere.  Rules: PEM blocks of
another kind are skipped (a file may hold the key beside the chain); anything else that is cut
off, damaged or too long is an error.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from uproxy.errors import BundleError

MAX_BYTES = 1 << 20
"""The largest bundle, chain or CRL that is read: some thousand certificates or 25,000
revocations."""

UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm,
    x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What cryptography raises for damaged certificates and CRLs, when loading or later."""

# what is odd about a certificate, a negative serial number for one: whoever calls would write it to
# standard error, as text among the lines of JSON
warnings.filterwarnings("ignore", "Parsed ", CryptographyDeprecationWarning)

# the body has no hyphen, so that many BEGIN lines without END don't make it quadratic
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----([^-]*)-----END \1-----")
_PEM_BEGIN = b"-----BEGIN "


def certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Return all certificates in `data` (PEM or concatenated DER), in order, at least one.

    Raises:
        BundleError: not certificates, damaged, empty, or more than MAX_BYTES.
    """
    blocks = _elements(data, b"CERTIFICATE")
    if not blocks:
        raise BundleError("it holds no certificate")
    return tuple(certificate(block) for block in blocks)


def certificate(data: bytes) -> x509.Certificate:
    """Decode a certificate from exactly one DER element, and every part of it that is used
    later.

    Raises:
        BundleError: damaged, or with a key or extension that cryptography can't read.
    """
    parsed = outline(data)
    decode(parsed)
    return parsed


def outline(data: bytes) -> x509.Certificate:
    """Decode a certificate from exactly one DER element without its key, names and extensions,
    which cost more than all else: for those that may not be needed.

    Raises:
        BundleError: damaged.
    """
    try:
        return x509.load_der_x509_certificate(data)
    except UNREADABLE as error:
        raise BundleError(f"a certificate can't be read: {first_line(error)}") from error


def decode(parsed: x509.Certificate) -> None:
    """Decode every part of a certificate that is used later.

    Raises:
        BundleError: damaged, or with a key or extension that cryptography can't read.
    """
    try:
        # cryptography decodes on first use: damage must be found now, not in a handshake
        parsed.public_key()
        _ = parsed.extensions, parsed.subject, parsed.issuer
        # fails for year 0, which DER allows and Python doesn't
        _ = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    except UNREADABLE as error:
        raise BundleError(f"a certificate can't be read: {first_line(error)}") from error


def der(parsed: x509.Certificate) -> bytes:
    """Return the DER of a certificate."""
    return parsed.public_bytes(Encoding.DER)


def revocation_lists(data: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """Return all CRLs in `data` (PEM or concatenated DER), in order, at least one.

    Raises:
        BundleError: not CRLs, without a readable issuer, empty, or more than MAX_BYTES.
    """
    blocks = _elements(data, b"X509 CRL")
    if not blocks:
        raise BundleError("it holds no CRL")
    try:
        crls = tuple(x509.load_der_x509_crl(block) for block in blocks)
        # cryptography reads lazily: whose it is shall be known
        _ = [crl.issuer for crl in crls]
        return crls
    except UNREADABLE as error:
        raise BundleError(f"a CRL can't be read: {first_line(error)}") from error


def split_der(data: bytes) -> tuple[bytes, ...]:
    """Return the DER SEQUENCEs of which `data` consists.

    Raises:
        BundleError: it has anything else, or its last element is cut off.
    """
    elements: list[bytes] = []
    start = 0
    while start < len(data):
        end = _element_end(data, start)
        elements.append(data[start:end])
        start = end
    return tuple(elements)


def serial_text(certificate: x509.Certificate) -> str:
    """Return the serial number in hexadecimal, two digits for each byte, as `openssl x509 -serial`
    and SPIRE write it, but in lower case."""
    number = certificate.serial_number
    digits = f"{abs(number):x}"
    return f"{'-' if number < 0 else ''}{'0' * (len(digits) % 2)}{digits}"


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message."""
    return str(error).partition("\n")[0]


def _elements(data: bytes, label: bytes) -> tuple[bytes, ...]:
    """Return the DER of each element; of PEM, only of the blocks with this label."""
    if len(data) > MAX_BYTES:
        raise BundleError(f"{len(data)} bytes; at most {MAX_BYTES} are read")
    return _pem_blocks(data, label) if _PEM_BEGIN in data else split_der(data)


def _pem_blocks(data: bytes, label: bytes) -> tuple[bytes, ...]:
    """Return the DER of the PEM blocks with this label; refuse damaged blocks of any label."""
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
    """Return the offset where the SEQUENCE at `start` ends (X.690 §8.1.3, definite lengths
    only)."""
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
