"""What gRPC puts around messages: the length prefix, the status and its percent-encoding.

No HTTP/2 here and no I/O; client and development authority share it.  Source: gRPC's
"gRPC over HTTP2" (PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import enum
from urllib.parse import quote, unquote

from uproxy.errors import MessageError

SERVICE = "/SpiffeWorkloadAPI/"
"""The path of every Workload API method begins with it (the proto has no package)."""
SECURITY_HEADER = "workload.spiffe.io"
"""Must be `true` in every request (WE-2), against requests forged through other services."""
CONTENT_TYPE = "application/grpc"

_PREFIX_BYTES = 5
_UNESCAPED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""Printable ASCII but for the percent sign travels as it is."""


class Status(enum.IntEnum):
    """The gRPC status codes this API uses."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14


def frame(message: bytes) -> bytes:
    """Prefix one uncompressed message with its length."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def encode_text(text: str) -> str:
    """Percent-encode a `grpc-message`."""
    return quote(text, safe=_UNESCAPED)


def decode_text(text: str) -> str:
    """Decode a `grpc-message` into one printable line; what can't be decoded is replaced."""
    decoded = unquote(text, errors="replace")
    return "".join(sign if sign.isprintable() else " " for sign in decoded)


class MessageReader:
    """Cuts a stream of bytes into messages, holding at most one unfinished message."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; return the messages they complete.

        Raises:
            MessageError: a message is compressed (nobody asked for that) or too large; the
                stream can't be read any further.
        """
        self._buffer += data
        messages = []
        while (message := self._maybe_next()) is not None:
            messages.append(message)
        return messages

    def _maybe_next(self) -> bytes | None:
        if len(self._buffer) < _PREFIX_BYTES:
            return None
        end = _PREFIX_BYTES + int.from_bytes(self._buffer[1:_PREFIX_BYTES], "big")
        if self._buffer[0] != 0:
            raise MessageError("a gRPC message is compressed, which nobody asked for")
        if end > _PREFIX_BYTES + self._max_bytes:
            raise MessageError(f"a gRPC message of {end - _PREFIX_BYTES} bytes is larger than "
                               f"{self._max_bytes}")  # fmt: skip
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_PREFIX_BYTES:end])
        del self._buffer[:end]
        return message
