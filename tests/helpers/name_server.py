"""A name server, as a program: tells everybody who asks for any name the same two addresses.

`python name_server.py IPV4 IPV6`: answers questions for A and AAAA (RFC 1035) at UDP port 53 of
all addresses, says that there is nothing of other types, and prints `ready`.
"""

from __future__ import annotations

import socket
import struct
import sys

_A, _AAAA = 1, 28
_HEADER = struct.Struct("!6H")
_RESPONSE = 0x8580
"""QR, AA, RD, RA, and no error."""
_NAME = 0xC00C
"""A pointer to the question's name."""


def main() -> None:
    addresses = {
        _A: socket.inet_pton(socket.AF_INET, sys.argv[1]),
        _AAAA: socket.inet_pton(socket.AF_INET6, sys.argv[2]),
    }
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 53))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            asked, who = server.recvfrom(4096)
            server.sendto(answer(asked, addresses), who)


def answer(asked: bytes, addresses: dict[int, bytes]) -> bytes:
    end = asked.index(0, _HEADER.size) + 5
    question = asked[_HEADER.size : end]
    [type_] = struct.unpack("!H", question[-4:-2])
    address = addresses.get(type_, b"")
    head = asked[:2] + _HEADER.pack(0, _RESPONSE, 1, int(bool(address)), 0, 0)[2:]
    if not address:
        return head + question
    return head + question + struct.pack("!HHHIH", _NAME, type_, 1, 60, len(address)) + address


if __name__ == "__main__":
    main()
