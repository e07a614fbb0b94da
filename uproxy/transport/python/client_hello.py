"""Tells when a ClientHello is complete, without an SSL object: pure.

A client that sends its ClientHello slowly costs its descriptor and the bytes received, no slot of
`limits.handshakes_in_flight`; each byte is examined once, however many pieces and records it comes
in.  A record that can't be part of a ClientHello is refused at its header; bytes that aren't TLS
count as complete, so that OpenSSL reports what is wrong with them.
"""

from __future__ import annotations

import enum
from typing import Final

MAX_HELLO: Final = 28 * 1024
"""Bytes; a longer one counts as complete, and OpenSSL refuses it."""

_MAX_RECORD: Final = 16 * 1024
"""Bytes of content (RFC 8446 section 5.1)."""

_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_TLS_MAJOR: Final = 3
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_SSL_LIBRARY: Final = 20 << 23


class Fault(enum.Enum):
    """Why a record can't be part of a ClientHello: the alert's number, OpenSSL's error code."""

    UNEXPECTED_MESSAGE = (10, _SSL_LIBRARY | 244)
    RECORD_OVERFLOW = (22, _SSL_LIBRARY | 146)

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
            missing = _MESSAGE_HEADER - len(self._begin)
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
    return Fault.UNEXPECTED_MESSAGE if begin and begin[0] != _CLIENT_HELLO else None


def _is_whole(begin: bytes, size: int) -> bool:
    """Whether `size` bytes are a whole message; `begin`: its first bytes, 4 at most."""
    if len(begin) < _MESSAGE_HEADER:
        return False
    return size >= _MESSAGE_HEADER + int.from_bytes(begin[1:], "big")
