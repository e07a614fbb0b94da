"""Whether a ClientHello is all there, without an SSL object: pure.

A caller that trickles its hello costs its descriptor and these bytes, no handshake's slot;
each byte is looked at once, however many pieces and records it comes in.  A record that can't be
one of a ClientHello is refused at its header; what isn't TLS at all counts as complete, so that
OpenSSL says what is wrong with it.
"""

from __future__ import annotations

import enum
from typing import Final

MAX_HELLO: Final = 28 * 1024
"""Bytes; a longer one is OpenSSL's to refuse."""

_MAX_RECORD: Final = 16 * 1024
"""Bytes of content (RFC 8446 section 5.1)."""

_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_TLS_MAJOR: Final = 3
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_SSL_LIBRARY: Final = 20 << 23


class Fault(enum.Enum):
    """What a record is that can't be one of a ClientHello: the alert, and OpenSSL's error code."""

    UNEXPECTED_MESSAGE = (10, _SSL_LIBRARY | 244)
    RECORD_OVERFLOW = (22, _SSL_LIBRARY | 146)

    @property
    def alert(self) -> bytes:
        """A fatal alert in the clear (RFC 8446 sections 5.1 and 6)."""
        return bytes((21, 3, 3, 0, 2, 2, self.value[0]))

    @property
    def code(self) -> int:
        """For its words."""
        return self.value[1]


class Hello:
    """A ClientHello on its way (RFC 8446 §5.1, §4)."""

    __slots__ = ("_at", "_begin", "_size", "fault", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self.fault: Fault | None = None
        """Why it is refused."""
        self._at = 0  # where the record begins that isn't all there
        self._begin = b""  # the message's header, out of the records before
        self._size = 0  # bytes of the message in those records

    def feed(self, data: bytes) -> bool:
        """Add what came; whether it is a whole ClientHello now, or can't become one."""
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
    """Of a record of this type and length, in which or before which the message begins so."""
    if kind != _HANDSHAKE_RECORD or length == 0:
        return Fault.UNEXPECTED_MESSAGE
    if length > _MAX_RECORD:
        return Fault.RECORD_OVERFLOW
    return Fault.UNEXPECTED_MESSAGE if begin and begin[0] != _CLIENT_HELLO else None


def _is_whole(begin: bytes, size: int) -> bool:
    """Whether `size` bytes are all of the message that begins so."""
    if len(begin) < _MESSAGE_HEADER:
        return False
    return size >= _MESSAGE_HEADER + int.from_bytes(begin[1:], "big")
