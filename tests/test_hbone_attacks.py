"""Each known attack on HTTP/2 has its end, and who does the same in measure is let."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import hpack
import pytest

from tests.helpers.hbone_sessions import (
    AUTHORITY,
    CONNECT,
    Pair,
    Peer,
    broken,
    bytes_of,
    client_of,
    data,
    padded,
    server_of,
    session,
    settings,
)
from uproxy.hbone import frames
from uproxy.hbone.budgets import (
    BUCKETS,
    MAX_CONTINUATIONS,
    MAX_REPLIES_WAITING,
    SMALL_DATA_BYTES,
    SMALL_DATA_ROOM,
    Flood,
)
from uproxy.hbone.codes import END_HEADERS, ErrorCode, FrameType
from uproxy.hbone.events import (
    Broken,
    RequestReceived,
    RequestRefused,
    ResetReceived,
    WindowOpened,
)
from uproxy.hbone.frames import frame

LONG = 100_000
"""More than any budget allows at once."""


def until_broken(
    peer: Peer, say: Callable[[int], bytes], *, hearing: bool = True
) -> tuple[int, Broken]:
    """Say something over and over; return how often it was said, and how that ended."""
    for count in range(1, LONG):
        events = peer.say(say(count))
        if hearing:
            peer.hear()
        if events and isinstance(events[-1], Broken):
            end = broken(events)
            assert end.code is ErrorCode.ENHANCE_YOUR_CALM
            return count, end
    pytest.fail("goes on for ever")


def always(said: bytes) -> Callable[[int], bytes]:
    """Say the same each time."""
    return lambda _: said


def at_rate(peer: Peer, per_second: float, say: Callable[[int], bytes]) -> None:
    """Say something at such a rate for a long time, without an end."""
    for count in range(1, LONG // 4):
        peer.now += 1 / per_second
        events = peer.say(say(count))
        peer.hear()
        assert not any(isinstance(event, Broken) for event in events), count


def connect_and_reset(peer: Peer) -> Callable[[int], bytes]:
    block = peer.block()
    peer.say(frames.headers(1, block, end=False), frames.rst_stream(1, ErrorCode.CANCEL))
    block = peer.block()  # short, because it is in the table by now

    def say(count: int) -> bytes:
        stream = 1 + 2 * count
        opened = frames.headers(stream, block, end=False)
        return opened + frames.rst_stream(stream, ErrorCode.CANCEL)

    return say


def test_rapid_reset_has_an_end() -> None:
    peer = client_of(session())
    count, end = until_broken(peer, connect_and_reset(peer))
    assert (count, end.flood) == (1000, Flood.RESETS)


def test_resets_in_measure_are_let() -> None:
    peer = client_of(session())
    at_rate(peer, 30, connect_and_reset(peer))


def test_resets_of_streams_that_were_answered_are_let() -> None:
    peer = client_of(session())
    block = peer.block()
    peer.say(frames.headers(1, block, end=False))
    block = peer.block()
    for stream in range(3, 10_001, 2):
        (event,) = peer.say(frames.headers(stream, block, end=False))
        assert isinstance(event, RequestReceived)
        peer.subject.answer(stream, 200)
        peer.hear()
        (event,) = peer.say(frames.rst_stream(stream, ErrorCode.CANCEL))
        assert isinstance(event, ResetReceived)


@pytest.mark.parametrize(
    "fault",
    [
        lambda stream: frames.window_update(stream, 0),
        lambda stream: frames.window_update(stream, 2**31 - 1),
        lambda stream: frame(FrameType.PRIORITY, 0, stream, bytes(4)),
        lambda stream: data(stream, end=True) + data(stream, b"x"),
    ],
    ids=["window by 0", "window too large", "short priority", "data after the end"],
)
def test_making_us_reset_streams_has_an_end(fault: Callable[[int], bytes]) -> None:
    peer = client_of(session())
    peer.say(frames.headers(1, peer.block(), end=False))
    block = peer.block()

    def say(count: int) -> bytes:
        stream = 1 + 2 * count
        return frames.headers(stream, block, end=False) + fault(stream)

    count, end = until_broken(peer, say)
    assert (count, end.flood) == (1001, Flood.RESETS)


def test_a_client_lets_its_server_fail_one_stream_after_the_other() -> None:
    """They are no more than it asks for."""
    peer = server_of(session(server=False))
    for _ in range(2000):
        stream = peer.subject.open(AUTHORITY)
        peer.hear()
        (event,) = peer.say(frames.window_update(stream, 0))
        assert isinstance(event, ResetReceived)


def test_a_flood_of_pings_has_an_end() -> None:
    peer = client_of(session())
    count, end = until_broken(peer, lambda _: frames.ping(bytes(8), ack=False))
    assert (count, end.flood) == (1001, Flood.PINGS)
    at_rate(client_of(session()), 90, lambda _: frames.ping(bytes(8), ack=False))


def test_a_flood_of_settings_has_an_end() -> None:
    for each in (settings(), frames.SETTINGS_ACK):
        peer = client_of(session())
        _, end = until_broken(peer, always(each))
        assert end.flood is Flood.SETTINGS


def test_one_frame_with_thousands_of_settings_is_refused() -> None:
    peer = client_of(session())
    for stream in range(1, 201, 2):
        peer.connect(stream)
    many = settings(INITIAL_WINDOW_SIZE=1)[9:] + settings(INITIAL_WINDOW_SIZE=2)[9:]
    end = broken(peer.say(frame(FrameType.SETTINGS, 0, 0, many * 1000)))
    assert end.flood is Flood.SETTINGS


def test_table_sizes_that_change_over_and_over_cost_two_changes_in_our_next_block() -> None:
    peer = client_of(session())
    both = settings(HEADER_TABLE_SIZE=0)[9:] + settings(HEADER_TABLE_SIZE=4096)[9:]
    for _ in range(20):
        peer.say(frame(FrameType.SETTINGS, 0, 0, both * 16))
    peer.connect(answered=False)
    peer.subject.answer(1, 200)
    assert peer.hear()[-1].payload == b"\x20\x3f\xe1\x1f\x88"


@pytest.mark.parametrize("empty", [data(1), padded(1, b"", 255), padded(1, b"", 0)])
def test_a_flood_of_empty_data_has_an_end(empty: bytes) -> None:
    peer = client_of(session())
    peer.connect()
    count, end = until_broken(peer, lambda _: empty)
    assert (count, end.flood) == (101, Flood.EMPTY_FRAMES)


def test_empty_data_that_ends_its_stream_is_let() -> None:
    """As all of ztunnel's."""
    peer = client_of(session())
    for stream in range(1, 2001, 2):
        peer.connect(stream)
        peer.say(data(stream, end=True))
        peer.subject.finish(stream)
    assert peer.subject.streams == 0


def test_continuations_without_an_end_have_one() -> None:
    for piece in (b"", b"\x88"):
        peer = client_of(session())
        peer.say(frame(FrameType.HEADERS, 0, 1, b""))
        more = frame(FrameType.CONTINUATION, 0, 1, piece)
        count, end = until_broken(peer, always(more))
        assert (count, end.flood) == (MAX_CONTINUATIONS + 1, Flood.CONTINUATIONS)


def in_two_pieces(peer: Peer, first: int) -> Callable[[int], bytes]:
    """A request each time, whose first frame has so many bytes of its block."""
    peer.say(frames.headers(1, peer.block(), end=False))
    block = peer.block()

    def say(count: int) -> bytes:
        stream = 1 + 2 * count
        begun = frame(FrameType.HEADERS, 0, stream, block[:first])
        return begun + frame(FrameType.CONTINUATION, END_HEADERS, stream, block[first:])

    return say


def test_blocks_that_begin_with_nothing_have_an_end() -> None:
    peer = client_of(session())
    count, end = until_broken(peer, in_two_pieces(peer, 0))
    assert (count, end.flood) == (101, Flood.EMPTY_FRAMES)


def test_blocks_in_pieces_are_let() -> None:
    peer = client_of(session())
    say = in_two_pieces(peer, 1)
    for count in range(1, 200):
        assert [type(event) for event in peer.say(say(count))] == [RequestReceived]


def test_a_block_of_many_kilobytes_is_refused_before_it_is_complete() -> None:
    peer = client_of(session())
    assert peer.say(frame(FrameType.HEADERS, 0, 1, bytes(16_384))) == []
    end = broken(peer.say(frame(FrameType.CONTINUATION, 0, 1, b"\0")))
    assert end.flood is Flood.HEADERS


def test_a_header_bomb_is_refused_and_leaves_no_memory() -> None:
    peer = client_of(session())
    coder = hpack.Encoder()
    bomb = coder.encode([*CONNECT, ("a", "b" * 4000)], huffman=False)
    assert len(peer.say(frames.headers(1, bomb, end=False))) == 1
    tracemalloc.start()
    end = broken(peer.say(frame(FrameType.HEADERS, END_HEADERS, 3, b"\xbe" * 16_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert end.flood is Flood.HEADERS
    assert peak < 200_000


def test_a_flood_of_priorities_has_an_end() -> None:
    peer = client_of(session())
    priority = frame(FrameType.PRIORITY, 0, 1, bytes(5))
    count, end = until_broken(peer, lambda _: priority)
    assert (count, end.flood) == (101, Flood.PRIORITIES)


def test_each_stream_may_have_priorities() -> None:
    peer = client_of(session())
    for stream in range(1, 200, 2):
        peer.connect(stream)
        assert peer.say(frame(FrameType.PRIORITY, 0, stream, bytes(5)) * 99) == []


def test_a_flood_of_window_updates_has_an_end() -> None:
    for stream in (0, 1):
        peer = client_of(session())
        peer.connect()
        update = frames.window_update(stream, 1)
        _, end = until_broken(peer, always(update))
        assert end.flood is Flood.WINDOW_UPDATES


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_each_stream_may_have_two_window_updates_beside(server: bool) -> None:
    """Before a byte was sent on it, as of an Envoy that opens its windows at once."""
    peer = (client_of if server else server_of)(session(server=server))
    for stream in range(1, 21, 2):
        if server:
            peer.connect(stream)
        else:
            assert peer.subject.open(AUTHORITY) == stream
    count, end = until_broken(peer, always(frames.window_update(0, 1)))
    assert end.flood is Flood.WINDOW_UPDATES
    assert count == BUCKETS[Flood.WINDOW_UPDATES].burst + 10 * 2 + 1


def opening(peer: Peer, size: int) -> Callable[[int], bytes]:
    """A WINDOW_UPDATE of so many bytes each time, after all that it allowed was sent."""
    peer.say(settings(INITIAL_WINDOW_SIZE=0), frames.window_update(0, 2**30))
    peer.connect()

    def say(_: int) -> bytes:
        assert peer.subject.send(1, bytes(1000)) <= size
        return frames.window_update(1, size)

    return say


@pytest.mark.parametrize("size", [1, 255])
def test_a_window_that_opens_a_few_bytes_at_a_time_has_an_end(size: int) -> None:
    peer = client_of(session())
    count, end = until_broken(peer, opening(peer, size))
    assert end.flood is Flood.WINDOW_UPDATES
    assert count < 1200


def test_a_window_that_opens_256_bytes_at_a_time_is_let() -> None:
    peer = client_of(session())
    say = opening(peer, 256)
    for count in range(1, 3000):
        assert peer.say(say(count)) == [WindowOpened(1)]
        peer.hear()


@pytest.mark.parametrize("size", [1, 16_384])
def test_who_gives_back_each_frame_twice_is_let(size: int) -> None:
    """On the stream and on the tunnel, as Go did for years, also for one byte at a time."""
    peer = client_of(session())
    peer.connect()
    for _ in range(10_000):
        assert peer.subject.send(1, bytes(size)) == size
        peer.hear()
        peer.say(frames.window_update(1, size), frames.window_update(0, size))
    assert peer.subject.streams == 1


def test_who_was_read_quickly_and_then_stalls_is_held_within_a_bound() -> None:
    """Five windows of the tunnel, and the four by which those of its streams may grow."""
    pair = Pair(stream_window=100_000, connection_window=100_000)
    streams = [pair.open()]
    for _ in range(20):
        for stream in streams:
            while pair.client.send(stream, bytes(100_000)):
                pair.pump()
                pair.server.consumed(stream, 10**9, 0.0)
                if pair.client.sendable(stream) >= 100_000:
                    break
        streams.append(pair.open())
    for stream in streams:
        while pair.client.send(stream, bytes(100_000)):
            pair.pump()
    assert pair.server.is_overfull
    assert pair.server.held <= (5 + 4) * 100_000


def test_small_frames_that_nobody_reads_have_an_end() -> None:
    peer = client_of(session(stream_window=1 << 20, connection_window=1 << 20))
    peer.connect()
    count, end = until_broken(peer, lambda _: data(1, b"x"))
    assert end.flood is Flood.SMALL_DATA
    assert count == SMALL_DATA_ROOM // (SMALL_DATA_BYTES - 1) + 1


def test_by_how_much_small_frames_fall_short_is_counted_to_the_byte() -> None:
    peer = client_of(session(stream_window=1 << 20, connection_window=1 << 20))
    peer.connect(1)
    peer.connect(3)
    whole, rest = divmod(SMALL_DATA_ROOM, SMALL_DATA_BYTES - 1)
    for _ in range(2):
        peer.say(data(1, b"x") * whole, data(1, bytes(SMALL_DATA_BYTES - rest)))
        # what isn't small makes up for nothing
        peer.say(data(1, bytes(SMALL_DATA_BYTES)), data(1, bytes(1000)))
        peer.subject.consumed(1, peer.subject.held, 0.0)
    peer.say(data(1, b"x") * whole, data(1, bytes(SMALL_DATA_BYTES - rest)))
    peer.say(data(1, bytes(SMALL_DATA_BYTES)), data(1, bytes(1000)))
    assert len(peer.say(data(3, b"x", end=True))) == 2  # the last of a stream may be small
    assert broken(peer.say(data(1, b"x"))).flood is Flood.SMALL_DATA


def test_padding_does_not_hide_small_frames() -> None:
    peer = client_of(session(stream_window=1 << 30, connection_window=1 << 30))
    peer.connect()
    _, end = until_broken(peer, lambda _: padded(1, b"x", 255))
    assert end.flood is Flood.SMALL_DATA


def test_small_frames_that_are_read_are_let() -> None:
    peer = client_of(session())
    peer.connect()
    for _ in range(LONG):
        assert len(peer.say(data(1, b"x"))) == 1
        peer.subject.consumed(1, 1, 0.0)
        peer.subject.take_output()


def test_a_ztunnel_that_barely_coalesces_is_let_by_who_does_not_read() -> None:
    """20,000 one-byte writes became 8,500 frames."""
    peer = client_of(session())
    peer.connect()
    events = peer.say(*[data(1, b"abc")] * 8500)
    assert len(bytes_of(events, 1)) == 25_500


def test_small_frames_of_a_stream_that_was_reset_count_no_more() -> None:
    peer = client_of(session())
    for stream in range(1, 41, 2):
        peer.connect(stream)
        peer.say(*[data(stream, b"x")] * 5000)
        peer.subject.reset(stream, ErrorCode.CANCEL)
    assert peer.subject.held == 0


def test_a_flood_of_streams_above_the_limit_has_an_end() -> None:
    peer = client_of(session(max_streams=0))
    peer.say(frames.headers(1, peer.block(), end=False))
    block = peer.block()
    count, end = until_broken(peer, lambda count: frames.headers(1 + 2 * count, block, end=False))
    assert (count, end.flood) == (2048, Flood.REFUSALS)


def test_envoys_cold_burst_of_1024_streams_is_refused_one_by_one() -> None:
    peer = client_of(session(max_streams=10))
    peer.say(frames.headers(1, peer.block(), end=False))
    block = peer.block()
    burst = [frames.headers(1 + 2 * count, block, end=False) for count in range(1, 1024)]
    events = peer.say(*burst)
    assert sum(isinstance(event, RequestReceived) for event in events) == 9
    assert sum(isinstance(event, RequestRefused) for event in events) == 1014


def test_a_flood_of_requests_that_are_none_has_an_end() -> None:
    peer = client_of(session())
    block = hpack.Encoder().encode([(":method", "GET", True)])
    count, end = until_broken(peer, lambda count: frames.headers(2 * count - 1, block, end=True))
    assert end.flood is Flood.REFUSALS
    assert count == BUCKETS[Flood.REFUSALS].burst + 1


def connects(peer: Peer, answer: Callable[[int], None]) -> Callable[[int], bytes]:
    """A CONNECT each time, after the owner of the session has answered the one before."""
    peer.say(frames.headers(1, peer.block(), end=False))
    block = peer.block()

    def say(count: int) -> bytes:
        answer(2 * count - 1)
        return frames.headers(1 + 2 * count, block, end=False)

    return say


@pytest.mark.parametrize("status", [400, 403, 499])
def test_who_asks_over_and_over_for_what_it_may_not_reach_is_told_to_calm_down(
    status: int,
) -> None:
    peer = client_of(session())

    def deny(stream: int) -> None:
        peer.subject.answer(stream, status, end=True)

    count, end = until_broken(peer, connects(peer, deny))
    assert (count, end.flood) == (BUCKETS[Flood.DENIALS].burst + 1, Flood.DENIALS)


def test_200_clients_of_one_tunnel_may_be_denied_every_second() -> None:
    peer = client_of(session())
    at_rate(peer, 200, connects(peer, lambda stream: peer.subject.answer(stream, 403, end=True)))


@pytest.mark.parametrize("status", [399, 500, 503])
def test_an_answer_that_does_not_blame_the_client_is_no_denial(status: int) -> None:
    """As of an application that is down."""
    peer = client_of(session())
    say = connects(peer, lambda stream: peer.subject.answer(stream, status, end=True))
    for count in range(1, int(BUCKETS[Flood.DENIALS].burst) + 10):
        assert not any(isinstance(event, Broken) for event in peer.say(say(count)))
        peer.hear()


def test_a_flood_of_streams_for_which_there_is_no_room_has_an_end() -> None:
    peer = client_of(session())
    say = connects(peer, lambda stream: peer.subject.reset(stream, ErrorCode.REFUSED_STREAM))
    count, end = until_broken(peer, say)
    assert (count, end.flood) == (BUCKETS[Flood.REFUSALS].burst + 1, Flood.REFUSALS)


@pytest.mark.parametrize(
    "stray",
    [frames.rst_stream(1, ErrorCode.CANCEL), frame(0xBE, 0, 0, b""), data(1, b"x")],
    ids=["reset", "unknown", "data"],
)
def test_a_flood_of_frames_without_effect_has_an_end(stray: bytes) -> None:
    peer = client_of(session())
    peer.connect()
    peer.subject.reset(1, ErrorCode.CANCEL)
    _, end = until_broken(peer, lambda _: stray)
    assert end.flood is Flood.STRAYS


def with_streams(peer: Peer, *, server: bool) -> Peer:
    """Let the stream 1 be reset by us, 3 have ended in order, and 5 be open; and ask whether the
    peer is there."""
    for stream in (1, 3, 5):
        if server:
            peer.connect(stream)
        else:
            assert peer.subject.open(AUTHORITY) == stream
            peer.say(peer.headers(stream, [(":status", "200")]))
    peer.subject.reset(1, ErrorCode.CANCEL)
    peer.subject.finish(3)
    peer.say(data(3, end=True))
    peer.subject.ping()
    peer.hear()
    assert peer.subject.streams == 1
    return peer


ANSWERED_OR_IGNORED = {
    "DATA for a stream that we reset": (data(1, b"x"), Flood.STRAYS),
    "DATA for a stream that has ended": (data(3, b"x"), Flood.STRAYS),
    "the end of a stream that has ended": (data(3, end=True), Flood.STRAYS),
    "DATA without content": (data(5), Flood.EMPTY_FRAMES),
    "DATA of padding": (padded(5, b"", 200), Flood.EMPTY_FRAMES),
    "DATA of padding for a stream that we reset": (padded(1, b"", 200), Flood.EMPTY_FRAMES),
    "HEADERS for a stream that we reset": (frames.headers(1, b"\x88", end=True), Flood.STRAYS),
    "PRIORITY": (frame(FrameType.PRIORITY, 0, 5, bytes(5)), Flood.PRIORITIES),
    "PRIORITY of nobody's stream": (frame(FrameType.PRIORITY, 0, 99, bytes(5)), Flood.PRIORITIES),
    "PRIORITY of a stream that has ended": (
        frame(FrameType.PRIORITY, 0, 3, bytes(5)), Flood.PRIORITIES,
    ),
    "long PRIORITY of nobody's stream": (
        frame(FrameType.PRIORITY, 0, 99, bytes(6)), Flood.PRIORITIES,
    ),
    "short PRIORITY of a stream that has ended": (
        frame(FrameType.PRIORITY, 0, 3, bytes(4)), Flood.PRIORITIES,
    ),
    "empty PRIORITY of a stream that we reset": (
        frame(FrameType.PRIORITY, 0, 1, b""), Flood.PRIORITIES,
    ),
    "RST_STREAM of a stream that we reset": (
        frames.rst_stream(1, ErrorCode.CANCEL), Flood.STRAYS,
    ),
    "RST_STREAM of a stream that has ended": (
        frames.rst_stream(3, ErrorCode.CANCEL), Flood.STRAYS,
    ),
    "SETTINGS": (settings(HEADER_TABLE_SIZE=4096), Flood.SETTINGS),
    "SETTINGS of nothing": (frames.settings([]), Flood.SETTINGS),
    "the ACK of our SETTINGS": (frames.SETTINGS_ACK, Flood.SETTINGS),
    "PING": (frames.ping(bytes(8), ack=False), Flood.PINGS),
    "the answer to our PING": (frames.ping((1).to_bytes(8, "big"), ack=True), Flood.STRAYS),
    "the answer to no PING": (frames.ping(bytes(8), ack=True), Flood.STRAYS),
    "GOAWAY": (frames.go_away(5, ErrorCode.NO_ERROR, ""), Flood.STRAYS),
    "WINDOW_UPDATE": (frames.window_update(5, 1), Flood.WINDOW_UPDATES),
    "WINDOW_UPDATE of the tunnel": (frames.window_update(0, 1), Flood.WINDOW_UPDATES),
    "WINDOW_UPDATE of a stream that has ended": (frames.window_update(3, 1), Flood.WINDOW_UPDATES),
    "WINDOW_UPDATE by 0 of a stream that we reset": (
        frames.window_update(1, 0), Flood.WINDOW_UPDATES,
    ),
    "an unknown type": (frame(0xBE, 0, 5, b"x"), Flood.STRAYS),
    "an unknown type for nobody's stream": (frame(0xBE, 0, 99, b""), Flood.STRAYS),
}  # fmt: skip
"""Frames that end neither a tunnel nor an open stream, each with the budget it is charged to."""


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("what", ANSWERED_OR_IGNORED)
def test_whatever_is_answered_or_ignored_has_an_end(what: str, server: bool) -> None:
    said, flood = ANSWERED_OR_IGNORED[what]
    make = client_of if server else server_of
    peer = with_streams(make(session(server=server)), server=server)
    count, end = until_broken(peer, always(said))
    assert end.flood is flood
    assert count <= 10 * BUCKETS[flood].burst


def test_no_type_of_frame_is_missing_among_those_that_have_an_end() -> None:
    """The other two end the tunnel, or belong to a block, which has ends of its own."""
    kinds = {said[3] for said, _ in ANSWERED_OR_IGNORED.values()}
    assert kinds >= {*FrameType} - {FrameType.PUSH_PROMISE, FrameType.CONTINUATION}


def test_a_flood_of_requests_behind_our_goodbye_has_an_end() -> None:
    peer = client_of(session())
    peer.subject.go_away(final=True)
    peer.say(frames.headers(1, peer.block(), end=False))
    block = peer.block()
    count, end = until_broken(peer, lambda count: frames.headers(1 + 2 * count, block, end=False))
    assert (count, end.flood) == (BUCKETS[Flood.STRAYS].burst, Flood.STRAYS)


def test_a_flood_of_goodbyes_has_an_end() -> None:
    peer = client_of(session())
    _, end = until_broken(peer, lambda _: frames.go_away(0, ErrorCode.NO_ERROR, "x" * 1000))
    assert end.flood is Flood.STRAYS


def test_a_server_that_never_gets_to_its_answer_has_an_end() -> None:
    peer = server_of(session(server=False))
    peer.subject.open(AUTHORITY)
    for _ in range(5):
        assert peer.say(peer.headers(1, [(":status", "102")])) == []
    (event,) = peer.say(peer.headers(1, [(":status", "102")]))
    assert isinstance(event, ResetReceived)
    assert peer.subject.streams == 0


def test_who_asks_and_asks_and_takes_no_answer_has_an_end() -> None:
    """Each is denied, which no budget counts."""
    peer = client_of(session(max_streams=10))
    block = peer.block()
    peer.say(frames.headers(1, block, end=True))
    block, most = peer.block(), 0
    for stream in range(3, LONG, 2):
        peer.now += 1
        events = peer.say(frames.headers(stream, block, end=False))
        if isinstance(events[-1], Broken):
            assert broken(events).flood is Flood.REPLIES
            break
        peer.subject.answer(stream, 403, end=True)
        most = stream
    waiting = peer.subject.take_output()
    assert most // 2 <= MAX_REPLIES_WAITING
    assert len(waiting) < 200_000


def test_pings_that_nobody_takes_the_answers_of_have_an_end() -> None:
    peer = client_of(session(max_streams=10))
    for count in range(1, LONG):
        peer.now += 1
        events = peer.say(frames.ping(bytes(8), ack=False))
        if events:
            assert broken(events).flood is Flood.REPLIES
            assert count == MAX_REPLIES_WAITING + 2 * 10 + 1
            break
    assert len(peer.subject.take_output()) < 200_000


def test_a_silent_peers_stream_is_held_in_a_few_hundred_bytes() -> None:
    """It may stall for as long as its caller's timeouts let it."""
    peer = client_of(session(max_streams=10_000))
    peer.say(frames.headers(1, peer.block(), end=False))
    block = peer.block()
    tracemalloc.start()
    for stream in range(3, 2003, 2):
        peer.say(frames.headers(stream, block, end=False))
        peer.subject.answer(stream, 200)
        peer.subject.take_output()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert peer.subject.streams == 1001
    assert size / 1000 < 600


def everything(subject: object) -> int:
    """The bytes of an object and all that only it holds."""
    seen: set[int] = set()

    def size(value: object) -> int:
        if id(value) in seen or isinstance(value, type):
            return 0
        seen.add(id(value))
        inner: list[object] = []
        if isinstance(value, dict):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            inner = list(value)
        if hasattr(value, "__dict__"):
            inner += list(vars(value).values())
        inner += [
            getattr(value, slot) for slot in getattr(value, "__slots__", ()) if hasattr(value, slot)
        ]
        return sys.getsizeof(value) + sum(size(each) for each in inner)

    return size(subject)


def test_streams_that_have_ended_leave_nothing() -> None:
    peer = client_of(session())
    say = connect_and_reset(peer)

    def run(begin: int, end: int) -> int:
        for count in range(begin, end):
            peer.now += 1
            peer.say(say(count))
        peer.subject.take_output()
        return everything(peer.subject)

    assert run(1, 1000) >= run(1000, 5000) - 1000


def test_an_attack_on_one_tunnel_does_not_touch_another() -> None:
    peer, pair = client_of(session()), Pair()
    stream = pair.open()
    until_broken(peer, connect_and_reset(peer))
    assert pair.client.send(stream, b"x") == 1
    assert bytes_of(pair.pump()[1], stream) == b"x"
