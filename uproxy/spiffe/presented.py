"""What a peer may present as its certificates: read from its Certificate message, and bounded.

Whoever has no identity may send anything, and reading it costs us: so much is looked at here,
before anything is spent on it, that the rest costs no more than an ordinary handshake.  Bounds
are far above what SVIDs need, post-quantum keys and signatures included
(docs/reference/spiffe-rules.md, UP-1).  The compiled engine does the same in C
(`transport/native/presented.pxd`); the words for both are here.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from uproxy.errors import UntrustedError
from uproxy.model import Alert

MAX_CHAIN: Final = 10
"""Certificates a peer may present; what ztunnel and OpenSSL's depth allow is of this order."""
MAX_CHAIN_BYTES: Final = 64 * 1024
"""All of them together."""
MAX_PARTS: Final = 200
"""ASN.1 values in one certificate; an SVID has a hundred, and one more for each further name."""
MAX_NAME_PARTS: Final = 80
"""Of these, in its subject or its issuer: twenty attributes; reading one costs the most of all."""
MAX_EXTENSIONS: Final = 20
"""In one certificate; SVIDs have six, and certificates of public CAs ten."""
MAX_TEXT: Final = 8 * 1024
"""Bytes of one certificate beside its key and its signature: names and extensions."""
MAX_KEY: Final = 4 * 1024
"""Bytes of one certificate's public key; ML-DSA-87's has 2.6 KiB."""
MAX_CLIENT_HELLO: Final = 8 * 1024
"""Bytes of a client's hello; with three hybrid key shares it has 5 KiB."""
MAX_REQUEST: Final = 16 * 1024
"""Bytes of a server's CertificateRequest, which may name authorities."""

CLIENT_HELLO: Final = 1
CERTIFICATE: Final = 11
CERTIFICATE_REQUEST: Final = 13
SERVER_HELLO_DONE: Final = 14
HELLOS: Final = (1, 2)
"""Kinds of handshake messages: a client's and a server's hello."""
HEADER: Final = 4
"""Bytes before a handshake message's body."""

MAX_DEPTH: Final = 24
_UNKNOWN_EXTENSION: Final = b"\xfa\xfa"
"""No extension will ever have this number: it is reserved (RFC 8701)."""


class Excess(IntEnum):
    """What a peer presented too much of."""

    CERTIFICATES = 1
    BYTES = 2
    PARTS = 3
    TEXT = 4
    KEY = 5
    MESSAGE = 6
    REQUEST = 7
    NOT_DER = 8
    NAME = 9
    EXTENSIONS = 10


_WORDS: Final = {
    Excess.CERTIFICATES: f"{{}} certificates; at most {MAX_CHAIN} are read",
    Excess.BYTES: f"certificates of {{}} bytes; at most {MAX_CHAIN_BYTES} are read",
    Excess.PARTS: f"a certificate of more than {MAX_PARTS} parts: fewer names and extensions",
    Excess.NAME: f"a certificate with a name of more than {MAX_NAME_PARTS // 4} attributes",
    Excess.EXTENSIONS: f"a certificate of {{}} extensions; at most {MAX_EXTENSIONS} are read",
    Excess.TEXT: f"a certificate with {{}} bytes of names and extensions; at most {MAX_TEXT} are"
    " read",
    Excess.KEY: f"a certificate with a public key of {{}} bytes; at most {MAX_KEY} are read",
    Excess.MESSAGE: "a handshake message of more than 100 KiB, most likely its certificates",
    Excess.REQUEST: f"a CertificateRequest of {{}} bytes; at most {MAX_REQUEST} are read",
}


def refusal(excess: int, found: int) -> UntrustedError:
    """Return the refusal of a peer that presented too much; `found` is how much there was."""
    kind = Excess(excess)
    if kind is Excess.NOT_DER:
        words = "the peer sent what is no certificate"
        return UntrustedError("X5-14", words, Alert.BAD_CERTIFICATE)
    words = _WORDS[kind].format(found)
    return UntrustedError("UP-1", f"the peer sent {words}", Alert.BAD_CERTIFICATE)


class NotAMessageError(Exception):
    """The message isn't built as RFC 8446 §4.4.2 or RFC 5246 §7.4.2 say; OpenSSL says so."""


def read_chain(body: bytes, *, is_tls13: bool) -> tuple[bytes, ...]:
    """Return the certificates (DER) of a Certificate message's body, in the order they were sent.

    Raises:
        UntrustedError: UP-1, or X5-14 where one of them isn't DER.
        NotAMessageError: the message can't be read, or has no certificate.
    """
    chain = tuple(_entries(body, is_tls13))
    if not chain:
        raise NotAMessageError
    if len(chain) > MAX_CHAIN:
        raise refusal(Excess.CERTIFICATES, len(chain))
    if len(body) > MAX_CHAIN_BYTES:
        raise refusal(Excess.BYTES, len(body))
    for der in chain:
        _check_certificate(der)
    return chain


def leaf_only(body: bytes) -> bytes | None:
    """Return a TLS 1.3 Certificate message's body, as long as `body`, with its first certificate
    alone: what follows it is an extension of its entry that nobody knows (RFC 8446 §4.4.2).
    OpenSSL then neither reads nor keeps the others.  None where they, or the first itself, are too
    large.  `body` is one that `read_chain` read, or refused as too much."""
    chain = tuple(_entries(body, is_tls13=True))
    try:
        _check_certificate(chain[0])
    except UntrustedError:
        return None
    if len(chain) == 1:
        return body
    start = 1 + 3 + 3 + len(chain[0])
    rest = len(body) - start - 2
    if rest > 0xFFFF:
        return None
    extension = _UNKNOWN_EXTENSION + (rest - 4).to_bytes(2, "big")
    return body[:start] + rest.to_bytes(2, "big") + extension + body[start + 6 :]


def _entries(body: bytes, is_tls13: bool) -> Iterator[bytes]:
    at = 1 if is_tls13 else 0
    if (is_tls13 and body[:1] != b"\0") or _number(body, at, 3) != len(body) - at - 3:
        raise NotAMessageError
    at += 3
    while at < len(body):
        size = _number(body, at, 3)
        start, at = at + 3, at + 3 + size
        if is_tls13:
            at += 2 + _number(body, at, 2)
        if at > len(body):
            raise NotAMessageError
        yield body[start : start + size]


def _number(data: bytes, at: int, size: int) -> int:
    # where it is cut off, what follows it is missing too
    return int.from_bytes(data[at : at + size], "big")


def _check_certificate(der: bytes) -> None:
    try:
        key, text, name, extensions = _sizes(der)
        parts = _count_parts(der)
    except _NotDerError:
        raise refusal(Excess.NOT_DER, 0) from None
    if parts > MAX_PARTS:
        raise refusal(Excess.PARTS, parts)
    if name > MAX_NAME_PARTS:
        raise refusal(Excess.NAME, name)
    if extensions > MAX_EXTENSIONS:
        raise refusal(Excess.EXTENSIONS, extensions)
    if key > MAX_KEY:
        raise refusal(Excess.KEY, key)
    if text > MAX_TEXT:
        raise refusal(Excess.TEXT, text)


# DER, as far as it is needed to see how much there is of it (X.690 section 8.1).


class _NotDerError(Exception):
    pass


_SEQUENCE: Final = 0x30
_OCTETS: Final = 0x04
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_CONSTRUCTED: Final = 0x20
_ISSUER: Final = 2
_SUBJECT: Final = 4
"""Where they are behind the serial number."""


def _header(der: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return a value's tag, the offset of its content, and the offset of its end."""
    if at + 2 > end or der[at] & 0x1F == 0x1F:
        raise _NotDerError
    size, start = der[at + 1], at + 2
    if size >= 0x80:
        count = size - 0x80
        if not 1 <= count <= 3:
            raise _NotDerError
        size, start = int.from_bytes(der[start : start + count], "big"), start + count
    if size > end - start:
        raise _NotDerError
    return der[at], start, start + size


def _sizes(der: bytes) -> tuple[int, int, int, int]:
    """Bytes of the public key, and of all else that the issuer has signed; values in the longer of
    its two names; extensions."""
    tag, at, end = _header(der, 0, len(der))
    signed, at, signed_end = _header(der, at, end)
    if tag != _SEQUENCE or signed != _SEQUENCE or end != len(der):
        raise _NotDerError
    total = signed_end - at
    tag, _, after = _header(der, at, signed_end)
    # behind them: serial, algorithm, issuer, validity, subject
    at = after if tag == _VERSION else at
    fields = []
    for _ in range(5):
        _, _, after = _header(der, at, signed_end)
        fields.append(der[at:after])
        at = after
    names = max(_count_parts(fields[_ISSUER]), _count_parts(fields[_SUBJECT]))
    _, start, key_end = _header(der, at, signed_end)
    key = key_end - start
    return key, total - key, names, _count_extensions(der, key_end, signed_end)


def _count_extensions(der: bytes, at: int, end: int) -> int:
    """Between a certificate's key and the end of what is signed."""
    count = 0
    while at < end:
        tag, start, at = _header(der, at, end)
        if tag == _EXTENSIONS:
            _, start, last = _header(der, start, at)
            while start < last:
                _, _, start = _header(der, start, last)
                count += 1
    return count


def _count_parts(der: bytes) -> int:
    """Return how many values there are, those inside extensions included; counting ends at
    MAX_PARTS + 1."""
    at, parts = 0, 0
    ends, opaque = [len(der)], [False]
    while True:
        while at == ends[-1]:
            ends.pop()
            opaque.pop()
            if not ends:
                return parts
        try:
            tag, start, end = _header(der, at, ends[-1])
            if len(ends) >= MAX_DEPTH:
                raise _NotDerError
        except _NotDerError:
            # octets may be anything, so what began like DER needn't go on like it
            if True not in opaque:
                raise
            while not opaque[-1]:
                ends.pop()
                opaque.pop()
            at = ends[-1]
            continue
        parts += 1
        if parts > MAX_PARTS:
            return parts
        nested = tag == _OCTETS and _is_one_value(der, start, end)
        at = end
        if tag & _CONSTRUCTED or nested:
            ends.append(end)
            opaque.append(nested)
            at = start


def _is_one_value(der: bytes, start: int, end: int) -> bool:
    try:
        return _header(der, start, end)[2] == end
    except _NotDerError:
        return False
