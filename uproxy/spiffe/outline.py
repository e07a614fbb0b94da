"""What the search for a path needs of a certificate, read from its DER without making objects.

A stranger's certificates may be as large as `spiffe.presented` allows.  Decoding all their names
and extensions would cost more than the signature that refuses them, so they are decoded when a root
leads to them, and compared as bytes until then.  Nothing here decides that a certificate is good:
path validation compares names by its own rules.  Pure.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from uproxy.spiffe import encoding

_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_BOOLEAN: Final = 0x01
_SEQUENCE: Final = b"\x30"
_OCTETS: Final = 0x04
_KEY_IDENTIFIER: Final = 0x80
_URI: Final = 0x86
"""Tags of DER: in a certificate, in an AuthorityKeyIdentifier, in a GeneralName."""

_STANDARD: Final = b"\x06\x03\x55\x1d"
"""What the object identifiers of RFC 5280's extensions begin with, in DER; one byte follows."""
_SUBJECT_KEY: Final = 14
_ALTERNATIVE_NAMES: Final = 17
_BASIC_CONSTRAINTS: Final = 19
_AUTHORITY_KEY: Final = 35
"""That byte (RFC 5280 section 4.2.1)."""

_TRUE: Final = b"\x01\x01\xff"

_ALIKE: Final = bytes.maketrans(b"\x13\x14\x16\x1a\x12", b"\x0c" * 5)
"""PrintableString, T61String, IA5String, VisibleString and NumericString become UTF8String: a CA
may write its name as one in its own certificate, and as another in those that it signs."""


class Outline:
    """A certificate.  Two are equal only if they are the same object."""

    __slots__ = (
        "_algorithm_at", "_end", "_extensions", "_key_at", "_key_end", "certificate", "der",
        "issuer", "subject",
    )  # fmt: skip

    def __init__(self, der: bytes, certificate: x509.Certificate | None = None) -> None:
        """`certificate` is the same in cryptography's form, where that is known.

        Raises:
            BundleError: damaged.
        """
        self.der = der
        # it checks the structure that is relied on below
        self.certificate = encoding.outline(der) if certificate is None else certificate
        signed = _content(der, 0)
        self._end = _after(der, signed)
        at = _content(der, signed)
        at = _after(der, at) if der[at] == _VERSION else at
        self._algorithm_at = _after(der, at)  # behind the serial number
        issuer = _after(der, self._algorithm_at)
        validity = _after(der, issuer)
        subject = _after(der, validity)
        key = _after(der, subject)
        self.issuer = der[issuer:validity].translate(_ALIKE)
        """Equal to the `subject` of whoever may have signed it."""
        self.subject = der[subject:key].translate(_ALIKE)
        self._key_at, self._key_end = key, _after(der, key)
        self._extensions: dict[int, bytes] | None = None  # not read yet

    @property
    def key(self) -> bytes:
        """Its public key with the algorithm (SubjectPublicKeyInfo)."""
        return self.der[self._key_at : self._key_end]

    def may_have_signed(self, other: Outline) -> bool:
        """Return whether its key is of the kind that makes signatures like that of `other`."""
        mine = _kind(self.der, _content(self.der, self._key_at))
        return mine == _kind(other.der, other._algorithm_at)

    @property
    def signer_key(self) -> bytes | None:
        """The identifier that it gives for its signer's key; None: it gives none."""
        value = self._extension(_AUTHORITY_KEY)
        if len(value) < 2 or value[:1] != _SEQUENCE:
            return None
        return _octets(value[_content(value, 0) :], _KEY_IDENTIFIER)

    @property
    def own_key(self) -> bytes | None:
        """The identifier of its key; None: it has none."""
        return _octets(self._extension(_SUBJECT_KEY), _OCTETS)

    @property
    def is_ca(self) -> bool:
        """Whether its basicConstraints say that it is a CA."""
        value = self._extension(_BASIC_CONSTRAINTS)
        return value[:1] == _SEQUENCE and value[2:5] == _TRUE

    @property
    def uris(self) -> list[bytes]:
        """Its URI names, as far as they can be read."""
        names, found = self._extension(_ALTERNATIVE_NAMES), []
        try:
            at = _content(names, 0)
            while at < len(names):
                start, size = at, names[at + 1]
                # most are short, and there may be many
                at = at + 2 + size if size < 0x80 else _after(names, at)
                if names[start] == _URI:
                    found.append(names[_content(names, start) : at])
        except IndexError:
            pass  # it is cut off, or there is no such extension
        return found

    def _extension(self, number: int) -> bytes:
        """Return the DER of an extension's value; empty where there is no such extension."""
        if self._extensions is None:
            self._extensions = self._read_extensions()
        return self._extensions.get(number, b"")

    def _read_extensions(self) -> dict[int, bytes]:
        """Return the values of RFC 5280's extensions, by the last number of their identifiers."""
        found: dict[int, bytes] = {}
        der, at = self.der, self._key_end
        while at < self._end and der[at] != _EXTENSIONS:
            at = _after(der, at)  # unique identifiers, which nobody uses
        if at == self._end:
            return found
        end, at = _after(der, at), _content(der, _content(der, at))
        while at < end:
            name, at = _content(der, at), _after(der, at)
            if der.startswith(_STANDARD, name):
                number, value = der[name + 4], name + 5
                value = _after(der, value) if der[value] == _BOOLEAN else value
                found.setdefault(number, der[_content(der, value) : at])
        return found


def _content(der: bytes, at: int) -> int:
    """Return the offset of the content of the value at `at`."""
    size = der[at + 1]
    return at + 2 if size < 0x80 else at + 2 + (size & 0x7F)


def _after(der: bytes, at: int) -> int:
    """Return the offset behind the value at `at`."""
    size = der[at + 1]
    if size < 0x80:
        return at + 2 + size
    start = at + 2 + (size & 0x7F)
    return start + int.from_bytes(der[at + 2 : start], "big")


def _kind(der: bytes, at: int) -> bytes:
    """Return how the object identifier of the AlgorithmIdentifier at `at` begins: alike for RSA's
    keys and signatures (PKCS #1), for those of elliptic curves (X9.62), and for each Edwards curve,
    whose key and signature have one identifier (RFC 8410)."""
    name = _content(der, at)
    start = _content(der, name)
    return der[start : min(start + 5, _after(der, name))]


def _octets(value: bytes, tag: int) -> bytes | None:
    """Return the content of a value of less than 128 bytes with this tag; None: it isn't one."""
    if len(value) < 2 or value[0] != tag or not 0 < value[1] < 0x80:
        return None
    return value[2 : 2 + value[1]]
