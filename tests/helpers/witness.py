"""An application that compares who calls: by the PROXY protocol, and by what each request says.

The PROXY protocol tells for whom the destination's uProxy takes a connection, a request's
`x-caller` for whom Envoy takes its tunnel, and `x-i-am` who the client is.
"""

from __future__ import annotations

import asyncio
from collections import Counter

_SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


class Witness:
    """Counts requests by caller, and those that came under another name."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.mixed: list[tuple[str, str, str]] = []
        """What the PROXY protocol, Envoy and the client said, where they disagree."""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handler of a connection."""
        self.connections += 1
        told = await _told(reader)
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                return
            fields = dict(line.partition(": ")[::2] for line in head.lower().split("\r\n")[1:])
            said = told, fields.get("x-caller", ""), fields.get("x-i-am", "")
            self.requests[said[2]] += 1
            if len(set(said)) > 1:
                self.mixed.append(said)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()


async def ask(port: int, who: str, requests: int, *, per_connection: int) -> None:
    """Make requests as `who` at a loopback port, so many on each connection.

    Raises:
        AssertionError: one is answered with something else than 200.
        OSError, EOFError: a connection broke.
    """
    answered = 0
    request = b"GET / HTTP/1.1\r\nhost: x\r\nx-i-am: %s\r\n\r\n" % who.encode()
    while answered < requests:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(min(per_connection, requests - answered)):
            writer.write(request)
            status = await reader.readuntil(b"\r\n\r\n")
            assert status.startswith(b"HTTP/1.1 200 "), status
            answered += 1
        writer.close()


async def _told(reader: asyncio.StreamReader) -> str:
    """Read a header of the PROXY protocol, version 2; return its TLV 0xD0."""
    head = await reader.readexactly(16)
    assert head[:12] == _SIGNATURE
    rest = await reader.readexactly(int.from_bytes(head[14:], "big"))
    tlv = rest[12:]
    assert tlv[:1] == b"\xd0", "the caller has no identity"
    return tlv[3 : 3 + int.from_bytes(tlv[1:3], "big")].decode()
