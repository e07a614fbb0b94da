"""What waits to be sent is as few DATA frames as possible."""

from __future__ import annotations

from tests.helpers.hbone_sessions import settings
from uproxy.hbone import frames
from uproxy.hbone.codes import MAX_FRAME_BYTES, ErrorCode
from uproxy.hbone.frames import Frame, Splitter
from uproxy.hbone.output import Output


def sent(output: Output) -> list[Frame]:
    return list(Splitter(server=False).split(settings() + output.take()))[1:]


def send(output: Output, stream: int, payload: bytes) -> int:
    return output.data(stream, memoryview(payload))


def test_small_writes_share_a_frame() -> None:
    output = Output()
    begun = [send(output, 1, b"%d" % (number % 10)) for number in range(20_000)]
    frames_sent = sent(output)
    assert [len(frame.payload) for frame in frames_sent] == [
        MAX_FRAME_BYTES,
        20_000 - MAX_FRAME_BYTES,
    ]
    assert {frame.flags for frame in frames_sent} == {0}
    assert sum(begun) == 2
    assert b"".join(frame.payload for frame in frames_sent) == b"0123456789" * 2000


def test_a_frame_is_no_longer_than_everybody_accepts() -> None:
    output = Output()
    assert send(output, 1, bytes(2 * MAX_FRAME_BYTES + 1)) == 3
    assert [len(frame.payload) for frame in sent(output)] == [MAX_FRAME_BYTES, MAX_FRAME_BYTES, 1]


def test_a_frame_does_not_grow_past_one_of_another_stream() -> None:
    output = Output()
    for stream in (1, 3, 1):
        send(output, stream, b"x")
    assert [(frame.stream, frame.payload) for frame in sent(output)] == [
        (1, b"x"),
        (3, b"x"),
        (1, b"x"),
    ]


def test_a_frame_that_was_taken_does_not_grow() -> None:
    output = Output()
    send(output, 1, b"a")
    assert [frame.payload for frame in sent(output)] == [b"a"]
    send(output, 1, b"b")
    assert [frame.payload for frame in sent(output)] == [b"b"]


def test_the_end_rides_on_the_last_bytes() -> None:
    output = Output()
    send(output, 1, b"ab")
    send(output, 3, b"c")
    output.end(1)
    assert [tuple(frame) for frame in sent(output)] == [(0, 1, 1, b"ab"), (0, 0, 3, b"c")]


def test_the_end_behind_bytes_that_were_taken_is_one_empty_frame() -> None:
    output = Output()
    send(output, 1, b"ab")
    output.take()
    output.end(1)
    assert [tuple(frame) for frame in sent(output)] == [(0, 1, 1, b"")]


def test_frames_keep_their_order_and_are_taken_once() -> None:
    output = Output()
    assert not output.is_waiting
    output.add(frames.ping(bytes(8), ack=False))
    send(output, 1, b"a")
    output.reply(frames.rst_stream(1, ErrorCode.CANCEL))
    assert output.is_waiting
    assert [frame.kind for frame in sent(output)] == [6, 0, 3]
    assert not output.is_waiting
    assert output.take() == b""


def test_replies_are_counted_until_they_are_taken() -> None:
    output = Output()
    output.reply(frames.SETTINGS_ACK)
    output.reply(frames.SETTINGS_ACK)
    output.add(frames.SETTINGS_ACK)
    assert output.replies == 2
    output.take()
    assert output.replies == 0
