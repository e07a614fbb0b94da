"""Tunnels, however bytes are cut and whoever speaks when."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.hbone_sessions import AUTHORITY, CONNECT, session
from tests.helpers.tunnel_oracle import check_connect, check_cuts, check_request
from uproxy.hbone import frames, headers
from uproxy.hbone.codes import ErrorCode
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
from uproxy.hbone.session import Session

BLOCK = headers.Encoder().encode(CONNECT)
ANSWER = b"\x88"
BYTES = bytes(range(256)) * 64

cuts = st.lists(st.integers(0, 40), max_size=30)


@st.composite
def any_frame(draw: st.DrawFn) -> bytes:
    """A frame of any type, on a stream that may be open, with a payload that may be right."""
    payload = draw(
        st.sampled_from([BLOCK, ANSWER, bytes(4), bytes(5), bytes(8), b"\0\0\0\1", b"\0\4\0\0\0\7"])
        | st.binary(max_size=20)
    )
    kind, flags = draw(st.integers(0, 10)), draw(st.sampled_from([0, 1, 4, 4, 5, 8, 12, 32, 255]))
    return frames.frame(kind, flags, draw(st.sampled_from([0, 1, 1, 3, 3, 5, 7, 2])), payload)


@st.composite
def good_frame(draw: st.DrawFn) -> bytes:
    """A frame that is in order on an open stream."""
    stream = draw(st.sampled_from([1, 3, 5]))
    return draw(
        st.sampled_from(
            [
                frames.headers(stream, BLOCK, end=False),
                frames.headers(stream, ANSWER, end=False),
                frames.frame(0, 0, stream, b"some bytes"),
                frames.frame(0, 1, stream, b"the last"),
                frames.window_update(stream, 1000),
                frames.window_update(0, 1000),
                frames.ping(b"abcdefgh", ack=False),
                frames.rst_stream(stream, ErrorCode.CANCEL),
                frames.go_away(3, ErrorCode.NO_ERROR, ""),
            ]
        )
    )


@given(st.lists(any_frame() | good_frame(), max_size=12), cuts)
def test_frames_are_heard_alike_however_they_are_cut(said: list[bytes], at: list[int]) -> None:
    check_cuts(b"".join(said), at)


@given(st.lists(good_frame(), max_size=20), cuts)
def test_frames_in_order_are_heard_alike_however_they_are_cut(
    said: list[bytes], at: list[int]
) -> None:
    check_cuts(b"".join(said), at)


@given(st.binary(max_size=200), cuts)
def test_any_bytes_are_heard_alike_however_they_are_cut(said: bytes, at: list[int]) -> None:
    check_cuts(said, at)


@given(st.binary(max_size=100) | st.binary(max_size=20).map(lambda more: BLOCK + more))
def test_any_header_block_is_a_request_or_refused(block: bytes) -> None:
    check_connect(block)
    check_request(block)


class End:
    """One end of a tunnel with an application that checks what arrives."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.wire = b""
        """What was said and hasn't arrived."""
        self.sent: dict[int, bytes] = defaultdict(bytes)
        self.arrived: dict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.finished: set[int] = set()
        self.asked: list[int] = []
        """Streams to be answered."""
        self.open: list[int] = []

    def hear(self, said: bytes) -> None:
        for event in self.session.receive(said, 0.0):
            self.react(event)

    def react(self, event: Event) -> None:
        assert not isinstance(event, Broken | ResetReceived | RequestRefused), event
        match event:
            case RequestReceived(stream=stream):
                self.asked.append(stream)
            case AnswerReceived(stream=stream, status=200):
                self.open.append(stream)
            case DataReceived(stream=stream, data=data):
                assert stream not in self.ended
                self.arrived[stream] += data
            case EndReceived(stream=stream):
                self.ended.add(stream)

    def send(self, stream: int, count: int) -> None:
        at = len(self.sent.get(stream, b""))
        said = (BYTES[at % 256 :] + BYTES * 4)[:count]
        taken = self.session.send(stream, said)
        assert taken <= count
        if taken:
            self.sent[stream] += said[:taken]

    def finish(self, stream: int) -> None:
        self.session.finish(stream)
        self.finished.add(stream)


ops = st.lists(
    st.tuples(
        st.sampled_from(["open", "answer", "send", "send", "consume", "finish", "carry", "carry"]),
        st.booleans(),
        st.integers(0, 2),
        st.sampled_from([1, 7, 300, 5000, 20_000, 70_000]),
    ),
    min_size=10,
    max_size=60,
)


@given(ops, st.sampled_from([100, 70_000]), st.sampled_from([100, 1 << 20]))
def test_what_one_end_sends_arrives_in_order_within_the_windows(
    script: list[tuple[str, bool, int, int]], stream_window: int, connection_window: int
) -> None:
    limits = {"stream_window": stream_window, "connection_window": connection_window}
    client = End(session(server=False, **limits))
    server = End(session(server=True, **limits))
    for _ in range(2):
        client.session.open(AUTHORITY)
    settle(client, server)
    while server.asked:
        act(server, client, "answer", 0, 0, client=client)
    settle(client, server)
    for what, by_client, which, count in script:
        one, other = (client, server) if by_client else (server, client)
        act(one, other, what, which, count, client=client)
    settle(client, server)
    for one, other in ((client, server), (server, client)):
        assert one.sent == other.arrived
        assert one.finished == other.ended
        assert other.session.held == 0


def act(one: End, other: End, what: str, which: int, count: int, *, client: End) -> None:
    """Do one thing at one end, if it makes sense there."""
    stream = one.open[which % len(one.open)] if one.open else 0
    match what:
        case "open" if client.session.room:
            client.session.open(AUTHORITY)
        case "answer" if one.asked:
            answered = one.asked.pop(0)
            one.session.answer(answered, 200)
            one.open.append(answered)
        case "send" if stream and stream not in one.finished:
            one.send(stream, count)
        case "consume":
            one.session.consumed(stream, count, 0.0)
        case "finish" if stream:
            one.finish(stream)
        case "carry":
            one.wire += one.session.take_output()
            said, one.wire = one.wire[: count + 1], one.wire[count + 1 :]
            other.hear(said)


def settle(client: End, server: End) -> None:
    """Carry and consume everything."""
    ends = ((client, server), (server, client))
    while True:
        for end, _ in ends:
            for stream in end.arrived:
                end.session.consumed(stream, 1 << 30, 0.0)
        if not any(end.wire or end.session.has_output for end, _ in ends):
            return
        for one, other in ends:
            said, one.wire = one.wire + one.session.take_output(), b""
            other.hear(said)
