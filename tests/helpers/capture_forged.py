"""A segment of no connection, as a program: `python capture_forged.py FLAGS SOURCE PORT TO PORT`.

`FLAGS` are letters: `S`, `A`, `R`, `F`, and `P` for a payload.  The source must be an address of
the network namespace.  With `signed` behind it the segment has a signature (RFC 2385), which nobody
expects, so that it is dropped in silence.
"""

from __future__ import annotations

import socket
import struct
import sys

SEQUENCE, ACKNOWLEDGED = 7, 9
PAYLOAD = b"forged\n"
_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}
_SIGNATURE = struct.pack("!BB16s2x", 19, 18, b"")
_CHECKSUM_AT = 16


def main() -> None:
    flags, source, source_port, to, port, *more = sys.argv[1:]
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, to)
    made = segment(int(source_port), int(port), flags, is_signed="signed" in more)
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((source, 0))
        raw.sendto(with_checksum(made, ends), (to, 0))


def segment(source_port: int, port: int, flags: str, *, is_signed: bool) -> bytes:
    options = _SIGNATURE if is_signed else b""
    size = (20 + len(options)) // 4 << 4
    bits = sum(_BITS[each] for each in flags)
    head = struct.pack(
        "!HHIIBBHHH", source_port, port, SEQUENCE, ACKNOWLEDGED, size, bits, 1024, 0, 0
    )
    return head + options + (PAYLOAD if "P" in flags else b"")


def with_checksum(made: bytes, ends: bytes) -> bytes:
    """The same with its checksum (RFC 9293, 3.1); `ends` are both addresses."""
    data = ends + struct.pack("!II", len(made), socket.IPPROTO_TCP) + made
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    check = struct.pack("!H", ~total & 0xFFFF)
    return made[:_CHECKSUM_AT] + check + made[_CHECKSUM_AT + 2 :]


if __name__ == "__main__":
    main()
