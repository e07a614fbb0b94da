"""Bytes into frames and back, and what is wrong with some of them."""

from __future__ import annotations

import hyperframe.frame
import pytest

from tests.helpers.hbone_sessions import data, padded, settings
from uproxy.hbone import frames
from uproxy.hbone.codes import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME_BYTES,
    PADDED,
    PREFACE,
    PRIORITY,
    ErrorCode,
    FrameType,
    TunnelError,
)
from uproxy.hbone.frames import Frame, Splitter

SETTINGS = settings()


def split(*pieces: bytes, server: bool = False) -> list[Frame]:
    splitter = Splitter(server=server)
    return [frame for piece in pieces for frame in splitter.split(piece)]


def test_a_frame_has_type_flags_stream_and_payload() -> None:
    assert split(SETTINGS, data(5, b"abc", end=True)) == [
        Frame(FrameType.SETTINGS, 0, 0, b""),
        Frame(FrameType.DATA, 1, 5, b"abc"),
    ]


def test_a_frame_is_there_with_its_last_byte() -> None:
    stream = PREFACE + SETTINGS + data(1, b"abc")
    splitter = Splitter(server=True)
    lengths = [len(list(splitter.split(stream[at : at + 1]))) for at in range(len(stream))]
    assert [at for at, length in enumerate(lengths) if length] == [
        len(PREFACE + SETTINGS) - 1,
        len(stream) - 1,
    ]


def test_the_reserved_bit_of_a_stream_id_is_ignored() -> None:
    frame = bytearray(data(0x01020304))
    assert split(SETTINGS, bytes(frame))[1].stream == 0x01020304
    frame[5] |= 0x80
    assert split(SETTINGS, bytes(frame))[1].stream == 0x01020304


def test_the_first_settings_may_have_flags_that_nobody_knows() -> None:
    assert split(frames.frame(FrameType.SETTINGS, 0xFE, 0)) == [Frame(4, 0xFE, 0, b"")]


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1", b"\x16\x03\x01", b"X"]
)
def test_a_client_that_speaks_something_else_is_found_out_at_the_first_wrong_byte(
    said: bytes,
) -> None:
    right = sum(said.startswith(PREFACE[: end + 1]) for end in range(len(said)))
    assert split(*[bytes([each]) for each in said[:right]], server=True) == []
    with pytest.raises(TunnelError, match="doesn't speak HTTP/2") as caught:
        split(*[bytes([each]) for each in said[: right + 1]], server=True)
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


def test_a_server_that_speaks_something_else_is_shown() -> None:
    with pytest.raises(TunnelError) as caught:
        split(b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR
    assert caught.value.reason.endswith("it began with b'HTTP/1.1 404 Not Found\\r\\n'")


@pytest.mark.parametrize(
    "first", [data(1, b"x"), frames.SETTINGS_ACK, frames.ping(bytes(8), ack=False)]
)
def test_settings_come_first(first: bytes) -> None:
    with pytest.raises(TunnelError, match="doesn't speak HTTP/2"):
        split(first)


def test_a_frame_that_is_too_long_is_refused_by_its_header() -> None:
    longest = data(1, bytes(MAX_FRAME_BYTES))
    assert len(split(SETTINGS, longest)[1].payload) == MAX_FRAME_BYTES
    header = data(1, bytes(MAX_FRAME_BYTES + 1))[:9]
    with pytest.raises(TunnelError, match="16385 bytes") as caught:
        split(SETTINGS, header)
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_padding_and_priority_are_not_content() -> None:
    assert frames.content(Frame(FrameType.HEADERS, END_HEADERS, 1, b"block")) == b"block"
    flags = PADDED | PRIORITY | END_HEADERS
    both = Frame(FrameType.HEADERS, flags, 1, b"\2" + bytes(5) + b"block" + bytes(2))
    assert frames.content(both) == b"block"
    assert frames.content(both._replace(flags=PRIORITY, payload=bytes(5) + b"block")) == b"block"
    assert frames.content(split(SETTINGS, padded(1, b"abc", 255))[1]) == b"abc"
    assert frames.content(Frame(FrameType.DATA, PADDED, 1, b"\2" + bytes(2))) == b""


def test_a_flag_that_data_does_not_have_is_ignored() -> None:
    assert frames.content(Frame(FrameType.DATA, PRIORITY, 1, b"abcdefgh")) == b"abcdefgh"


@pytest.mark.parametrize(
    ("flags", "payload", "code"),
    [
        (PADDED, b"\3" + bytes(2), ErrorCode.PROTOCOL_ERROR),
        (PADDED, b"\xff", ErrorCode.PROTOCOL_ERROR),
        (PADDED, b"", ErrorCode.FRAME_SIZE_ERROR),
        (PRIORITY, bytes(4), ErrorCode.FRAME_SIZE_ERROR),
        (PADDED | PRIORITY, b"\1" + bytes(5), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_padding_and_priority_fit_into_their_frame(
    flags: int, payload: bytes, code: ErrorCode
) -> None:
    with pytest.raises(TunnelError) as caught:
        frames.content(Frame(FrameType.HEADERS, flags, 1, payload))
    assert caught.value.code is code


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 5, 9])
def test_frames_of_streams_are_not_on_stream_0(kind: int) -> None:
    with pytest.raises(TunnelError, match="on stream 0") as caught:
        frames.check_place(Frame(kind, 0, 0, bytes(4)))
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("kind", [4, 6, 7])
def test_frames_of_the_tunnel_are_not_on_a_stream(kind: int) -> None:
    with pytest.raises(TunnelError, match="on a stream") as caught:
        frames.check_place(Frame(kind, 0, 1, bytes(8)))
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(("kind", "length"), [(3, 4), (6, 8), (7, 8), (8, 4)])
@pytest.mark.parametrize("by", [-1, 1])
def test_frames_have_the_length_of_their_type(kind: int, length: int, by: int) -> None:
    frame = Frame(kind, 0, int(kind in (3, 8)), bytes(length))
    frames.check_place(frame)
    wrong = frame._replace(payload=bytes(length + by))
    if kind == FrameType.GOAWAY and by > 0:
        frames.check_place(wrong)  # what follows is debug data
        return
    with pytest.raises(TunnelError, match="bytes") as caught:
        frames.check_place(wrong)
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_settings_are_read_in_order_also_those_that_nobody_knows() -> None:
    payload = b"\0\4\0\0\0\1\x7f\x7f\0\0\0\2\0\4\0\0\0\3"
    assert frames.read_settings(payload) == [(4, 1), (0x7F7F, 2), (4, 3)]
    with pytest.raises(TunnelError, match="cut off") as caught:
        frames.read_settings(payload[:-1])
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_numbers_have_31_bits_and_codes_32() -> None:
    assert frames.read_number(b"\x80\0\0\5" + bytes(4)) == 5
    assert frames.read_code(b"\0\0\0\7") is ErrorCode.REFUSED_STREAM
    assert frames.read_code(b"\x80\0\0\7") is ErrorCode.INTERNAL_ERROR


def test_a_long_header_block_goes_on_in_continuations() -> None:
    block = bytes(range(256)) * 128 + b"x"
    made = split(SETTINGS, frames.headers(3, block, end=True))[1:]
    assert [(each.kind, each.flags, each.stream) for each in made] == [
        (1, 1, 3),
        (9, 0, 3),
        (9, 4, 3),
    ]
    assert b"".join(each.payload for each in made) == block
    assert split(SETTINGS, frames.headers(3, b"x", end=False))[1] == Frame(1, END_HEADERS, 3, b"x")
    (longest,) = split(SETTINGS, frames.headers(3, bytes(MAX_FRAME_BYTES), end=True))[1:]
    assert longest.flags == END_HEADERS | END_STREAM


def test_settings_are_made_of_several_values() -> None:
    (made,) = split(settings(ENABLE_PUSH=0, MAX_FRAME_SIZE=16384))
    assert frames.read_settings(made.payload) == [(2, 0), (5, 16384)]


def test_what_is_made_is_read_by_hyperframe() -> None:
    made = {
        frames.rst_stream(3, ErrorCode.CANCEL): "RstStreamFrame",
        settings(INITIAL_WINDOW_SIZE=99): "SettingsFrame",
        frames.SETTINGS_ACK: "SettingsFrame",
        frames.ping(b"12345678", ack=True): "PingFrame",
        frames.go_away(7, ErrorCode.ENHANCE_YOUR_CALM, "too much"): "GoAwayFrame",
        frames.window_update(0, 2**31 - 1): "WindowUpdateFrame",
        data(1, bytes(MAX_FRAME_BYTES), end=True): "DataFrame",
    }
    for each, kind in made.items():
        parsed, length = hyperframe.frame.Frame.parse_frame_header(memoryview(each[:9]))
        parsed.parse_body(memoryview(each[9:]))
        assert type(parsed).__name__ == kind
        assert length == len(each) - 9
        assert parsed.serialize() == each


def test_a_ping_and_its_answer_differ_in_a_flag() -> None:
    for ack in (False, True):
        assert split(SETTINGS, frames.ping(b"12345678", ack=ack))[1] == (
            6,
            int(ack),
            0,
            b"12345678",
        )


def test_a_frame_of_a_type_that_nobody_knows_has_a_name_too() -> None:
    assert frames.name(Frame(9, 0, 1, b"")) == "CONTINUATION"
    assert frames.name(Frame(10, 0, 1, b"")) == "a frame of type 10"
    frames.check_place(Frame(10, ACK, 1, b""))
