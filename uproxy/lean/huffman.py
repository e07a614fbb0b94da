"""HPACK's Huffman code (RFC 7541 section 5.2), decoded bit by bit.

hpack takes four bits at a time, with a table of 4,096 tuples.  The few headers with which a stream
of the Workload API begins can wait some microseconds longer.
"""

from __future__ import annotations

from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_END: Final = 256
"""The symbol that ends nothing: it must not be sent, and padding is the beginning of its code."""
_MOST_PADDING: Final = 0xFF
"""Seven bits, behind the one that stands in front of every code here."""

_SYMBOLS: Final = {
    1 << length | code: symbol
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
}
"""By code, with a one in front, so that zeros at its beginning count."""


def decode_huffman(encoded: bytes | bytearray | memoryview | None) -> bytes:
    """Return the octets that are encoded.

    Raises:
        HPACKDecodingError: it has the end's symbol, or more padding, or other, than it may have.
    """
    decoded, code = bytearray(), 1
    for byte in bytes(encoded or b""):
        for bit in range(7, -1, -1):
            code = code << 1 | byte >> bit & 1
            symbol = _SYMBOLS.get(code)
            if symbol == _END:
                raise HPACKDecodingError("the end's symbol is in a Huffman string")
            if symbol is not None:
                decoded.append(symbol)
                code = 1
    if code > _MOST_PADDING or code & (code + 1):
        raise HPACKDecodingError("a Huffman string ends in the middle of a symbol")
    return bytes(decoded)
