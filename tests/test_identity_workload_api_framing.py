"""What gRPC puts around messages."""

from __future__ import annotations

import pytest

from uproxy.errors import MessageError
from uproxy.identity.workload_api.framing import (
    MessageReader,
    decode_text,
    encode_text,
    frame,
)


def test_messages_come_out_whole_however_the_bytes_arrive() -> None:
    stream = frame(b"one") + frame(b"") + frame(b"three" * 100)

    for step in (1, 2, 5, 7, len(stream)):
        reader = MessageReader(1000)
        chunks = [stream[at : at + step] for at in range(0, len(stream), step)]
        messages = [message for chunk in chunks for message in reader.feed(chunk)]
        assert messages == [b"one", b"", b"three" * 100]


def test_a_message_of_exactly_the_most_is_read() -> None:
    assert MessageReader(10).feed(frame(b"x" * 10)) == [b"x" * 10]


def test_a_larger_message_is_refused_by_its_length_alone() -> None:
    with pytest.raises(MessageError, match="11 bytes is larger than 10"):
        MessageReader(10).feed(frame(b"x" * 11)[:5])


def test_a_compressed_message_is_refused() -> None:
    with pytest.raises(MessageError, match="compressed"):
        MessageReader(10).feed(b"\x01\x00\x00\x00\x01x")


@pytest.mark.parametrize("text", ["no identity issued", "100 %", "größer", "a\nb", "%41", "日本"])
def test_a_grpc_message_survives_its_encoding(text: str) -> None:
    encoded = encode_text(text)

    assert encoded.isascii()
    assert "\n" not in encoded
    assert decode_text(encoded) == text.replace("\n", " ")


@pytest.mark.parametrize(("sent", "seen"), [("%zz", "%zz"), ("%ff", "\N{REPLACEMENT CHARACTER}")])
def test_a_grpc_message_that_can_not_be_decoded_is_not_lost(sent: str, seen: str) -> None:
    assert decode_text(f"a {sent} b") == f"a {seen} b"


def test_a_grpc_message_can_not_break_a_log_line() -> None:
    assert decode_text("a%0Ab%1B[31m") == "a b [31m"
