"""What a rule of tests/helpers/h2_rules.py knows of a frame, and how it says what should follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import hpack
from h2.exceptions import FrameTooLargeError, ProtocolError
from hyperframe.exceptions import HyperframeError

from tests.helpers.h2_library import Account, Said, State
from uproxy.hbone.codes import END_HEADERS, PADDED, PRIORITY, ErrorCode, FrameType
from uproxy.hbone.frames import Frame


@dataclass(frozen=True, slots=True)
class Case:
    """A frame, and what is known before it."""

    frame: Frame
    server: bool
    first: bool
    block: Frame | None
    """The HEADERS whose block isn't complete."""
    before: State
    """Of the frame's stream."""
    answered: bool
    """Whether the answer to our request has come."""
    room: int
    """Bytes of DATA that the connection has room for."""
    full: bool
    """Whether a client may open no stream more."""
    ping: bytes
    """What an answer to our last PING has."""
    away: int
    """The lowest last stream that the peer's GOAWAYs have said."""
    informational: int
    """Answers 1xx that the stream has."""
    error: ProtocolError | None
    """Why h2 has ended the connection."""

    @property
    def head(self) -> Frame | None:
        """The HEADERS of the block that this frame completes, if h2 could read and decode it."""
        if not self.frame.flags & END_HEADERS or self.is_undecodable or self.is_unreadable:
            return None
        if self.frame.kind == FrameType.CONTINUATION:
            return self.block
        return self.frame if self.frame.kind == FrameType.HEADERS else None

    @property
    def is_undecodable(self) -> bool:
        return isinstance(self.error and self.error.__cause__, hpack.HPACKError)

    @property
    def is_unreadable(self) -> bool:
        """Whether the frame's length is wrong, or what it says of itself."""
        cause = self.error and self.error.__cause__
        return isinstance(self.error, FrameTooLargeError) or isinstance(cause, HyperframeError)

    @property
    def is_request(self) -> bool:
        return self.server and self.before is State.IDLE


Rule: TypeAlias = Callable[[Case, Account], Account | None]
"""Returns what the account should be; None: it is right."""


def breaks(code: ErrorCode) -> Account:
    return Account(broken=int(code))


def resets(case: Case, code: ErrorCode) -> Account:
    """The stream is reset; a request is refused by that."""
    stream = case.frame.stream
    refused: list[Said] = [("refused", stream)] if case.is_request else []
    return Account(refused, [("reset", stream, int(code))])


def without(kind: str, said: Account) -> Account | None:
    rest = [each for each in said.heard if each[0] != kind]
    return Account(rest, said.sent, said.broken) if rest != said.heard else None


def is_plain(error: ProtocolError | None) -> bool:
    """Whether h2 could read the frame, and has no more to say of it than PROTOCOL_ERROR."""
    return type(error) is ProtocolError and not isinstance(error.__cause__, HyperframeError)


def content(frame: Frame) -> bytes | None:
    """The block of HEADERS; None: the frame is shorter than its flags say."""
    begin = (1 if frame.flags & PADDED else 0) + (5 if frame.flags & PRIORITY else 0)
    end = len(frame.payload)
    if frame.flags & PADDED:
        end -= frame.payload[0] if frame.payload else 0
    return frame.payload[begin:end] if begin <= end else None
