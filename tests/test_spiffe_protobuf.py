"""Fields in, fields out."""

from __future__ import annotations

import math
import struct

import pytest

from uproxy.errors import MessageError
from uproxy.spiffe.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    VARINT,
    expect_bytes,
    read_fields,
    read_text,
    write_double,
    write_fields,
    write_varint,
)


def read(data: bytes) -> list[tuple[int, int, bytes]]:
    return list(read_fields(data, "Thing"))


def test_what_is_written_is_read_back() -> None:
    fields = [(1, b"one"), (2, b""), (536_870_911, b"x" * 300)]

    assert read(write_fields(fields)) == [(n, LENGTH_DELIMITED, value) for n, value in fields]


def test_numbers_are_written_with_their_types() -> None:
    assert read(write_varint(3, 300)) == [(3, VARINT, b"\xac\x02")]
    assert read(write_varint(1, 0)) == [(1, VARINT, b"\0")]
    assert read(write_double(2, 1.5)) == [(2, FIXED64, struct.pack("<d", 1.5))]
    assert read(write_double(2, -(10**400))) == [(2, FIXED64, struct.pack("<d", -math.inf))]


def test_every_wire_type_of_proto3_is_stepped_over() -> None:
    data = b"\x08\xac\x02" + b"\x11" + b"8" * 8 + b"\x1d" + b"4" * 4 + b"\x22\x01z"

    assert read(data) == [
        (1, VARINT, b"\xac\x02"),
        (2, FIXED64, b"8" * 8),
        (3, FIXED32, b"4" * 4),
        (4, LENGTH_DELIMITED, b"z"),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a", "cut off"),
        (b"\x0a\x05abc", "field 1 ends 2 bytes too late"),
        (b"\x0a\xff\xff\xff\xff\x0f", "too late"),
        (b"\x08" + b"\xff" * 10, "too long"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "too long"),
        (b"\x80\x80\x80", "cut off"),
        (b"\x92\xfb\xff\xff\x83\x00\x01\x30", "too long"),
        (b"\x0a\x81\x80\x80\x80\x80\x00z", "too long"),
        (b"\x02\x00", "0 is not a field number"),
        (b"\xff\xff\xff\xff\x1f\x00", "not a field number"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0e", "wire type 6"),
        (b"\x11" + b"8" * 7, "too late"),
        (b"\x1d444", "too late"),
    ],
)
def test_what_is_not_protobuf_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        read(data)


def test_a_known_field_must_have_its_wire_type() -> None:
    expect_bytes(3, LENGTH_DELIMITED, "Thing")

    with pytest.raises(MessageError, match="Thing: field 3 has wire type 0, not 2"):
        expect_bytes(3, VARINT, "Thing")


def test_text_must_be_utf8() -> None:
    assert read_text("é".encode(), 1, "Thing") == "é"

    with pytest.raises(MessageError, match="field 1 is not UTF-8"):
        read_text(b"\xff", 1, "Thing")
