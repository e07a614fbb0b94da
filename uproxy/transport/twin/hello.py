"""Whether a ClientHello is all there, without an SSL object: pure.

A caller that trickles its hello costs its descriptor and these bytes, no handshake's slot;
each byte is looked at once, however many pieces and records it comes in.  Nothing is judged
here: what isn't the beginning of TLS counts as complete, so that OpenSSL says what is wrong
with it.
"""

from __future__ import annotations

from typing import Final

MAX_HELLO: Final = 28 * 1024
"""Bytes; a longer one is OpenSSL's to refuse."""

_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4


class Hello:
    """A ClientHello on its way (RFC 8446 §5.1, §4)."""

    __slots__ = ("_at", "_begin", "_size", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self._at = 0  # where the record begins that isn't all there
        self._begin = b""  # the message's header, out of the records before
        self._size = 0  # bytes of the message in those records

    def feed(self, data: bytes) -> bool:
        """Add what came; whether it is a whole ClientHello now, or can't become one."""
        self.received += data
        while (record := self._next_record()) is not None:
            length, there = record
            start = self._at + _RECORD_HEADER
            missing = _MESSAGE_HEADER - len(self._begin)
            begin = self._begin + bytes(self.received[start : start + min(there, missing)])
            if length == 0 or _is_whole(begin, self._size + there):
                return True
            if there < length:
                break
            self._begin = begin
            self._size += length
            self._at = start + length
        return self._is_strange() or len(self.received) >= MAX_HELLO

    def _next_record(self) -> tuple[int, int] | None:
        """The length of the record's content, and how much of it is there."""
        if self._is_strange() or len(self.received) < self._at + _RECORD_HEADER:
            return None
        length = int.from_bytes(self.received[self._at + 3 : self._at + _RECORD_HEADER], "big")
        return length, min(length, len(self.received) - self._at - _RECORD_HEADER)

    def _is_strange(self) -> bool:
        return self._at < len(self.received) and self.received[self._at] != _HANDSHAKE_RECORD


def _is_whole(begin: bytes, size: int) -> bool:
    """Whether `size` bytes are all of the message that begins so, or it is another one."""
    if begin and begin[0] != _CLIENT_HELLO:
        return True
    if len(begin) < _MESSAGE_HEADER:
        return False
    return size >= _MESSAGE_HEADER + int.from_bytes(begin[1:], "big")
