"""The compiled engine's HPACK reads what the `hpack` library writes, refuses what that refuses, and
writes what that reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import hpack
import hypothesis.strategies as st
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from hypothesis import example, given

from tests.helpers import probes

MALFORMED, TOO_LARGE = -1, -2
MAX_LIST = 16 << 10
HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)

Field = tuple[bytes, bytes]


def native() -> Any:
    return probes.load("session_probe")


def theirs(decoder: hpack.Decoder, block: bytes) -> list[Field] | int:
    """What the library makes of a block: fields, or how it is refused."""
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.OversizedHeaderListError:
        return TOO_LARGE
    except hpack.HPACKError:
        return MALFORMED


def has_many_resizes(block: bytes) -> bool:
    """Whether a block begins with more changes of the table's size than two: that makes no sense,
    and only the library takes it."""
    at = count = 0
    while at < len(block) and block[at] & 0xE0 == 0x20:
        count += 1
        at += 1
        if block[at - 1] == 0x3F:
            while at < len(block) and block[at] & 0x80:
                at += 1
            at += 1
    return count > 2


def check_alike(blocks: Iterable[bytes]) -> None:
    """Decode the same blocks with both, until one is refused."""
    ours, library = native().Decoder(), hpack.Decoder(MAX_LIST)
    for block in blocks:
        got, expected = ours.decode(block), theirs(library, block)
        if isinstance(expected, int) or isinstance(got, int):
            assert isinstance(got, int)
            # of two faults in one block either may be the one that is seen
            assert isinstance(expected, int) or has_many_resizes(block)
            return
        assert got == expected
        count, size = ours.table or (0, 0)
        entries = library.header_table.dynamic_entries
        assert count == len(entries)
        assert size == sum(32 + len(name) + len(value) for name, value in entries)


names = st.one_of(
    st.sampled_from([name for name, _ in HeaderTable.STATIC_TABLE]),
    st.sampled_from([b"baggage", b"forwarded", b"traceparent", b"x-uproxy-caller", b""]),
    st.binary(max_size=40),
)
values = st.one_of(
    st.sampled_from([value for _, value in HeaderTable.STATIC_TABLE]),
    st.sampled_from([b"10.1.2.3:8080", b'for="10.1.0.9:41234"', b"k8s.pod.name=a,service=b"]),
    st.binary(max_size=300),
    st.integers(0, 5000).map(lambda size: b"v" * size),
)
fields = st.lists(st.tuples(names, values), max_size=12)
blocks_of_fields = st.lists(
    st.tuples(fields, st.booleans(), st.none() | st.integers(0, 4096)), max_size=8
)


def written(blocks: Sequence[tuple[list[Field], bool, int | None]]) -> list[bytes]:
    """The library's bytes of some blocks, each with or without Huffman's code, and perhaps with a
    change of the table's size before."""
    encoder = hpack.Encoder()
    made = []
    for block, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        made.append(encoder.encode(block, huffman=huffman))
    return made


@given(blocks_of_fields)
def test_what_the_library_has_written_is_read(
    blocks: list[tuple[list[Field], bool, int | None]],
) -> None:
    ours = native().Decoder()
    for block, (wanted, _, _) in zip(written(blocks), blocks, strict=True):
        expected: list[Field] | int = wanted
        if sum(32 + len(name) + len(value) for name, value in wanted) > MAX_LIST:
            expected = TOO_LARGE
        assert ours.decode(block) == expected
        if expected == TOO_LARGE:
            return


@given(blocks_of_fields, st.data())
def test_blocks_that_were_damaged_are_read_or_refused_as_by_the_library(
    blocks: list[tuple[list[Field], bool, int | None]], data: st.DataObject
) -> None:
    damaged = []
    for block in written(blocks):
        changed = bytearray(block)
        for _ in range(data.draw(st.integers(0, 3)) if changed else 0):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        damaged.append(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    check_alike(damaged)


@given(st.lists(st.binary(max_size=60), max_size=6))
@example([b"\x20\x20\x20"])
@example([b"\x3f\xe1\x1f"])
@example([b"\x3f\xe2\x1f"])
@example([b"\x80"])
@example([b"\xbe"])
@example([b"\x82\x20"])
@example([b"\x40\x01a\x01b", b"\xbe", b"\x20\xbe"])
@example([b"\xff\x80\x80\x80\x80\x01"])
@example([b"\xff\x80\x80\x80\x80\x80\x01"])
@example([b"\x00\x01a"])
@example([b"\x00\x01a\x05b"])
@example([b"\x00\x81"])
@example([b"\x00\x84\xff\xff\xff\xff\x00"])
@example([b"\x00\x81\xff\x00"])
@example([b"\x00\x82\x1f\xff\x00"])
def test_bytes_at_random_are_read_or_refused_as_by_the_library(blocks: list[bytes]) -> None:
    check_alike(blocks)


@given(st.binary(max_size=200))
def test_strings_in_huffmans_code_are_read(text: bytes) -> None:
    code = HUFFMAN.encode(text)
    if len(code) < 127:
        block = b"\x00\x01a" + bytes([0x80 | len(code)]) + code
        assert native().Decoder().decode(block) == [(b"a", text)]


@pytest.mark.parametrize("symbol", range(256))
def test_each_symbol_of_huffmans_code_is_read(symbol: int) -> None:
    text = bytes([symbol]) * 9
    code = HUFFMAN.encode(text)
    block = b"\x00\x01a" + bytes([0x80 | len(code)]) + code
    assert native().Decoder().decode(block) == [(b"a", text)]


def test_each_field_of_the_static_table_is_read() -> None:
    for number, (name, value) in enumerate(HeaderTable.STATIC_TABLE, 1):
        assert native().Decoder().decode(bytes([0x80 | number])) == [(name, value)]
    assert native().Decoder().decode(b"\xbe") == MALFORMED


def test_a_table_is_allocated_when_a_peer_adds_to_it() -> None:
    decoder = native().Decoder()
    decoder.decode(native().encoded(b"10.1.2.3:8080", fields=[(b"baggage", b"a=b")]))
    assert decoder.table is None
    decoder.decode(hpack.Encoder().encode([(b"baggage", b"a=b")]))
    assert decoder.table == (1, 42)


def test_a_table_never_counts_more_than_its_limit() -> None:
    decoder, encoder = native().Decoder(), hpack.Encoder()
    for number in range(3000):
        value = b"%d" % number * (1 + number % 300)
        decoder.decode(encoder.encode([(b"x-%d" % (number % 7), value[: number % 900])]))
        assert decoder.table is None or decoder.table[1] <= 4096


def test_a_list_may_be_as_long_as_its_limit_and_no_longer() -> None:
    block = hpack.Encoder().encode([(b"a", b"b" * 8159)] * 2, huffman=False)
    assert native().Decoder().decode(block) == [(b"a", b"b" * 8159)] * 2
    longer = block + b"\x00\x00\x00"
    assert native().Decoder().decode(longer) == TOO_LARGE


def test_a_small_block_that_means_a_large_list_is_refused() -> None:
    """A bomb: each byte refers to a field of almost the whole table (CVE-2016-6581)."""
    bomb = hpack.Encoder().encode([(b"a", b"b" * 4000)], huffman=False) + b"\xbe" * 16_000
    assert native().Decoder().decode(bomb) == TOO_LARGE


@given(st.binary(min_size=1, max_size=60), fields)
def test_what_is_written_is_read_by_the_library_and_leaves_its_table_alone(
    authority: bytes, more: list[Field]
) -> None:
    block = native().encoded(authority, fields=more)
    decoder = hpack.Decoder(1 << 20)
    expected = [(b":method", b"CONNECT"), (b":authority", authority), *more]
    assert theirs(decoder, block) == expected
    assert not decoder.header_table.dynamic_entries
    assert native().encoded(authority, fields=more) == block


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 503, 599])
def test_a_status_is_read_by_the_library(status: int) -> None:
    block = native().encoded(status=status)
    assert theirs(hpack.Decoder(), block) == [(b":status", b"%d" % status)]
