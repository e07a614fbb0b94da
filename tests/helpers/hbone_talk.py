"""What a peer may say in a tunnel, right or wrong, made of numbers that a property test or a fuzzer
draws; and two ends that are compared while they hear it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import hpack

from tests.helpers import hbone_sessions, hbone_sessions_native
from uproxy.hbone import frames
from uproxy.hbone.codes import PREFACE, ErrorCode, FrameType
from uproxy.hbone.events import (
    AnswerReceived,
    Broken,
    DataReceived,
    EndReceived,
    Event,
    RequestReceived,
    RequestRefused,
    ResetReceived,
)

Draw = Callable[[int], int]
"""Returns a number from 0 to the argument."""


class Numbers:
    """Numbers made of bytes, a byte each, until these are used up; then they are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def draw(self, most: int) -> int:
        """Return the next one, up to `most`, which is at most 255."""
        byte = self._data[self._at] if self else 0
        self._at += 1
        return byte % (most + 1)

    def __bool__(self) -> bool:
        return self._at < len(self._data)


BLOCKS: tuple[tuple[tuple[str, str], ...], ...] = (
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080")),
    ((":method", "CONNECT"), (":authority", "[2001:db8::1]:443"), ("baggage", "a=b,c=d")),
    ((":method", "CONNECT"), (":authority", "orders.shop.svc:80")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), (":path", "/")),
    ((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "192.0.2.1")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("Upper", "x")),
    ((":status", "200"),),
    ((":status", "403"), ("x", "y")),
    ((":status", "100"),),
    ((":status", "banana"),),
    (("trailer", "x"),),
    (),
    ((":authority", "192.0.2.1:8080"), (":method", "CONNECT"), ("te", "trailers")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("te", "Trailers")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("connection", "close")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("host", "192.0.2.1:8080")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("host", "192.0.2.2:8080")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("a(b)", "x")),
    ((":method", "CONNECT"), (":authority", "192.0.2.1:8080"), ("content-length", "5")),
    ((":method", "CONNECT"), ("host", "192.0.2.1:8080")),
    ((":method", "CONNECT"), (":authority", "")),
    (
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "192.0.2.1:80"),
        (":protocol", "websocket"),
    ),
    ((":method", "CONNECT"), ("x", "y"), (":authority", "192.0.2.1:8080")),
    ((":method", "CONNECT"), (":method", "CONNECT"), (":authority", "192.0.2.1:8080")),
    ((":status", "101"),),
    ((":status", "200"), (":status", "200")),
)
IDS = (1, 1, 3, 3, 5, 7, 2, 0, 9, 2**31 - 1)
LAST = (3, 5, 2**31 - 1)
SIZES = (0, 1, 3, 255, 256, 1000, 16384, 16385)
NUMBERS = (0, 1, 2, 100, 16383, 16384, 65535, 2**31 - 1, 2**32 - 1)


class Talk:
    """Frames of a peer, with the header table of its side."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._coder = hpack.Encoder()

    def one_of(self, choices: tuple[Any, ...]) -> Any:
        return choices[self._draw(len(choices) - 1)]

    def greeting(self, *, server: bool) -> bytes:
        """The first bytes of a peer that is a server, or a client; some begin wrongly."""
        kind, flags = self.one_of((4,) * 9 + (6,)), self.one_of((0,) * 9 + (1,))
        confirmed = frames.SETTINGS_ACK if self._draw(3) else b""
        return (b"" if server else PREFACE) + frames.frame(kind, flags, 0) + confirmed

    def stream(self) -> int:
        """A stream on which something is said."""
        number: int = self.one_of(IDS)
        return number

    def frame(self) -> bytes:
        """The next thing that is said, mostly one frame."""
        kinds = (self.headers, self.headers, self.data, self.data, self.data, self.other)
        made: bytes = self.one_of(kinds)()
        return made

    def headers(self) -> bytes:
        block = self._coder.encode(self.one_of(BLOCKS), huffman=bool(self._draw(1)))
        stream, end = self.stream(), self._draw(3) == 0
        cut = self._draw(len(block)) if self._draw(4) == 0 else 0
        flags = 0x1 if end else 0
        content = block[:cut] if cut else block
        if self._draw(5) == 0:
            padding = self._draw(9)
            content = bytes([padding]) + content + bytes(padding)
            flags |= 0x8
        if not cut:
            return frames.frame(FrameType.HEADERS, flags | 0x4, stream, content)
        between = self.data() if self._draw(9) == 0 else b""
        rest = frames.frame(FrameType.CONTINUATION, 0x4, stream, block[cut:])
        return frames.frame(FrameType.HEADERS, flags, stream, content) + between + rest

    def data(self) -> bytes:
        size, flags = self.one_of(SIZES[:-1]), 0x1 if self._draw(4) == 0 else 0
        payload = bytes([self._draw(255)]) * size
        if self._draw(5) == 0:
            padding = self._draw(255)
            payload = (bytes([padding]) + payload + bytes(padding))[:16384]
            flags |= 0x8
        return frames.frame(FrameType.DATA, flags, self.stream(), payload)

    def other(self) -> bytes:
        """A frame that is neither, right or quite wrong."""
        kinds = (
            lambda: frames.rst_stream(self.stream(), ErrorCode(self._draw(13))),
            lambda: frames.window_update(self.stream(), self.one_of(NUMBERS[:-1])),
            lambda: frames.frame(4, 0, 0, self.settings()),
            lambda: frames.ping(bytes(7) + bytes([self._draw(2)]), ack=bool(self._draw(1))),
            lambda: frames.SETTINGS_ACK,
            lambda: frames.go_away(self.one_of(LAST), ErrorCode(self._draw(13)), "bye"),
            lambda: frames.frame(2, 0, self.stream(), bytes(4 + self._draw(1))),
            self.odd,
        )
        made: bytes = self.one_of(kinds)()
        return made

    def settings(self) -> bytes:
        setting, value = 1 + self._draw(8), self.one_of(NUMBERS)
        return setting.to_bytes(2, "big") + int(value).to_bytes(4, "big")

    def odd(self) -> bytes:
        """A frame of which nothing need be right."""
        payload = bytes(self._draw(255) for _ in range(self._draw(20)))
        return frames.frame(self._draw(11), self._draw(255), self.stream(), payload)


class FluentTalk(Talk):
    """A peer that mostly says what may be said, on streams that are there, and so gets far."""

    def __init__(self, draw: Draw, *, server: bool, opened: int) -> None:
        super().__init__(draw)
        self._server = server
        self._opened = list(range(1, 2 * opened, 2))

    def frame(self) -> bytes:
        kinds = (self.opening, self.opening, *(self.data,) * 4, self.other, super().frame)
        made: bytes = self.one_of(kinds)()
        return made

    def stream(self) -> int:
        if self._opened and self._draw(29):
            return self._opened[-1 - self._draw(min(3, len(self._opened) - 1))]
        return super().stream()

    def opening(self) -> bytes:
        """A request, or an answer, that is mostly right."""
        if self._server:
            content = self.one_of((((":status", "200"),), ((":status", "103"),)))
            stream = self.stream()
        else:
            content, stream = BLOCKS[self._draw(1)], self._next()
        block = self._coder.encode(content)
        return frames.headers(stream, block, end=self._draw(9) == 0)

    def _next(self) -> int:
        new = self._opened[-1] + 2 if self._opened else 1
        self._opened.append(new)
        return new


def greeting(*, server: bool) -> bytes:
    """The first bytes of a peer that is a server, or a client."""
    return (b"" if server else PREFACE) + frames.settings([]) + frames.SETTINGS_ACK


@dataclass(slots=True)
class End:
    """A session and an application that uses it."""

    subject: Any
    follows: bool = True
    """Whether the application does anything."""
    said: list[bytes] = field(default_factory=list)

    def hear(self, data: bytes) -> list[Event]:
        """Take bytes; return the events, each without its words."""
        events = self.subject.receive(data, 0.0)
        for event in events if self.follows else ():
            follow(self.subject, event)
        self.said += comparable(self.subject.take_output())
        return in_order([wordless(event) for event in events])


def follow(subject: Any, event: Event) -> None:
    """Do what an application does that answers requests, reads some streams and some not, ends its
    side of most where the peer has ended, and loses interest in some."""
    match event:
        case RequestReceived(stream):
            if stream % 8 == 5:
                subject.answer(stream, 403, end=True)
            else:
                subject.answer(stream, 200)
                subject.send(stream, b"banner")
        case DataReceived(stream) if stream % 8 == 7:
            subject.reset(stream, ErrorCode.CANCEL)
        case DataReceived(stream, data) if stream % 4 == 1:
            subject.consumed(stream, len(data), 0.0)
            subject.send(stream, data)
        case EndReceived(stream):
            subject.consumed(stream, 1 << 30, 0.0)
            if stream % 8 != 3:
                subject.finish(stream)
        case AnswerReceived(stream):
            subject.send(stream, b"hello")


def wordless(event: Event) -> Event:
    """The event without what is only for people."""
    match event:
        case Broken():
            return replace(event, reason="")
        case RequestRefused():
            return replace(event, reason="")
        case ResetReceived() if event.reason is not None:
            return replace(event, reason="")
    return event


def in_order(events: list[Event]) -> list[Event]:
    """Events with successive resets by their streams: all that a GOAWAY leaves out come at once."""
    resets: list[ResetReceived] = []
    made: list[Event] = []
    for event in events:
        if isinstance(event, ResetReceived):
            resets.append(event)
            continue
        made += [*sorted(resets, key=lambda each: each.stream), event]
        resets = []
    return made + sorted(resets, key=lambda each: each.stream)


def comparable(said: bytes) -> list[bytes]:
    """The frames of one turn: without the words of a GOAWAY, and WINDOW_UPDATEs last, which may
    come before or after an answer to the same frame."""
    made, updates = [], []
    at = len(PREFACE) if said.startswith(PREFACE) else 0
    while at < len(said):
        end = at + 9 + int.from_bytes(said[at : at + 3], "big")
        kind = said[at + 3]
        if kind == FrameType.WINDOW_UPDATE:
            updates.append(said[at:end])
        else:
            made.append(said[at + 3 : at + 17] if kind == FrameType.GOAWAY else said[at:end])
        at = end
    return made + sorted(updates)


def both(*, server: bool, opened: int = 0, **settings: int) -> tuple[End, End]:
    """Two ends that are alike, Python's and the compiled one; as clients they open streams."""
    ends = (
        End(hbone_sessions.session(server=server, **settings)),
        End(hbone_sessions_native.session(server=server, **settings)),
    )
    for end in ends:
        for _ in range(opened):
            end.subject.open("192.0.2.1:8080")
    return ends


def joined(events: Iterable[Event]) -> list[Event]:
    """Events with successive bytes of a stream as one, however they came."""
    made: list[Event] = []
    for event in events:
        last = made[-1] if made else None
        if (
            isinstance(event, DataReceived)
            and isinstance(last, DataReceived)
            and event.stream == last.stream
        ):
            made[-1] = DataReceived(event.stream, last.data + event.data)
        else:
            made.append(event)
    return made
