"""Bytes into HTTP/2 frames, and frames into bytes (RFC 9113 §4, §6).

The splitter holds no more than one incomplete frame, and refuses one that is too long when its
header is there.  The functions that read a payload raise what the section of its type says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from uproxy.hbone.codes import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    PADDED,
    PREFACE,
    PRIORITY,
    ErrorCode,
    FrameType,
    Setting,
    TunnelError,
)

_SHOWN_BYTES = 24
"""Of what isn't HTTP/2, for people to recognize what it is."""


class Frame(NamedTuple):
    """One frame as it was received; the bit that is reserved in its header is cut off."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Splitter:
    """What a peer sends, cut into frames."""

    def __init__(self, *, server: bool) -> None:
        self._pending = bytearray()
        self._preface = len(PREFACE) if server else 0
        """Bytes of the client's preface that are to come."""
        self._first = True

    def split(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Yield the frames that are complete with `data`; all of them must be taken.

        Raises:
            TunnelError: This isn't HTTP/2, or a frame is longer than we accept.
        """
        pending = self._pending
        pending += data
        at = self._after_preface()
        while len(pending) - at >= HEADER_BYTES:
            length = int.from_bytes(pending[at : at + 3], "big")
            kind, flags = pending[at + 3], pending[at + 4]
            self._check(length, kind, flags)
            end = at + HEADER_BYTES + length
            if len(pending) < end:
                break
            stream = int.from_bytes(pending[at + 5 : at + 9], "big") & MAX_STREAM_ID
            payload = bytes(memoryview(pending)[at + HEADER_BYTES : end])
            at = end
            yield Frame(kind, flags, stream, payload)
        del pending[:at]

    def _after_preface(self) -> int:
        """Return where the first frame begins, as far as the preface is there."""
        begun = len(PREFACE) - self._preface
        said = bytes(self._pending[: self._preface])
        if said != PREFACE[begun : begun + len(said)]:
            raise TunnelError(ErrorCode.PROTOCOL_ERROR, _not_http2(PREFACE[:begun] + said))
        self._preface -= len(said)
        return len(said)

    def _check(self, length: int, kind: int, flags: int) -> None:
        if self._first:
            if kind != FrameType.SETTINGS or flags & ACK:
                reason = _not_http2(bytes(self._pending[:_SHOWN_BYTES]))
                raise TunnelError(ErrorCode.PROTOCOL_ERROR, reason)
            self._first = False
        if length > MAX_FRAME_BYTES:
            reason = f"a frame has {length} bytes, and may have {MAX_FRAME_BYTES}"
            raise TunnelError(ErrorCode.FRAME_SIZE_ERROR, reason)


def _not_http2(said: bytes) -> str:
    return f"the peer doesn't speak HTTP/2: it began with {said[:_SHOWN_BYTES]!r}"


def content(frame: Frame) -> bytes:
    """Return the payload of DATA or HEADERS without padding and priority.

    Raises:
        TunnelError: The padding is longer than the frame (§6.1, §6.2), or the priority isn't there.
    """
    payload, flags = frame.payload, frame.flags
    if not flags & (PADDED | PRIORITY):
        return payload
    begin, end = 0, len(payload)
    if flags & PADDED:
        begin, end = 1, end - (payload[0] if payload else 0)
    if flags & PRIORITY and frame.kind == FrameType.HEADERS:
        begin += 5
    if begin > len(payload):
        reason = f"{name(frame)} is shorter than its flags say"
        raise TunnelError(ErrorCode.FRAME_SIZE_ERROR, reason)
    if begin > end:
        raise TunnelError(ErrorCode.PROTOCOL_ERROR, f"the padding of {name(frame)} is too long")
    return payload[begin:end]


def check_place(frame: Frame) -> None:
    """Check that a frame is on the kind of stream that is right for its type, and its length.

    Raises:
        TunnelError: It concerns a stream and names none, or the other way round; or its length is
            wrong, and what it says is lost with it.
    """
    kind, length = frame.kind, len(frame.payload)
    if kind in _OF_STREAMS and not frame.stream:
        raise TunnelError(ErrorCode.PROTOCOL_ERROR, f"{name(frame)} on stream 0")
    if kind in _OF_TUNNELS and frame.stream:
        raise TunnelError(ErrorCode.PROTOCOL_ERROR, f"{name(frame)} on a stream")
    if not _is_long_enough(kind, length):
        raise TunnelError(ErrorCode.FRAME_SIZE_ERROR, f"{name(frame)} of {length} bytes")


def _is_long_enough(kind: int, length: int) -> bool:
    if kind == FrameType.GOAWAY:
        return length >= _GOAWAY_BYTES
    return length == _LENGTHS.get(kind, length)


_OF_STREAMS = frozenset(
    {FrameType.DATA, FrameType.HEADERS, FrameType.PRIORITY, FrameType.RST_STREAM,
     FrameType.PUSH_PROMISE, FrameType.CONTINUATION}
)  # fmt: skip
_OF_TUNNELS = frozenset({FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY})
_LENGTHS: dict[int, int] = {FrameType.RST_STREAM: 4, FrameType.PING: 8, FrameType.WINDOW_UPDATE: 4}
_GOAWAY_BYTES = 8


def name(frame: Frame) -> str:
    """Return what the type of a frame is called."""
    known = frame.kind <= FrameType.CONTINUATION
    return FrameType(frame.kind).name if known else f"a frame of type {frame.kind}"


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return (setting, value) in the order of SETTINGS, also those that aren't known.

    Raises:
        TunnelError: Part of a setting is missing (§6.5).
    """
    if len(payload) % _SETTING.size:
        reason = f"SETTINGS of {len(payload)} bytes are cut off"
        raise TunnelError(ErrorCode.FRAME_SIZE_ERROR, reason)
    return list(_SETTING.iter_unpack(payload))


def read_number(payload: bytes) -> int:
    """Return the 31 bits of a WINDOW_UPDATE, or with which GOAWAY begins."""
    return int.from_bytes(payload[:4], "big") & MAX_STREAM_ID


def read_code(payload: bytes) -> ErrorCode:
    """Return the error code of an RST_STREAM."""
    return ErrorCode.of(int.from_bytes(payload, "big"))


_HEAD = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the 9 bytes before a payload (§4.1)."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return head(len(payload), kind, flags, stream) + payload


def headers(stream: int, block: bytes, *, end: bool) -> bytes:
    """Return a header block as HEADERS and as many CONTINUATIONs as it takes."""
    kind, flags, made = FrameType.HEADERS, END_STREAM if end else 0, b""
    while len(block) > MAX_FRAME_BYTES:
        made += frame(kind, flags, stream, block[:MAX_FRAME_BYTES])
        kind, flags, block = FrameType.CONTINUATION, 0, block[MAX_FRAME_BYTES:]
    return made + frame(kind, flags | END_HEADERS, stream, block)


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """Return the frame that ends a stream at once."""
    return frame(FrameType.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings(values: Iterable[tuple[Setting, int]]) -> bytes:
    """Return SETTINGS with such values."""
    payload = b"".join(_SETTING.pack(setting, value) for setting, value in values)
    return frame(FrameType.SETTINGS, 0, 0, payload)


SETTINGS_ACK = frame(FrameType.SETTINGS, ACK, 0)
"""Says that the peer's SETTINGS are in force."""


def ping(payload: bytes, *, ack: bool) -> bytes:
    """Return a PING, or the answer to one."""
    return frame(FrameType.PING, ACK if ack else 0, 0, payload)


def go_away(last_stream: int, code: ErrorCode, debug: str) -> bytes:
    """Return GOAWAY: streams above `last_stream` were not, and are not, looked at."""
    payload = struct.pack(">LL", last_stream, code) + debug.encode()
    return frame(FrameType.GOAWAY, 0, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    """Return the permission to send `increment` bytes more; on stream 0, on the tunnel."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))
