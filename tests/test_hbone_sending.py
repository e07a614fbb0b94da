"""What a session says: within the peer's limits, in order, and nothing after the end."""

from __future__ import annotations

import pytest

from tests.helpers.hbone_sessions import (
    AUTHORITY,
    Pair,
    broken,
    bytes_of,
    client_of,
    data,
    kinds,
    server_of,
    session,
    settings,
)
from uproxy.hbone import frames
from uproxy.hbone.codes import (
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    PREFACE,
    ErrorCode,
    FrameType,
    Setting,
)
from uproxy.hbone.events import (
    AnswerReceived,
    DataReceived,
    EndReceived,
    GoAwayReceived,
    PongReceived,
    RequestReceived,
    ResetReceived,
)
from uproxy.hbone.frames import Splitter
from uproxy.hbone.windows import SLOW_S


def greeting(*, server: bool, **values: int) -> dict[int, int]:
    """The SETTINGS of a new session, and under 0 how much larger its window is."""
    said = session(server=server, **values).take_output()
    if not server:
        assert said.startswith(PREFACE)
        said = said.removeprefix(PREFACE)
    first, *rest = Splitter(server=False).split(said)
    announced = dict(frames.read_settings(first.payload))
    return announced | {0: sum(frames.read_number(each.payload) for each in rest)}


def test_a_server_announces_its_streams_and_windows() -> None:
    assert greeting(server=True, max_streams=7, stream_window=99, connection_window=1 << 20) == {
        Setting.MAX_CONCURRENT_STREAMS: 7,
        Setting.INITIAL_WINDOW_SIZE: 99,
        Setting.MAX_HEADER_LIST_SIZE: 16384,
        0: (1 << 20) - DEFAULT_WINDOW,
    }


def test_a_client_announces_its_windows_and_wants_no_pushes() -> None:
    assert greeting(server=False, stream_window=99, connection_window=1 << 20) == {
        Setting.ENABLE_PUSH: 0,
        Setting.INITIAL_WINDOW_SIZE: 99,
        Setting.MAX_HEADER_LIST_SIZE: 16384,
        0: (1 << 20) - DEFAULT_WINDOW,
    }


def test_a_small_window_of_a_tunnel_is_the_default_one() -> None:
    """A WINDOW_UPDATE by 0 would end the tunnel (§6.9)."""
    said = session(connection_window=1).take_output()
    assert kinds(list(Splitter(server=False).split(said))) == ["SETTINGS"]


def test_a_stream_carries_bytes_each_way_and_ends_each_way() -> None:
    pair = Pair()
    stream = pair.client.open(AUTHORITY, [("baggage", "a=b")])
    _, (asked,) = pair.pump()
    assert isinstance(asked, RequestReceived)
    assert asked.request.headers == (("baggage", "a=b"),)
    pair.server.answer(stream, 200, [("x", "y")])
    assert pair.pump()[0] == [AnswerReceived(stream, 200, (("x", "y"),))]
    assert pair.client.send(stream, b"ping") == 4
    pair.client.finish(stream)
    assert pair.pump()[1] == [DataReceived(stream, b"ping"), EndReceived(stream)]
    assert pair.server.send(stream, b"pong") == 4
    pair.server.finish(stream)
    assert pair.pump()[0] == [DataReceived(stream, b"pong"), EndReceived(stream)]
    assert (pair.client.streams, pair.server.streams) == (1, 1)
    pair.client.consumed(stream, 4, 0.0)
    pair.server.consumed(stream, 4, 0.0)
    assert (pair.client.streams, pair.server.streams) == (0, 0)


def test_streams_have_odd_ids_that_grow() -> None:
    pair = Pair()
    assert [pair.client.open(AUTHORITY) for _ in range(3)] == [1, 3, 5]


def test_a_client_takes_a_server_for_one_of_100_streams_until_it_says_so() -> None:
    client = session(server=False, streams_per_connection=1000)
    assert (client.allowed, client.room) == (None, 100)
    client.receive(settings(MAX_CONCURRENT_STREAMS=300), 0.0)
    assert (client.allowed, client.room) == (300, 300)
    client.receive(settings(MAX_CONCURRENT_STREAMS=0), 0.0)
    assert (client.allowed, client.room) == (0, 0)


def test_a_server_that_says_nothing_of_streams_has_no_limit() -> None:
    client = session(server=False, streams_per_connection=1000)
    client.receive(settings(), 0.0)
    assert client.room == 1000


def test_room_is_the_smaller_limit_less_what_is_open() -> None:
    pair = Pair(max_streams=5, streams_per_connection=3)
    assert pair.client.room == 3
    streams = [pair.client.open(AUTHORITY) for _ in range(3)]
    assert pair.client.room == 0
    with pytest.raises(RuntimeError, match="room"):
        pair.client.open(AUTHORITY)
    pair.client.reset(streams[0], ErrorCode.CANCEL)
    assert pair.client.room == 1
    assert pair.server.room == 0


def test_a_limit_below_what_is_open_leaves_no_room() -> None:
    pair = Pair()
    pair.open()
    pair.open()
    pair.client.receive(settings(MAX_CONCURRENT_STREAMS=1), 0.0)
    assert pair.client.room == 0


def test_there_is_no_room_when_the_ids_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Pair().client
    monkeypatch.setattr(client, "_highest", MAX_STREAM_ID - 4)
    assert client.room == 2
    assert [client.open(AUTHORITY) for _ in range(2)] == [MAX_STREAM_ID - 2, MAX_STREAM_ID]
    assert client.room == 0


def test_nothing_is_sent_beyond_a_window() -> None:
    peer = client_of(session())
    peer.connect()
    assert peer.subject.send(1, bytes(99_999)) == DEFAULT_WINDOW
    assert peer.subject.sendable(1) == 0
    assert peer.subject.send(1, b"x") == 0
    peer.say(frames.window_update(1, 10))
    assert peer.subject.sendable(1) == 0  # the tunnel's window is used up too
    peer.say(frames.window_update(0, 3))
    assert peer.subject.sendable(1) == 3
    assert peer.subject.send(1, b"abcdef") == 3
    assert sum(len(each.payload) for each in peer.hear() if each.kind == 0) == DEFAULT_WINDOW + 3


def test_a_server_sends_nothing_before_its_answer() -> None:
    peer = client_of(session())
    peer.connect(answered=False)
    assert peer.subject.sendable(1) == 0
    assert peer.subject.send(1, b"x") == 0
    peer.subject.finish(1)
    assert peer.hear() == []
    peer.subject.answer(1, 200)
    assert peer.subject.send(1, b"x") == 1


def test_a_client_may_send_before_the_answer() -> None:
    pair = Pair()
    stream = pair.client.open(AUTHORITY)
    assert pair.client.send(stream, b"early") == 5
    assert bytes_of(pair.pump()[1], stream) == b"early"


def test_a_client_may_end_its_side_before_it_has_heard_anything() -> None:
    client = session(server=False)
    client.take_output()
    stream = client.open(AUTHORITY)
    client.finish(stream)
    heard = list(Splitter(server=False).split(settings() + client.take_output()))[1:]
    assert [(each.kind, each.flags & 1) for each in heard] == [(1, 0), (0, 1)]


def test_a_large_window_of_ours_holds_before_it_is_acknowledged() -> None:
    """The peer has read of it when it opens a stream, and may acknowledge it later."""
    subject = session(stream_window=100_000, connection_window=100_000)
    asked = client_of(session()).headers(1)
    subject.receive(PREFACE + settings() + asked, 0.0)
    pieces = b"".join(data(1, bytes(10_000)) for _ in range(10))
    assert subject.receive(pieces, 0.0) == [DataReceived(1, bytes(100_000))]


def test_a_stream_whose_peer_has_ended_may_be_reset() -> None:
    peer = client_of(session())
    peer.connect()
    peer.say(data(1, end=True))
    peer.subject.reset(1, ErrorCode.CANCEL)
    assert [tuple(each) for each in peer.hear()] == [(3, 0, 1, b"\0\0\0\x08")]


def test_who_goes_on_after_both_have_ended_is_told_that_the_stream_is_closed() -> None:
    peer = client_of(session())
    peer.connect()
    peer.subject.finish(1)
    peer.say(data(1, end=True))
    peer.hear()
    assert peer.subject.streams == 0
    assert broken(peer.say(peer.headers(1, end=True))).code is ErrorCode.STREAM_CLOSED


def test_there_is_one_answer() -> None:
    peer = client_of(session())
    peer.connect()
    peer.subject.answer(1, 503, end=True)
    assert peer.hear() == []
    assert peer.subject.sendable(1)


def test_there_is_one_end_and_nothing_is_sent_after_it() -> None:
    peer = client_of(session())
    peer.connect()
    peer.subject.send(1, b"x")
    peer.hear()
    for _ in range(3):
        peer.subject.finish(1)
        assert peer.subject.send(1, b"y") == 0
    assert [tuple(each) for each in peer.hear()] == [(0, 1, 1, b"")]


def test_a_refusal_ends_the_stream_and_leaves_nothing() -> None:
    peer = client_of(session())
    peer.connect(answered=False)
    peer.subject.answer(1, 403, end=True)
    answer, reset = peer.hear()
    assert (answer.kind, answer.flags & 1) == (1, 1)
    assert (reset.kind, reset.payload) == (3, bytes(4))
    assert peer.subject.streams == 0


def test_a_refusal_of_a_client_that_has_ended_needs_no_reset() -> None:
    peer = client_of(session())
    peer.say(peer.headers(1, end=True))
    peer.subject.answer(1, 403, end=True)
    assert kinds(peer.hear()) == ["HEADERS"]
    assert peer.subject.streams == 0


def test_a_client_hears_a_refusal_and_then_nothing_of_the_stream() -> None:
    pair = Pair()
    stream = pair.client.open(AUTHORITY)
    pair.pump()
    pair.server.answer(stream, 503, end=True)
    assert pair.pump()[0] == [
        AnswerReceived(stream, 503, (), ended=True),
        EndReceived(stream),
        ResetReceived(stream, ErrorCode.NO_ERROR, after_end=True),
    ]
    assert pair.client.streams == 0


def test_a_reset_goes_out_once_and_what_is_on_its_way_is_ignored() -> None:
    peer = client_of(session())
    peer.connect()
    peer.subject.reset(1, ErrorCode.CONNECT_ERROR)
    peer.subject.reset(1, ErrorCode.CANCEL)
    assert [tuple(each) for each in peer.hear()] == [(3, 0, 1, b"\0\0\0\n")]
    late = (
        data(1, b"x"),
        data(1, end=True),
        frames.window_update(1, 1),
        peer.headers(1, [], end=True),
    )
    assert peer.say(*late, frames.rst_stream(1, ErrorCode.CANCEL)) == []
    assert peer.hear() == []
    assert peer.subject.streams == 0


def test_what_is_on_its_way_is_ignored_for_the_last_256_streams() -> None:
    """Which of them we have reset is remembered of so many."""
    peer = client_of(session())
    for stream in range(1, 2 * 257, 2):
        peer.connect(stream)
        peer.subject.reset(stream, ErrorCode.CANCEL)
    peer.hear()
    assert peer.say(data(3, b"x")) == []
    assert peer.hear() == []
    assert peer.say(data(1, b"x")) == []
    assert kinds(peer.hear()) == ["RST_STREAM"]


def test_a_stream_that_nobody_knows_takes_no_orders() -> None:
    subject = Pair().server
    subject.answer(1, 200)
    subject.finish(1)
    subject.reset(1, ErrorCode.CANCEL)
    subject.consumed(1, 5, 0.0)
    assert (subject.sendable(1), subject.send(1, b"x")) == (0, 0)
    assert not subject.has_output


def test_windows_come_back_in_halves() -> None:
    pair = Pair(stream_window=100_000, connection_window=10_000_000)
    stream = pair.open()
    assert pair.client.send(stream, bytes(99_999)) == 99_999
    pair.pump()
    assert pair.client.sendable(stream) == 1
    pair.server.consumed(stream, 49_999, 0.0)
    assert not pair.server.has_output
    pair.server.consumed(stream, 1, 0.0)
    pair.pump()
    assert pair.client.sendable(stream) == 50_001


def test_no_more_is_given_back_than_has_come() -> None:
    pair = Pair(stream_window=100_000)
    stream = pair.open()
    pair.client.send(stream, bytes(60_000))
    pair.pump()
    pair.server.consumed(stream, 10**9, 0.0)
    pair.pump()
    assert pair.client.sendable(stream) == 2 * 100_000  # it was read quickly
    assert pair.server.held == 0


def fill(pair: Pair, stream: int) -> int:
    """Send all that a stream may; return how many bytes that was."""
    sent = 0
    while count := pair.client.send(stream, bytes(1 << 20)):
        sent += count
        pair.pump()
    return sent


def read_often(pair: Pair, *streams: int) -> list[int]:
    """Fill streams and read them; return how much each could be sent in the end."""
    sent: dict[int, int] = {}
    for _ in range(12):
        for stream in streams:
            sent[stream] = fill(pair, stream)
            pair.server.consumed(stream, 10**9, 0.0)
            pair.pump()
    return list(sent.values())


def test_streams_that_are_read_quickly_may_send_more_each_its_share() -> None:
    """Four windows of the tunnel more, by equal parts."""
    pair = Pair(stream_window=100_000, connection_window=1_000_000)
    first = pair.open()
    assert read_often(pair, first) == [4_100_000]
    second = pair.open()
    assert read_often(pair, first, second) == [2_100_000, 2_100_000]
    pair.server.reset(first, ErrorCode.CANCEL)
    pair.pump()
    assert read_often(pair, second) == [4_100_000]


def test_a_stream_that_is_read_slowly_keeps_its_first_window_though_its_peer_is_silent() -> None:
    """Nothing comes from a peer whose window is used up: only the reader knows the time."""
    peer, window = client_of(session()), 256 << 10
    peer.connect()
    for _ in range(5):
        peer.say(*(data(1, bytes(1 << 14)) for _ in range(window >> 14)))
        for _ in range(2):
            peer.now += SLOW_S * 1.01
            peer.subject.consumed(1, window // 2, peer.now)
        given = [each for each in peer.hear() if each.kind == FrameType.WINDOW_UPDATE]
        assert sum(int.from_bytes(each.payload) for each in given if each.stream) == window


def test_what_an_ended_stream_had_grown_by_is_free_though_it_is_open_the_other_way() -> None:
    pair = Pair(stream_window=100_000, connection_window=1_000_000)
    streams = [pair.open() for _ in range(2)]
    read_often(pair, *streams)
    for stream in streams:
        pair.client.finish(stream)
    pair.pump()
    other = pair.open()
    assert read_often(pair, other)[0] >= 4_000_000 // 3


def test_a_stream_that_had_grown_and_stalls_stops_only_itself() -> None:
    pair = Pair(stream_window=100_000, connection_window=1_000_000)
    stalled, other = pair.open(), pair.open()
    read_often(pair, stalled, other)
    assert fill(pair, stalled) == pair.server.held == 2_100_000
    assert read_often(pair, other) == [2_100_000]
    assert not pair.server.is_overfull


def test_a_stream_that_stalls_stops_only_itself() -> None:
    """Until a tunnel holds four times its window; then one is slowed down by the other."""
    pair = Pair(stream_window=200_000, connection_window=100_000)
    stalled, other = pair.open(), pair.open()
    left = 200_000
    while left:
        left -= pair.client.send(stalled, bytes(left))
        pair.pump()
    assert pair.client.sendable(stalled) == 0
    assert pair.server.held == 200_000
    for _ in range(50):
        assert pair.client.send(other, bytes(40_000)) == 40_000
        pair.pump()
        pair.server.consumed(other, 40_000, 0.0)
        pair.pump()


def test_what_all_streams_hold_is_bounded_and_comes_back_with_a_reset() -> None:
    pair = Pair(stream_window=200_000, connection_window=100_000)
    streams = [pair.open() for _ in range(10)]
    for stream in streams:
        while pair.client.send(stream, bytes(200_000)):
            pair.pump()
    assert pair.server.is_overfull
    assert pair.server.held <= 5 * 100_000
    assert pair.client.sendable(streams[-1]) == 0
    for stream in streams[:3]:
        pair.server.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
    pair.pump()
    assert not pair.server.is_overfull
    assert pair.client.sendable(streams[-1]) > 0


def test_a_ping_is_answered() -> None:
    pair = Pair()
    pair.client.ping()
    pair.client.ping()
    assert pair.pump() == ([PongReceived()], [])  # the last one's


def test_a_goodbye_in_two_steps_serves_what_was_opened_meanwhile() -> None:
    pair = Pair()
    old = pair.open()
    pair.server.go_away(final=False)
    pair.client.open(AUTHORITY)  # before the client has heard of it
    heard, asked = pair.pump()
    assert heard == [GoAwayReceived(MAX_STREAM_ID, ErrorCode.NO_ERROR, "")]
    assert isinstance(asked[0], RequestReceived)
    assert pair.client.room == 0
    pair.server.go_away(final=True)
    assert pair.pump()[0] == [GoAwayReceived(3, ErrorCode.NO_ERROR, "")]
    assert pair.client.send(old, b"goes on") == 7
    assert bytes_of(pair.pump()[1], old) == b"goes on"


def test_a_stream_above_the_last_one_is_ignored_and_may_be_tried_elsewhere() -> None:
    pair = Pair()
    old = pair.open()
    pair.server.go_away(final=True)
    late = pair.client.open(AUTHORITY)
    pair.client.send(late, b"early")
    heard, asked = pair.pump()
    assert asked == []
    (goodbye, reset) = heard
    assert goodbye == GoAwayReceived(old, ErrorCode.NO_ERROR, "")
    assert isinstance(reset, ResetReceived)
    assert (reset.stream, reset.code) == (late, ErrorCode.REFUSED_STREAM)
    assert (pair.client.streams, pair.server.streams) == (1, 1)
    assert pair.server.held == 0


def test_a_client_says_goodbye_without_naming_its_own_streams() -> None:
    pair = Pair()
    pair.open()
    pair.client.go_away(final=False)
    assert pair.client.room == 0
    assert pair.pump() == ([], [GoAwayReceived(0, ErrorCode.NO_ERROR, "")])
    assert pair.server.streams == 1


def test_after_a_close_nothing_is_heard_or_said() -> None:
    peer = client_of(session())
    peer.connect()
    peer.subject.close(ErrorCode.INTERNAL_ERROR, "why" * 999)
    peer.subject.close(ErrorCode.NO_ERROR, "")
    (goodbye,) = peer.hear()
    assert goodbye.payload.startswith(b"\0\0\0\1\0\0\0\2whywhy")
    assert len(goodbye.payload) == 8 + 160
    assert peer.say(peer.headers(3), frames.ping(bytes(8), ack=False)) == []
    peer.subject.ping()
    peer.subject.go_away(final=True)
    assert peer.subject.send(1, b"x") == 0
    assert peer.subject.streams == 0
    assert peer.hear() == []


def test_a_client_that_is_closed_has_no_room() -> None:
    client = Pair().client
    assert not client.is_closed
    client.close(ErrorCode.NO_ERROR, "")
    assert client.is_closed
    assert client.room == 0


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_who_has_heard_a_broken_rule_is_closed(server: bool) -> None:
    peer = (client_of if server else server_of)(session(server=server))
    assert not peer.subject.is_closed
    peer.say(frames.window_update(0, 0))
    assert peer.subject.is_closed


def test_a_client_that_closes_names_no_stream_of_its_server() -> None:
    peer = server_of(session(server=False))
    peer.subject.open(AUTHORITY)
    peer.hear()
    peer.subject.close(ErrorCode.INTERNAL_ERROR, "")
    assert [tuple(each) for each in peer.hear()] == [(7, 0, 0, b"\0\0\0\0\0\0\0\2")]


def test_what_a_stream_had_sent_before_its_reset_goes_out_first() -> None:
    peer = server_of(session(server=False))
    stream = peer.subject.open(AUTHORITY)
    peer.subject.send(stream, b"x")
    peer.subject.reset(stream, ErrorCode.CANCEL)
    assert kinds(peer.hear()) == ["HEADERS", "DATA", "RST_STREAM"]
