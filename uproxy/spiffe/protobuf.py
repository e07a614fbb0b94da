"""The part of protocol buffers that the Workload API's messages need.

Not a protobuf library: no descriptors, groups, packed lists or enums.  Rules: each length is
checked before it is used; unknown fields are skipped; a known field must have its declared
wire type.  Whatever this decoder accepts, Google's accepts with the same meaning, but not the
other way round; the tests compare them.  Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from uproxy.errors import MessageError

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_MAX_FIELD = (1 << 29) - 1
_MAX_VARINT_BYTES = 10
_MAX_SMALL_BYTES = 5
"""The most bytes of a tag or a length.  These have 32 bits; Google's decoder reads longer ones,
padded with zeros, differently."""
_MAX_TAG = (1 << 32) - 1


def read_fields(data: bytes, what: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield (field number, wire type, payload) of each field, in order.

    The payload of a varint or fixed-size field is its encoded bytes, as no caller needs its
    value.  `what` names the message in errors.

    Raises:
        MessageError: the bytes are not a protobuf message.
    """
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at, what, _MAX_SMALL_BYTES)
        number, wire_type = tag >> 3, tag & 7
        if tag > _MAX_TAG or not 1 <= number <= _MAX_FIELD:
            raise MessageError(f"{what}: {number} is not a field number")
        start, end = _payload(data, at, wire_type, what)
        if end > len(data):
            raise MessageError(f"{what}: field {number} ends {end - len(data)} bytes too late")
        yield number, wire_type, data[start:end]
        at = end


def expect_bytes(number: int, wire_type: int, what: str) -> None:
    """Refuse a field that should be a string, bytes or a message but has another wire type.

    Raises:
        MessageError: the wire type isn't LENGTH_DELIMITED.
    """
    if wire_type != LENGTH_DELIMITED:
        raise MessageError(f"{what}: field {number} has wire type {wire_type}, not 2")


def read_text(payload: bytes, number: int, what: str) -> str:
    """Decode a string field.

    Raises:
        MessageError: it isn't UTF-8, which proto3 requires.
    """
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise MessageError(f"{what}: field {number} is not UTF-8") from error


def write_fields(fields: Iterable[tuple[int, bytes]]) -> bytes:
    """Encode (field number, payload) pairs; the caller leaves empty fields out."""
    out = bytearray()
    for number, payload in fields:
        out += _varint(number << 3 | LENGTH_DELIMITED)
        out += _varint(len(payload))
        out += payload
    return bytes(out)


def write_varint(number: int, value: int) -> bytes:
    """Encode an integer, enum or boolean field, its default value too."""
    return _varint(number << 3 | VARINT) + _varint(value)


def write_double(number: int, value: float) -> bytes:
    """Encode a double field; an integer beyond its range becomes infinite."""
    try:
        real = float(value)
    except OverflowError:
        real = float("inf") if value > 0 else float("-inf")
    return _varint(number << 3 | FIXED64) + struct.pack("<d", real)


def _payload(data: bytes, at: int, wire_type: int, what: str) -> tuple[int, int]:
    """Return the start and end of the payload of the field whose tag ends at `at`."""
    if wire_type == LENGTH_DELIMITED:
        length, at = _read_varint(data, at, what, _MAX_SMALL_BYTES)
        return at, at + length
    if wire_type == VARINT:
        return at, _read_varint(data, at, what, _MAX_VARINT_BYTES)[1]
    size = _FIXED_SIZES.get(wire_type)
    if size is None:
        raise MessageError(f"{what}: wire type {wire_type} has no place in proto3")
    return at, at + size


def _read_varint(data: bytes, at: int, what: str, most: int) -> tuple[int, int]:
    """Return the number at `at`, which may have `most` bytes, and the offset where it ends."""
    value = 0
    for position, byte in enumerate(data[at : at + most]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + position + 1
    raise MessageError(f"{what}: the number at byte {at} is cut off or too long")


def _varint(value: int) -> bytes:
    """Encode a number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
