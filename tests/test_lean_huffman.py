"""uproxy.lean.huffman: as hpack decodes it."""

from __future__ import annotations

from collections.abc import Callable

import hpack.huffman_table
import pytest
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import example, given
from hypothesis import strategies as st

from uproxy.lean.huffman import decode_huffman

encode = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode


def outcome(decode: Callable[[bytes], bytes], encoded: bytes) -> bytes | None:
    try:
        return bytes(decode(encoded))
    except HPACKDecodingError:
        return None


@given(st.binary())
@example(bytes(range(256)))
def test_what_was_encoded_comes_back(text: bytes) -> None:
    assert decode_huffman(encode(text)) == text


@given(st.binary() | st.lists(st.sampled_from([0, 0x7F, 0xF0, 0xFE, 0xFF])).map(bytes))
@example(b"\xff\xff\xff\xff")  # the end's symbol
@example(b"\xff")  # eight bits of padding
@example(b"\x1f\xff")
@example(b"\x1e")  # padding of a zero
def test_whatever_comes_is_decoded_or_refused_as_hpack_does(encoded: bytes) -> None:
    theirs = hpack.huffman_table.decode_huffman
    assert outcome(decode_huffman, encoded) == outcome(theirs, encoded)


def test_nothing_is_nothing() -> None:
    assert decode_huffman(None) == decode_huffman(b"") == b""


def test_a_kilobyte_of_ones_is_refused_at_once() -> None:
    with pytest.raises(HPACKDecodingError, match="end's symbol"):
        decode_huffman(b"\xff" * 1024)
