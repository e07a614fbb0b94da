"""What a session hears of tunnels as a whole: SETTINGS, PING, GOAWAY, windows and resets."""

from __future__ import annotations

import pytest

from tests.helpers.hbone_sessions import (
    AUTHORITY,
    CONNECT,
    Pair,
    broken,
    client_of,
    data,
    kinds,
    server_of,
    session,
    settings,
)
from uproxy.hbone import frames
from uproxy.hbone.codes import DEFAULT_WINDOW, MAX_STREAM_ID, MAX_WINDOW, PREFACE, ErrorCode
from uproxy.hbone.events import (
    DataReceived,
    EndReceived,
    Event,
    GoAwayReceived,
    PongReceived,
    ResetReceived,
    SettingsReceived,
    WindowOpened,
)
from uproxy.hbone.frames import frame
from uproxy.hbone.headers import Encoder


def codes_of(heard: list[frames.Frame]) -> list[tuple[int, ErrorCode]]:
    """The streams that were reset, and how."""
    return [(each.stream, frames.read_code(each.payload)) for each in heard if each.kind == 3]


def test_settings_are_acknowledged_and_told() -> None:
    peer = client_of(session())
    assert peer.say(settings(INITIAL_WINDOW_SIZE=5)) == [SettingsReceived()]
    assert [tuple(each) for each in peer.hear()] == [(4, 1, 0, b"")]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"ENABLE_PUSH": 2}, ErrorCode.PROTOCOL_ERROR),
        ({"INITIAL_WINDOW_SIZE": MAX_WINDOW + 1}, ErrorCode.FLOW_CONTROL_ERROR),
        ({"MAX_FRAME_SIZE": 16383}, ErrorCode.PROTOCOL_ERROR),
        ({"MAX_FRAME_SIZE": 1 << 24}, ErrorCode.PROTOCOL_ERROR),
        ({"ENABLE_CONNECT_PROTOCOL": 2}, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_setting_out_of_its_range_ends_the_tunnel(
    values: dict[str, int], code: ErrorCode
) -> None:
    end = broken(client_of(session()).say(settings(**values)))
    assert end.code is code
    assert end.reason == f"the setting {next(iter(values))} is {next(iter(values.values()))}"


@pytest.mark.parametrize(
    "values",
    [
        {"ENABLE_PUSH": 1},
        {"INITIAL_WINDOW_SIZE": MAX_WINDOW},
        {"MAX_FRAME_SIZE": 16384},
        {"MAX_FRAME_SIZE": (1 << 24) - 1},
        {"ENABLE_CONNECT_PROTOCOL": 1},
        {"ENABLE_CONNECT_PROTOCOL": 0},
        {"MAX_HEADER_LIST_SIZE": 2**32 - 1},
        {"HEADER_TABLE_SIZE": 2**32 - 1},
    ],
)
def test_a_setting_in_its_range_is_taken(values: dict[str, int]) -> None:
    assert client_of(session()).say(settings(**values)) == [SettingsReceived()]


def test_a_setting_that_nobody_knows_is_ignored() -> None:
    unknown = frame(4, 0, 0, b"\x99\x99\xff\xff\xff\xff")
    assert client_of(session()).say(unknown) == [SettingsReceived()]


def test_a_server_may_not_push() -> None:
    peer = server_of(session(server=False))
    assert peer.say(settings(ENABLE_PUSH=0)) == [SettingsReceived()]
    assert broken(peer.say(settings(ENABLE_PUSH=1))).code is ErrorCode.PROTOCOL_ERROR
    for subject in (client_of(session()), server_of(session(server=False))):
        end = broken(subject.say(frame(5, 4, 1, bytes(4))))
        assert (end.code, end.reason) == (
            ErrorCode.PROTOCOL_ERROR,
            "PUSH_PROMISE, which SETTINGS forbid",
        )


def test_an_acknowledgement_has_no_payload() -> None:
    end = broken(client_of(session()).say(frame(4, 1, 0, bytes(6))))
    assert end.code is ErrorCode.FRAME_SIZE_ERROR


def test_a_smaller_table_is_confirmed_in_the_next_block() -> None:
    peer = client_of(session())
    peer.say(settings(HEADER_TABLE_SIZE=0))
    peer.connect(answered=False)
    peer.subject.answer(1, 200)
    assert peer.hear()[-1].payload == b"\x20\x88"


def test_new_initial_windows_move_those_of_open_streams() -> None:
    peer = client_of(session())
    peer.connect()
    peer.say(frames.window_update(0, 10**6))
    assert peer.subject.send(1, bytes(50_000)) == 50_000
    assert peer.say(settings(INITIAL_WINDOW_SIZE=100)) == [SettingsReceived()]
    assert peer.subject.sendable(1) == 0  # 49,900 below 0
    assert peer.say(frames.window_update(1, 49_900)) == []
    assert peer.subject.sendable(1) == 0
    assert peer.say(frames.window_update(1, 1)) == [WindowOpened(1)]
    assert peer.subject.sendable(1) == 1
    peer.say(settings(INITIAL_WINDOW_SIZE=0))
    assert peer.say(settings(INITIAL_WINDOW_SIZE=150)) == [SettingsReceived(), WindowOpened(1)]
    assert peer.subject.sendable(1) == 51


def test_of_several_initial_windows_the_last_one_counts() -> None:
    peer = client_of(session())
    peer.connect()
    both = settings(INITIAL_WINDOW_SIZE=MAX_WINDOW)[9:] + settings(INITIAL_WINDOW_SIZE=7)[9:]
    assert peer.say(frame(4, 0, 0, both)) == [SettingsReceived()]
    assert peer.subject.sendable(1) == 7


def test_an_initial_window_holds_for_new_streams() -> None:
    peer = client_of(session())
    peer.say(settings(INITIAL_WINDOW_SIZE=7))
    peer.connect()
    assert peer.subject.sendable(1) == 7


def test_initial_windows_that_make_one_too_large_end_the_tunnel() -> None:
    peer = client_of(session())
    peer.connect()
    peer.say(frames.window_update(1, MAX_WINDOW - DEFAULT_WINDOW))
    end = broken(peer.say(settings(INITIAL_WINDOW_SIZE=DEFAULT_WINDOW + 1)))
    assert end.code is ErrorCode.FLOW_CONTROL_ERROR


def test_a_window_of_ours_that_is_smaller_than_the_default_holds_once_it_is_acknowledged() -> None:
    peer = client_of(session(stream_window=1000))  # which acknowledges
    peer.connect()
    assert peer.say(data(1, bytes(1000)))
    (reset,) = peer.say(data(1, b"x"))
    assert isinstance(reset, ResetReceived)
    assert reset.code is ErrorCode.FLOW_CONTROL_ERROR


def test_a_smaller_window_of_ours_moves_those_of_open_streams() -> None:
    subject = session(stream_window=1000)
    subject.receive(PREFACE + settings() + hello(), 0.0)
    subject.receive(data(1, bytes(2000)), 0.0)
    subject.receive(frames.SETTINGS_ACK, 0.0)
    assert subject.receive(data(1, end=True), 0.0) == [EndReceived(1)]  # no byte of it

    subject.receive(hello(3), 0.0)
    assert len(subject.receive(data(3, bytes(1000)), 0.0)) == 1
    assert isinstance(subject.receive(data(3, b"x"), 0.0)[0], ResetReceived)


def test_of_what_came_before_our_smaller_window_as_much_more_must_be_consumed() -> None:
    subject = session(stream_window=1000)
    subject.receive(PREFACE + settings() + hello(), 0.0)
    subject.receive(data(1, bytes(2000)) + frames.SETTINGS_ACK, 9.0)
    subject.consumed(1, 2000, 0.0)  # so slowly that the window stays as it is
    assert len(subject.receive(data(1, bytes(1000)), 0.0)) == 1
    (reset,) = subject.receive(data(1, b"x"), 0.0)
    assert isinstance(reset, ResetReceived)


def hello(stream: int = 1) -> bytes:
    return frames.headers(stream, Encoder().encode(CONNECT), end=False)


def test_flags_that_nobody_knows_are_ignored() -> None:
    peer = client_of(session())
    assert peer.say(frame(4, 0xFE, 0, b"\0\4\0\0\0\7")) == [SettingsReceived()]
    assert peer.say(frame(6, 0xFE, 0, b"abcdefgh")) == []
    assert kinds(peer.hear()) == ["SETTINGS", "PING"]
    peer.connect()
    assert peer.subject.sendable(1) == 7


def test_one_frame_may_have_32_settings() -> None:
    many = settings(INITIAL_WINDOW_SIZE=7)[9:] * 32
    assert client_of(session()).say(frame(4, 0, 0, many)) == [SettingsReceived()]


def test_a_window_may_be_as_large_as_it_can() -> None:
    peer = client_of(session())
    peer.connect()
    peer.say(settings(INITIAL_WINDOW_SIZE=0), frames.window_update(1, 1))
    assert peer.say(settings(INITIAL_WINDOW_SIZE=MAX_WINDOW - DEFAULT_WINDOW)) == [
        SettingsReceived()
    ]
    assert peer.say(frames.window_update(1, DEFAULT_WINDOW - 1)) == []
    assert peer.subject.sendable(1) == DEFAULT_WINDOW
    for initial in (0, MAX_WINDOW - DEFAULT_WINDOW):  # and back to the largest
        assert peer.say(settings(INITIAL_WINDOW_SIZE=initial))[0] == SettingsReceived()
    end = broken(peer.say(settings(INITIAL_WINDOW_SIZE=MAX_WINDOW - DEFAULT_WINDOW + 1)))
    assert end.reason == f"the window of a stream grew over {MAX_WINDOW} bytes"


def test_before_that_the_default_holds() -> None:
    pair = Pair.__new__(Pair)
    pair.client, pair.server = session(server=False), session(stream_window=1000)
    stream = pair.client.open(AUTHORITY)
    sent = pair.client.send(stream, bytes(DEFAULT_WINDOW))
    assert sent == DEFAULT_WINDOW
    _, heard = pair.pump()
    assert not [event for event in heard if isinstance(event, ResetReceived)]
    pair.server.answer(stream, 200)
    pair.server.consumed(stream, sent, 0.0)
    pair.pump()
    assert pair.client.sendable(stream) == 2 * 1000  # it was read quickly


def test_a_ping_is_answered_with_its_own_bytes() -> None:
    peer = client_of(session())
    assert peer.say(frames.ping(b"abcdefgh", ack=False)) == []
    assert [tuple(each) for each in peer.hear()] == [(6, 1, 0, b"abcdefgh")]


def test_an_answer_to_no_ping_of_ours_is_ignored() -> None:
    peer = client_of(session())
    assert peer.say(frames.ping(bytes(8), ack=True)) == []
    peer.subject.ping()
    (asked,) = peer.hear()
    assert peer.say(frames.ping(b"\xff" * 8, ack=True)) == []
    assert peer.say(frames.ping(asked.payload, ack=True)) == [PongReceived()]


def test_a_window_that_opens_is_told_once_and_only_if_it_was_shut() -> None:
    peer = client_of(session())
    peer.connect()
    assert peer.say(frames.window_update(0, 1), frames.window_update(1, 1)) == []
    assert peer.subject.send(1, bytes(70_000)) == DEFAULT_WINDOW + 1
    more = (frames.window_update(0, 1), frames.window_update(1, 1))
    assert peer.say(*more, *more) == [WindowOpened(0), WindowOpened(1)]


def test_windows_that_open_are_told_in_the_order_of_their_streams() -> None:
    peer = client_of(session())
    for stream in (1, 3, 9):
        peer.connect(stream)
    peer.say(settings(INITIAL_WINDOW_SIZE=0))
    assert peer.say(*(frames.window_update(stream, 1) for stream in (9, 3, 1))) == [
        WindowOpened(stream) for stream in (1, 3, 9)
    ]


def test_a_new_initial_window_opens_those_that_were_shut_and_no_others() -> None:
    peer = client_of(session())
    peer.connect()
    peer.say(settings(INITIAL_WINDOW_SIZE=5))
    assert peer.subject.send(1, b"12345") == 5  # shut, and not below 0
    shut = settings(INITIAL_WINDOW_SIZE=5)
    opened = settings(INITIAL_WINDOW_SIZE=6)
    assert peer.say(shut) == [SettingsReceived()]
    assert peer.say(opened) == [SettingsReceived(), WindowOpened(1)]
    assert peer.say(settings(INITIAL_WINDOW_SIZE=7)) == [SettingsReceived()]
    peer.say(settings(INITIAL_WINDOW_SIZE=4))
    assert peer.say(shut) == [SettingsReceived()]  # from 1 below to 0


def test_a_peers_limit_of_streams_holds_until_it_says_another() -> None:
    subject = session(server=False)
    assert subject.allowed is None
    subject.receive(settings(), 0.0)
    assert subject.allowed == MAX_STREAM_ID
    for limit in (3, 5):
        subject.receive(settings(MAX_CONCURRENT_STREAMS=limit) + settings(), 0.0)
        assert subject.allowed == limit


def test_the_window_of_a_stream_that_is_gone_is_not_told() -> None:
    peer = client_of(session())
    peer.connect()
    peer.subject.send(1, bytes(70_000))
    events = peer.say(frames.window_update(1, 1), frames.rst_stream(1, ErrorCode.CANCEL))
    assert events == [ResetReceived(1, ErrorCode.CANCEL)]


def test_a_window_that_grows_by_nothing_is_an_error_of_its_stream_or_tunnel() -> None:
    peer = client_of(session())
    peer.connect()
    (reset,) = peer.say(frames.window_update(1, 0))
    assert isinstance(reset, ResetReceived)
    assert reset.reason == "WINDOW_UPDATE by 0"
    assert codes_of(peer.hear()) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert broken(peer.say(frames.window_update(0, 0))).code is ErrorCode.PROTOCOL_ERROR


def test_a_window_that_grows_too_large_is_an_error_of_its_stream_or_tunnel() -> None:
    peer = client_of(session())
    peer.connect()
    most = MAX_WINDOW - DEFAULT_WINDOW
    assert peer.say(frames.window_update(1, most), frames.window_update(0, most)) == []
    (reset,) = peer.say(frames.window_update(1, 1))
    assert isinstance(reset, ResetReceived)
    assert reset.reason == f"the window of a stream grew over {MAX_WINDOW} bytes"
    assert codes_of(peer.hear()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    end = broken(peer.say(frames.window_update(0, 1)))
    assert end.code is ErrorCode.FLOW_CONTROL_ERROR
    assert end.reason == f"the window of a tunnel grew over {MAX_WINDOW} bytes"


@pytest.mark.parametrize("stream", [1, 2, 3, 2**31 - 1])
@pytest.mark.parametrize(
    "kind", [(3, bytes(4)), (8, b"\0\0\0\1"), (0, b"x")], ids=["reset", "window", "data"]
)
def test_a_frame_for_a_stream_that_never_was_ends_the_tunnel(
    stream: int, kind: tuple[int, bytes]
) -> None:
    end = broken(client_of(session()).say(frame(kind[0], 0, stream, kind[1])))
    assert end.code is ErrorCode.PROTOCOL_ERROR
    assert end.reason.endswith(f"on stream {stream}, which isn't open")


@pytest.mark.parametrize("stream", [2, 4])
def test_an_even_stream_never_was_whatever_is_open(stream: int) -> None:
    peer = client_of(session())
    peer.connect(5)
    end = broken(peer.say(frames.rst_stream(stream, ErrorCode.CANCEL)))
    assert end.code is ErrorCode.PROTOCOL_ERROR


def test_a_reset_ends_the_stream_for_both() -> None:
    pair = Pair()
    stream = pair.open()
    pair.client.reset(stream, ErrorCode.CANCEL)
    assert pair.pump() == ([], [ResetReceived(stream, ErrorCode.CANCEL)])
    assert (pair.client.streams, pair.server.streams) == (0, 0)
    assert pair.server.send(stream, b"x") == 0


def test_a_server_may_refuse_stream_after_stream() -> None:
    peer = server_of(session(server=False))
    for _ in range(1200):
        stream = peer.subject.open(AUTHORITY)
        refusal = frames.rst_stream(stream, ErrorCode.REFUSED_STREAM)
        assert peer.say(refusal) == [ResetReceived(stream, ErrorCode.REFUSED_STREAM)]
        peer.hear()


def test_what_a_reset_stream_holds_counts_until_it_is_consumed_or_dropped() -> None:
    """Else a peer could have us hold more and more, by resetting streams that nobody reads."""
    pair = Pair(connection_window=1 << 20)
    for drop in (True, False):
        stream = pair.open()
        pair.client.send(stream, bytes(1000))
        pair.client.reset(stream, ErrorCode.CANCEL)
        pair.pump()
        assert (pair.server.streams, pair.server.held) == (1, 1000)
        if drop:
            pair.server.reset(stream, ErrorCode.CANCEL)
        else:
            pair.server.consumed(stream, 1000, 0.0)
        assert (pair.server.streams, pair.server.held) == (0, 0)
        assert not pair.server.has_output


def test_a_stream_that_was_reset_is_not_reset_again() -> None:
    peer = client_of(session())
    peer.connect()
    peer.say(data(1, b"x"), frames.rst_stream(1, ErrorCode.CANCEL))
    assert peer.subject.streams == 1
    assert peer.say(frames.rst_stream(1, ErrorCode.CANCEL)) == []
    assert peer.subject.streams == 1


def test_a_reset_behind_the_end_is_an_orderly_one() -> None:
    pair = Pair()
    stream = pair.open()
    pair.server.finish(stream)
    pair.server.reset(stream, ErrorCode.NO_ERROR)
    end, reset = pair.pump()[0]
    assert end == EndReceived(stream)
    assert isinstance(reset, ResetReceived)
    assert reset.is_orderly


def test_a_goodbye_leaves_the_streams_that_the_peer_has_looked_at() -> None:
    peer = server_of(session(server=False))
    streams = [peer.subject.open(AUTHORITY) for _ in range(3)]
    goodbye, *resets = peer.say(frames.go_away(3, ErrorCode.ENHANCE_YOUR_CALM, "no\xe9\n"))
    assert goodbye == GoAwayReceived(3, ErrorCode.ENHANCE_YOUR_CALM, "no\\xc3\\xa9\\n")
    assert [(each.stream, each.code) for each in resets if isinstance(each, ResetReceived)] == [
        (streams[2], ErrorCode.REFUSED_STREAM)
    ]
    assert (peer.subject.streams, peer.subject.room) == (2, 0)
    assert peer.subject.send(streams[0], b"x") == 1


def test_a_second_goodbye_names_no_later_stream() -> None:
    peer = server_of(session(server=False))
    peer.subject.open(AUTHORITY)

    def last(said: bytes) -> int:
        event: Event = peer.say(said)[0]
        assert isinstance(event, GoAwayReceived)
        return event.last_stream

    assert last(frames.go_away(1, ErrorCode.NO_ERROR, "")) == 1
    assert last(frames.go_away(5, ErrorCode.NO_ERROR, "")) == 1


def test_a_goodbye_with_a_code_that_nobody_knows_is_none_of_the_others() -> None:
    said = frame(7, 0, 0, (0).to_bytes(4, "big") + (1 << 24 | 8).to_bytes(4, "big"))
    (event,) = client_of(session()).say(said)
    assert isinstance(event, GoAwayReceived)
    assert event.code is ErrorCode.INTERNAL_ERROR


def test_a_clients_goodbye_ends_none_of_its_own_streams() -> None:
    peer = client_of(session())
    peer.connect()
    assert peer.say(frames.go_away(0, ErrorCode.NO_ERROR, "")) == [
        GoAwayReceived(0, ErrorCode.NO_ERROR, "")
    ]
    assert peer.say(data(1, b"x")) == [DataReceived(1, b"x")]


def test_a_server_that_goes_on_with_what_it_said_goodbye_to_is_told_that_it_is_over() -> None:
    peer = server_of(session(server=False))
    peer.subject.open(AUTHORITY)
    peer.hear()
    peer.say(frames.go_away(0, ErrorCode.NO_ERROR, ""))
    assert peer.say(data(1, b"x")) == []
    assert codes_of(peer.hear()) == [(1, ErrorCode.STREAM_CLOSED)]


def test_what_a_goodbye_says_is_kept_short() -> None:
    (event,) = client_of(session()).say(frames.go_away(0, ErrorCode.NO_ERROR, "x" * 9999))
    assert isinstance(event, GoAwayReceived)
    assert event.debug == "x" * 160


def test_a_priority_of_wrong_length_ends_its_stream_if_there_is_one() -> None:
    peer = client_of(session())
    assert peer.say(frame(2, 0, 9, bytes(4))) == []
    assert peer.hear() == []
    peer.connect()
    (reset,) = peer.say(frame(2, 0, 1, bytes(4)))
    assert isinstance(reset, ResetReceived)
    assert codes_of(peer.hear()) == [(1, ErrorCode.FRAME_SIZE_ERROR)]


def test_priorities_and_frames_that_nobody_knows_are_ignored() -> None:
    peer = client_of(session())
    peer.connect()
    said = (frame(2, 0, 1, bytes(5)), frame(2, 0, 99, bytes(5)), frame(0xBE, 0xFF, 77, b"grease"))
    assert peer.say(*said) == []
    assert kinds(peer.hear()) == []
    assert peer.subject.streams == 1
