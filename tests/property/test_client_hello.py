"""Both engines hear a ClientHello to its end at the same piece, however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.hostile_hello import compiled, pieces, python
from uproxy.spiffe.presented import MAX_CLIENT_HELLO
from uproxy.transport.python.client_hello import MAX_HELLO

cuts = st.lists(st.integers(0, 300), max_size=6)
record = st.builds(
    lambda kind, length, content: bytes([kind, 3, 1]) + length(content) + content,
    st.sampled_from([22, 22, 22, 22, 21, 23]),
    st.sampled_from(
        [
            lambda content: len(content).to_bytes(2, "big"),
            lambda content: (len(content) + 9).to_bytes(2, "big"),
            lambda content: b"\xff\xff",
        ]
    ),
    st.binary(max_size=60),
)


def hello(content: bytes, lie: int) -> bytes:
    return b"\1" + max(0, len(content) + lie).to_bytes(3, "big") + content


def in_records(message: bytes, lengths: list[int]) -> bytes:
    stream = b""
    for piece in pieces(message, lengths):
        stream += b"\x16\3\1" + len(piece).to_bytes(2, "big") + piece
    return stream


hellos = st.builds(
    in_records,
    st.builds(hello, st.binary(max_size=200), st.sampled_from([0, 0, -1, 1, 500, 1 << 20])),
    st.lists(st.integers(0, 60), max_size=8),
)
streams = st.one_of(
    hellos,
    st.builds(bytes.__add__, hellos, st.binary(max_size=20)),
    st.lists(record, max_size=4).map(b"".join),
    st.binary(max_size=100),
)


@given(streams, cuts)
def test_both_engines_have_heard_enough_at_the_same_piece(stream: bytes, where: list[int]) -> None:
    heard = pieces(stream, where)
    assert compiled()(heard) == python(heard)


@given(st.binary(max_size=300), st.lists(st.integers(1, 60), max_size=8), cuts)
def test_a_hello_is_complete_with_its_last_byte(
    content: bytes, lengths: list[int], where: list[int]
) -> None:
    heard = pieces(in_records(hello(content, 0), lengths), where)
    assert compiled()(heard) == python(heard) == len(heard)


def test_more_than_a_hello_may_have_is_enough() -> None:
    for size, ends in ((MAX_HELLO - 1, -1), (MAX_HELLO, 1)):
        stream = in_records(hello(bytes(MAX_CLIENT_HELLO - 4), 0), [1] * MAX_CLIENT_HELLO)[:size]
        assert compiled()([stream]) == python([stream]) == ends


def test_a_hello_that_is_too_long_is_enough_at_its_header() -> None:
    for size, ends in ((MAX_CLIENT_HELLO, -1), (MAX_CLIENT_HELLO + 1, 1)):
        stream = in_records(hello(bytes(size - 4), 0), [1 << 13])[:9]
        assert compiled()([stream]) == python([stream]) == ends
