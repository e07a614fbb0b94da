"""Tells when a ClientHello is complete, without an SSL object: pure.

A client that sends its ClientHello slowly costs its descriptor and the bytes received, no slot of
`limits.handshakes_in_flight`; each byte is examined once, however many pieces and records it comes
in.  A record that can't be part of a ClientHello is refused at its header, and so is a ClientHello
that is too long; bytes that aren't TLS count as complete, so that OpenSSL reports what is wrong.
"""

from __future__ import annotations

import enum
from typing import Final

from uproxy.spiffe.presented import CLIENT_HELLO, HEADER, MAX_CLIENT_HELLO

MAX_HELLO: Final = 28 * 1024
"""Bytes received, headers of records included, that count as complete whatever they are; a short
ClientHello in tiny records may come to as many."""

_MAX_RECORD: Final = 16 * 1024
"""Bytes of content (RFC 8446 section 5.1)."""

_HANDSHAKE_RECORD: Final = 22
_TLS_MAJOR: Final = 3
_RECORD_HEADER: Final = 5
_SSL_LIBRARY: Final = 20 << 23


class Fault(enum.Enum):
    """Why a record can't be part of a ClientHello: the alert's number, OpenSSL's error code."""

    UNEXPECTED_MESSAGE = (10, _SSL_LIBRARY | 244)
    RECORD_OVERFLOW = (22, _SSL_LIBRARY | 146)
    ILLEGAL_PARAMETER = (47, _SSL_LIBRARY | 152)

    @property
    def alert(self) -> bytes:
        """The record of a fatal alert, in the clear (RFC 8446 sections 5.1 and 6)."""
        return bytes((21, 3, 3, 0, 2, 2, self.value[0]))

    @property
    def code(self) -> int:
        """OpenSSL's error code, which `libssl.in_words` turns into a TlsError."""
        return self.value[1]


class ClientHello:
    """A ClientHello that is being received (RFC 8446 §5.1, §4)."""

    __slots__ = ("_at", "_begin", "_size", "fault", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self.fault: Fault | None = None
        """Why it is refused, once `feed` has returned True; None: it isn't."""
        self._at = 0  # offset in `received` of the first incomplete record
        self._begin = b""  # of the message's header, what complete records held
        self._size = 0  # bytes of the message in complete records

    def feed(self, data: bytes) -> bool:
        """Add received bytes; return whether it is complete, or can't become a ClientHello."""
        self.received += data
        while len(self.received) - self._at >= _RECORD_HEADER:
            header = self.received[self._at : self._at + _RECORD_HEADER]
            if header[1] != _TLS_MAJOR:
                return True
            length = int.from_bytes(header[3:], "big")
            start = self._at + _RECORD_HEADER
            there = min(length, len(self.received) - start)
            missing = HEADER - len(self._begin)
            begin = self._begin + bytes(self.received[start : start + min(there, missing)])
            self.fault = _fault(header[0], length, begin)
            if self.fault is not None or _is_whole(begin, self._size + there):
                return True
            if there < length:
                break
            self._begin = begin
            self._size += length
            self._at = start + length
        return len(self.received) >= MAX_HELLO


def _fault(kind: int, length: int, begin: bytes) -> Fault | None:
    """Return why a record of this type and length is refused, or None; `begin`: the first bytes of
    the message so far, 4 at most."""
    if kind != _HANDSHAKE_RECORD or length == 0:
        return Fault.UNEXPECTED_MESSAGE
    if length > _MAX_RECORD:
        return Fault.RECORD_OVERFLOW
    if begin and begin[0] != CLIENT_HELLO:
        return Fault.UNEXPECTED_MESSAGE
    return Fault.ILLEGAL_PARAMETER if _size(begin) > MAX_CLIENT_HELLO else None


def _is_whole(begin: bytes, size: int) -> bool:
    """Whether `size` bytes are a whole message; `begin`: its first bytes, 4 at most."""
    return len(begin) == HEADER and size >= _size(begin)


def _size(begin: bytes) -> int:
    """Return the size of the message that begins so; 0 where its header isn't all there."""
    return HEADER + int.from_bytes(begin[1:], "big") if len(begin) == HEADER else 0
