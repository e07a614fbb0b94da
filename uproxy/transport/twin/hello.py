"""Whether a ClientHello is all there, without an SSL object: pure.

A caller that trickles its hello costs its descriptor and these bytes, no handshake's slot.
Nothing is judged here: what isn't the beginning of TLS counts as complete, so that OpenSSL
says what is wrong with it.
"""

from __future__ import annotations

from typing import Final

MAX_HELLO: Final = 64 * 1024
"""Bytes; a longer one is OpenSSL's to refuse."""

_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4


def is_complete(received: bytes | bytearray) -> bool:
    """Whether `received` holds a whole ClientHello, or can't become one (RFC 8446 §5.1, §4)."""
    message = bytearray()
    at = 0
    while at < len(received):
        if received[at] != _HANDSHAKE_RECORD:
            return True
        header = received[at : at + _RECORD_HEADER]
        if len(header) < _RECORD_HEADER:
            break
        length = int.from_bytes(header[3:5], "big")
        message += received[at + _RECORD_HEADER : at + _RECORD_HEADER + length]
        if length == 0 or _has_hello(message):
            return True
        at += _RECORD_HEADER + length
    return len(received) >= MAX_HELLO


def _has_hello(message: bytearray) -> bool:
    if message and message[0] != _CLIENT_HELLO:
        return True
    if len(message) < _MESSAGE_HEADER:
        return False
    return len(message) >= _MESSAGE_HEADER + int.from_bytes(message[1:4], "big")
