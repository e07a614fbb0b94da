"""Requests, answers and data: what is told, and what a broken rule ends."""

from __future__ import annotations

import pytest

from tests.helpers.hbone_sessions import (
    AUTHORITY,
    CONNECT,
    Peer,
    broken,
    client_of,
    data,
    kinds,
    padded,
    server_of,
    session,
)
from uproxy.hbone import frames
from uproxy.hbone.codes import END_HEADERS, END_STREAM, PREFACE, ErrorCode, FrameType
from uproxy.hbone.events import (
    AnswerReceived,
    DataReceived,
    EndReceived,
    Event,
    PongReceived,
    Request,
    RequestReceived,
    RequestRefused,
    ResetReceived,
)
from uproxy.hbone.frames import frame
from uproxy.model import TcpAddress

REQUEST = Request(TcpAddress("192.0.2.1", 8080), AUTHORITY)
GET = ((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "x"))


def resets(peer: Peer) -> list[tuple[int, ErrorCode]]:
    """What the session resets."""
    return [(each.stream, frames.read_code(each.payload)) for each in peer.hear() if each.kind == 3]


def reset(events: list[Event]) -> ResetReceived:
    """The only event, that a stream broke a rule."""
    (event,) = events
    assert isinstance(event, ResetReceived)
    return event


@pytest.fixture
def client() -> Peer:
    """A client of a server's session."""
    return client_of(session())


@pytest.fixture
def server() -> Peer:
    """A server of a client's session, on which stream 1 is asked for."""
    peer = server_of(session(server=False))
    peer.subject.open(AUTHORITY)
    peer.hear()
    return peer


def test_a_request_is_told(client: Peer) -> None:
    assert client.say(client.headers(1)) == [RequestReceived(1, REQUEST)]
    assert client.subject.streams == 1


def test_a_request_of_a_client_that_sends_nothing_ends_its_side(client: Peer) -> None:
    events = client.say(client.headers(1, end=True))
    assert events == [RequestReceived(1, REQUEST), EndReceived(1)]
    client.subject.answer(1, 200)
    assert client.subject.send(1, b"x") == 1
    client.subject.finish(1)
    assert client.subject.streams == 0


def test_a_request_may_come_in_pieces_with_padding_and_priority(client: Peer) -> None:
    block = client.block()
    flags = 0x8 | 0x20 | END_STREAM
    first = frame(FrameType.HEADERS, flags, 1, b"\3" + bytes(5) + block[:4] + bytes(3))
    middle = frame(FrameType.CONTINUATION, 0, 1, block[4:9])
    last = frame(FrameType.CONTINUATION, END_HEADERS, 1, block[9:])
    assert client.say(first, middle) == []
    assert client.say(last) == [RequestReceived(1, REQUEST), EndReceived(1)]


def test_a_request_may_skip_ids(client: Peer) -> None:
    assert client.say(client.headers(7)) == [RequestReceived(7, REQUEST)]
    end = broken(client.say(client.headers(5)))
    assert (end.code, end.reason) == (
        ErrorCode.PROTOCOL_ERROR,
        "HEADERS on stream 5, after stream 7",
    )


def test_an_even_stream_is_no_clients(client: Peer) -> None:
    assert broken(client.say(client.headers(2))).code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("end", [True, False])
def test_a_request_that_is_malformed_is_reset_and_told(client: Peer, end: bool) -> None:
    headers = [*CONNECT, (":path", "/"), (":scheme", "https"), (":protocol", "websocket")]
    (event,) = client.say(client.headers(1, headers, end=end))
    assert isinstance(event, RequestRefused)
    assert (event.status, event.code) == (None, ErrorCode.PROTOCOL_ERROR)
    assert "extended CONNECT" in event.reason
    assert resets(client) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert kinds(client.said)[-1:] == ["RST_STREAM"]
    assert "HEADERS" not in kinds(client.said)
    assert client.say(data(1, b"x")) == []
    assert client.hear() == []
    assert client.say(client.headers(3)) == [RequestReceived(3, REQUEST)]


@pytest.mark.parametrize("end", [True, False])
def test_a_request_that_is_no_connect_is_answered_with_400(client: Peer, end: bool) -> None:
    (event,) = client.say(client.headers(1, GET, end=end))
    assert event == RequestRefused(1, "a tunnel carries CONNECT, not 'GET'", 400)
    answer, *rest = client.hear()
    assert answer == (FrameType.HEADERS, END_STREAM | END_HEADERS, 1, b"\x8c")
    assert kinds(rest) == ([] if end else ["RST_STREAM"])
    assert client.subject.streams == 0


def test_a_request_without_an_address_is_answered_with_400(client: Peer) -> None:
    headers = [CONNECT[0], (":authority", "orders:80")]
    (event,) = client.say(client.headers(1, headers))
    assert isinstance(event, RequestRefused)
    assert (event.status, event.code) == (400, ErrorCode.NO_ERROR)
    assert "'orders:80' isn't an IP address" in event.reason
    assert client.subject.streams == 0


def test_streams_above_the_limit_are_refused_until_one_has_ended() -> None:
    client = client_of(session(max_streams=2))
    for stream in (1, 3):
        client.connect(stream)
    (event,) = client.say(client.headers(5))
    assert event == RequestRefused(
        5, "2 streams are open (hbone.max_streams)", code=ErrorCode.REFUSED_STREAM
    )
    assert resets(client) == [(5, ErrorCode.REFUSED_STREAM)]
    client.say(frames.rst_stream(1, ErrorCode.CANCEL))
    assert client.say(client.headers(7)) == [RequestReceived(7, REQUEST)]


def test_a_refused_block_counts_for_the_table_all_the_same() -> None:
    client = client_of(session(max_streams=0))
    long, short = client.headers(1), client.headers(3)
    assert len(short) < len(long)
    assert len(client.say(long, short)) == 2
    assert resets(client) == [(1, ErrorCode.REFUSED_STREAM), (3, ErrorCode.REFUSED_STREAM)]


@pytest.mark.parametrize("answered", [True, False])
def test_trailers_end_a_side_and_say_nothing(client: Peer, answered: bool) -> None:
    client.connect(answered=answered)
    assert client.say(client.headers(1, [("x", "y")], end=True)) == [EndReceived(1)]


PIECES = [bytes(16_384)] * 8
"""Half of a stream's window."""


def read_quickly(client: Peer, stream: int) -> int:
    """Send half of a stream's first window and have it read; return what is given back for it."""
    client.say(*(data(stream, piece) for piece in PIECES))
    client.subject.consumed(stream, 1 << 20, 0.0)
    return sum(
        int.from_bytes(each.payload)
        for each in client.hear()
        if (each.kind, each.stream) == (FrameType.WINDOW_UPDATE, stream)
    )


def test_what_a_stream_had_grown_by_is_free_when_trailers_end_it(client: Peer) -> None:
    client.connect(1)
    for _ in range(64):
        read_quickly(client, 1)
    client.connect(3)
    assert read_quickly(client, 3) == 128 << 10  # the other one has all that there is
    client.say(client.headers(1, [("grpc-status", "0")], end=True))
    assert read_quickly(client, 3) == (128 << 10) + (256 << 10)


@pytest.mark.parametrize(
    ("headers", "end"), [([("x", "y")], False), ([(":path", "/")], True), (CONNECT, True)]
)
def test_trailers_that_are_none_end_their_stream(
    client: Peer, headers: list[tuple[str, str]], end: bool
) -> None:
    client.connect()
    assert reset(client.say(client.headers(1, headers, end=end))).reason
    assert resets(client) == [(1, ErrorCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize("what", ["data", "trailers"])
def test_nothing_follows_the_end_of_a_side(client: Peer, what: str) -> None:
    client.connect()
    assert client.say(data(1, end=True)) == [EndReceived(1)]
    late = data(1, b"x") if what == "data" else client.headers(1, [("x", "y")], end=True)
    event = reset(client.say(late))
    assert (event.code, event.after_end) == (ErrorCode.STREAM_CLOSED, True)
    assert resets(client) == [(1, ErrorCode.STREAM_CLOSED)]


def test_headers_on_a_stream_that_has_ended_end_the_tunnel(client: Peer) -> None:
    client.connect()
    client.say(frames.rst_stream(1, ErrorCode.CANCEL))
    end = broken(client.say(client.headers(1, end=True)))
    assert end.code is ErrorCode.STREAM_CLOSED


def test_headers_on_a_stream_that_we_have_reset_are_ignored(client: Peer) -> None:
    client.connect()
    client.subject.reset(1, ErrorCode.CANCEL)
    client.hear()
    assert client.say(client.headers(1, [("x", "y")], end=True)) == []
    assert client.hear() == []


def test_headers_behind_the_end_of_a_stream_that_we_have_opened_are_ignored(server: Peer) -> None:
    said = server.headers(1, [(":status", "200")], end=True)
    assert server.say(said) == [AnswerReceived(1, 200, ended=True), EndReceived(1)]
    server.subject.finish(1)
    assert server.subject.streams == 0
    assert server.say(server.headers(1, [("x", "y")], end=True)) == []


def test_who_has_ended_its_side_is_done_with_the_peers_end(client: Peer) -> None:
    client.connect()
    client.subject.finish(1)
    assert client.subject.streams == 1
    assert client.say(data(1, end=True)) == [EndReceived(1)]
    assert client.subject.streams == 0


def test_data_behind_a_broken_rule_is_reset_no_second_time(client: Peer) -> None:
    client.connect()
    assert reset(client.say(frames.window_update(1, 0))).reason
    assert resets(client) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert client.say(data(1, b"x"), data(1, end=True)) == []
    assert client.hear() == []


def test_requests_behind_our_goodbye_are_ignored_with_what_follows_them(client: Peer) -> None:
    client.subject.go_away(final=True)
    client.hear()
    said = client.headers(1), data(1, b"x"), client.headers(1, [("x", "y")], end=True)
    assert client.say(*said) == []
    assert client.hear() == []
    assert client.subject.streams == 0


def test_what_arrives_for_a_stream_that_stalls_is_given_back_to_the_tunnel() -> None:
    client = client_of(session(stream_window=70_000, connection_window=70_000))
    client.connect()
    client.say(*[data(1, bytes(16_000))] * 3)
    (update,) = client.hear()
    assert update == (FrameType.WINDOW_UPDATE, 0, 0, (48_000).to_bytes(4, "big"))
    assert client.subject.held == 48_000


def test_data_on_a_stream_that_has_ended_is_given_back_and_reset_once() -> None:
    client = client_of(session(connection_window=1 << 20))
    client.connect()
    client.say(frames.rst_stream(1, ErrorCode.CANCEL))
    for _ in range(100):
        assert client.say(data(1, bytes(16_000))) == []
    heard = client.hear()
    assert kinds(heard).count("RST_STREAM") == 1
    given = sum(frames.read_number(each.payload) for each in heard if each.kind == 8)
    assert given > 1_000_000
    assert client.subject.held == 0


def test_data_after_a_request_that_was_answered_with_400_and_has_ended_is_reset_once(
    client: Peer,
) -> None:
    client.say(client.headers(1, GET, end=True))
    client.hear()
    client.say(data(1, b"x"), data(1, b"y"))
    assert resets(client) == [(1, ErrorCode.STREAM_CLOSED)]


def test_data_of_a_request_that_was_answered_with_400_is_not_heard(client: Peer) -> None:
    client.say(client.headers(1, GET))
    client.hear()
    assert client.say(data(1, b"x", end=True)) == []
    assert resets(client) == []


def test_te_may_say_trailers_in_any_case(client: Peer) -> None:
    (event,) = client.say(client.headers(1, [*CONNECT, ("te", "Trailers")]))
    assert isinstance(event, RequestReceived)


def test_data_is_told_with_its_end(client: Peer) -> None:
    client.connect()
    assert client.say(data(1, b"a"), data(1, b"b", end=True)) == [
        DataReceived(1, b"ab"),
        EndReceived(1),
    ]
    assert client.subject.held == 2


def test_padding_is_given_back_at_once(client: Peer) -> None:
    client.connect()
    assert client.say(padded(1, b"abc", 200)) == [DataReceived(1, b"abc")]
    assert client.subject.held == 3
    for _ in range(10_000):
        client.say(padded(1, bytes(256), 255))
        client.subject.consumed(1, 256, 0.0)
        client.hear()
    assert client.subject.streams == 1  # in step: else the window would be used up


def test_data_beyond_a_streams_window_ends_the_stream() -> None:
    client = client_of(session(stream_window=70_000, connection_window=1 << 20))
    client.connect()
    full = [data(1, bytes(14_000))] * 5
    assert client.say(*full) == [DataReceived(1, bytes(70_000))]
    assert client.say(data(1)) == []
    assert reset(client.say(data(1, b"x"))).code is ErrorCode.FLOW_CONTROL_ERROR
    assert resets(client) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]


def test_data_beyond_the_tunnels_window_ends_the_tunnel() -> None:
    client = client_of(session(stream_window=10**6, connection_window=70_000))
    client.connect()
    end = broken(client.say(*[data(1, bytes(14_000))] * 30))
    assert end.code is ErrorCode.FLOW_CONTROL_ERROR


def test_padding_counts_for_the_window() -> None:
    client = client_of(session(stream_window=70_000))
    client.connect()
    client.say(*[data(1, bytes(14_000))] * 5)
    assert reset(client.say(padded(1, b"", 0))).code is ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "inside",
    [
        data(1, b"x"),
        frames.ping(bytes(8), ack=False),
        frame(0xBE, 0, 0, b""),
        frame(FrameType.CONTINUATION, END_HEADERS, 3, b""),
        frame(FrameType.HEADERS, END_HEADERS, 1, b""),
    ],
)
def test_a_header_block_has_nothing_inside(client: Peer, inside: bytes) -> None:
    begun = frame(FrameType.HEADERS, 0, 1, client.block())
    assert client.say(begun) == []
    end = broken(client.say(inside))
    assert end.code is ErrorCode.PROTOCOL_ERROR
    assert end.reason.endswith("inside of a header block")


def test_a_continuation_continues_something(client: Peer) -> None:
    lone = frame(FrameType.CONTINUATION, END_HEADERS, 1, client.block())
    assert broken(client.say(lone)).code is ErrorCode.PROTOCOL_ERROR


def test_a_block_that_cannot_be_decoded_ends_the_tunnel(client: Peer) -> None:
    end = broken(client.say(frame(FrameType.HEADERS, END_HEADERS, 1, b"\x80")))
    assert end.code is ErrorCode.COMPRESSION_ERROR
    goodbye = client.hear()[-1]
    assert goodbye.payload[:8] == b"\0\0\0\0\0\0\0\x09"
    assert client.say(client.headers(3)) == []


def test_what_came_before_a_broken_rule_is_told(client: Peer) -> None:
    request, end = client.say(client.headers(1), data(0, b"x"))
    assert request == RequestReceived(1, REQUEST)
    assert broken([end]).reason == "DATA on stream 0"
    assert client.hear()[-1].payload[:4] == b"\0\0\0\1"
    assert client.subject.streams == 0


def test_a_window_that_opens_before_a_broken_rule_is_not_told(client: Peer) -> None:
    client.connect()
    client.subject.send(1, bytes(70_000))
    events = client.say(frames.window_update(0, 1), data(0, b"x"))
    assert events == [broken(events)]


def test_an_answer_is_told(server: Peer) -> None:
    said = [(":status", "200"), ("baggage", "a=b")]
    assert server.say(server.headers(1, said)) == [AnswerReceived(1, 200, (("baggage", "a=b"),))]
    assert server.say(data(1, b"x")) == [DataReceived(1, b"x")]


def test_an_answer_may_be_the_last_there_is(server: Peer) -> None:
    assert server.say(server.headers(1, [(":status", "503")], end=True)) == [
        AnswerReceived(1, 503, ended=True),
        EndReceived(1),
    ]


def test_a_refusal_as_envoy_says_it_is_understood(server: Peer) -> None:
    said = (
        server.headers(1, [(":status", "403")]),
        data(1, b"RBAC: access denied", end=True),
        frames.rst_stream(1, ErrorCode.NO_ERROR),
    )
    assert server.say(*said) == [
        AnswerReceived(1, 403),
        DataReceived(1, b"RBAC: access denied"),
        EndReceived(1),
        ResetReceived(1, ErrorCode.NO_ERROR, after_end=True),
    ]
    server.subject.reset(1, ErrorCode.CANCEL)
    assert server.subject.streams == 0
    assert server.hear() == []


def test_provisional_answers_are_ignored(server: Peer) -> None:
    for status in ("100", "102", "103", "150", "199"):
        assert server.say(server.headers(1, [(":status", status)])) == []
    assert server.say(server.headers(1, [(":status", "200")])) == [AnswerReceived(1, 200)]


@pytest.mark.parametrize(
    ("headers", "end"),
    [
        ([(":status", "100")], True),
        ([(":status", "101")], False),
        ([(":status", "abc")], False),
        ([("x", "y")], False),
        (CONNECT, False),
    ],
)
def test_an_answer_that_is_none_ends_its_stream(
    server: Peer, headers: list[tuple[str, str]], end: bool
) -> None:
    event = reset(server.say(server.headers(1, headers, end=end)))
    assert event.reason
    assert resets(server) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert server.subject.streams == 0


def test_data_before_the_answer_ends_its_stream(server: Peer) -> None:
    assert reset(server.say(data(1, b"x"))).reason == "DATA before an answer"
    assert resets(server) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert server.subject.held == 0


def test_an_answer_to_what_was_given_up_is_ignored(server: Peer) -> None:
    server.subject.reset(1, ErrorCode.CANCEL)
    server.hear()
    late = (server.headers(1, [(":status", "200")]), data(1, b"x", end=True))
    assert server.say(*late) == []
    assert server.hear() == []


def test_an_answer_that_nobody_asked_for_ends_the_tunnel(server: Peer) -> None:
    end = broken(server.say(server.headers(3, [(":status", "200")])))
    assert end.code is ErrorCode.PROTOCOL_ERROR


def test_an_answer_has_trailers_too(server: Peer) -> None:
    server.say(server.headers(1, [(":status", "200")]))
    assert server.say(server.headers(1, [("x", "y")], end=True)) == [EndReceived(1)]


@pytest.mark.parametrize("length", [0, 4, 6, 16_384])
def test_a_priority_of_wrong_length_ends_its_stream_and_no_other(length: int) -> None:
    peer = client_of(session())
    peer.connect(1)
    peer.connect(3)
    (event,) = peer.say(frame(FrameType.PRIORITY, 0, 3, bytes(length)))
    assert isinstance(event, ResetReceived)
    assert (event.stream, event.code) == (3, ErrorCode.FRAME_SIZE_ERROR)
    assert kinds(peer.hear()) == ["RST_STREAM"]
    assert peer.say(frame(FrameType.PRIORITY, 0, 1, bytes(5)), data(1, b"goes on")) == [
        DataReceived(1, b"goes on")
    ]


def test_an_answer_to_our_ping_is_told_once() -> None:
    peer = client_of(session())
    peer.subject.ping()
    (asked,) = peer.hear()
    answer = frames.ping(asked.payload, ack=True)
    assert peer.say(answer, answer) == [PongReceived()]
    peer.subject.ping()
    (asked,) = peer.hear()
    assert peer.say(answer) == []  # to the one before
    assert peer.say(frames.ping(asked.payload, ack=True)) == [PongReceived()]


def test_an_end_of_the_connection_says_nothing(client: Peer) -> None:
    assert client.say(b"") == []


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"SSH-2.0-x\r\n",
        PREFACE + frames.SETTINGS_ACK,
        PREFACE + frames.ping(bytes(8), ack=False),
    ],
)
def test_whoever_speaks_something_else_is_told_in_http2(said: bytes) -> None:
    subject = session()
    subject.take_output()
    end = broken(subject.receive(said, 0.0))
    assert end.code is ErrorCode.PROTOCOL_ERROR
    assert "doesn't speak HTTP/2" in end.reason
    assert subject.take_output()[3] == FrameType.GOAWAY
