"""What a session has to send: frames in order, with as few DATA frames as possible.

A DATA frame that wasn't taken yet grows by what is sent on its stream right after, and takes the
END_STREAM of its stream; peers charge for small and empty frames (Rust's h2, Envoy).
"""

from __future__ import annotations

from typing import NamedTuple

from uproxy.hbone import frames
from uproxy.hbone.codes import END_STREAM, HEADER_BYTES, MAX_FRAME_BYTES, FrameType

_FLAGS_AT = 4
"""Where the flags are in a frame."""


class _Tail(NamedTuple):
    """The last DATA frame of a stream that wasn't taken yet."""

    begin: int
    end: int


class Output:
    """Bytes that wait to be taken."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.replies = 0
        """How many frames wait that the peer can cause."""
        self._tails: dict[int, _Tail] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._bytes)

    def take(self) -> bytes:
        """Return everything that waits, once."""
        taken = bytes(self._bytes)
        self._bytes.clear()
        self._tails.clear()
        self.replies = 0
        return taken

    def add(self, frame: bytes) -> None:
        """Send a frame after those that wait."""
        self._bytes += frame

    def reply(self, frame: bytes) -> None:
        """Send a frame that the peer causes, or can."""
        self.replies += 1
        self._bytes += frame

    def data(self, stream: int, payload: memoryview) -> int:
        """Send bytes of a stream; return how many DATA frames were begun."""
        at = self._grow(stream, payload)
        begun = 0
        while at < len(payload):
            piece = payload[at : at + MAX_FRAME_BYTES]
            begin = len(self._bytes)
            self._bytes += frames.head(len(piece), FrameType.DATA, 0, stream)
            self._bytes += piece
            self._tails[stream] = _Tail(begin, len(self._bytes))
            at += len(piece)
            begun += 1
        return begun

    def _grow(self, stream: int, payload: memoryview) -> int:
        """Append to the stream's last frame, if nothing came after; return how many bytes."""
        tail = self._tails.get(stream)
        if tail is None or tail.end != len(self._bytes):
            return 0
        length = tail.end - tail.begin - HEADER_BYTES
        piece = payload[: MAX_FRAME_BYTES - length]
        self._bytes += piece
        begun = frames.head(length + len(piece), FrameType.DATA, 0, stream)
        self._bytes[tail.begin : tail.begin + HEADER_BYTES] = begun
        self._tails[stream] = _Tail(tail.begin, len(self._bytes))
        return len(piece)

    def end(self, stream: int) -> None:
        """Send END_STREAM, on the stream's last frame if that waits, else on an empty one."""
        tail = self._tails.pop(stream, None)
        if tail is None:
            self._bytes += frames.frame(FrameType.DATA, END_STREAM, stream)
        else:
            self._bytes[tail.begin + _FLAGS_AT] |= END_STREAM
