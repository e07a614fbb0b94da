"""The far end of a carrier: one connection on which two streams are carried in small frames.

A frame is the stream's number (1 byte), its kind (1 byte), the payload's size (2 bytes, big
endian) and the payload.  Each stream sends at most WINDOW bytes that its reader hasn't taken: the
reader gives credit back (CREDIT, 4 bytes, big endian) for what it has taken.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

from tests.helpers.streams import Stream

DATA, END, RESET, CREDIT = range(4)
"""The kinds of frames."""
HEADER = struct.Struct(">BBH")
WINDOW = 64 * 1024
"""Bytes."""
MAX_PAYLOAD = 16 * 1024
"""Bytes."""
STREAMS = (1, 2)
"""The numbers of the streams."""


def frame(stream: int, kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(stream, kind, len(payload)) + payload


def credit(stream: int, size: int) -> bytes:
    return frame(stream, CREDIT, size.to_bytes(4, "big"))


def take_frames(received: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Remove the complete frames from received bytes, and yield each one's stream, kind and
    payload."""
    while len(received) >= HEADER.size:
        stream, kind, size = HEADER.unpack_from(received)
        if len(received) < HEADER.size + size:
            return
        payload = bytes(received[HEADER.size : HEADER.size + size])
        del received[: HEADER.size + size]
        yield stream, kind, payload


class CarriedStream:
    """The far end of one stream; used like `tests.helpers.streams.Stream`."""

    def __init__(self, peer: CarrierPeer, number: int) -> None:
        self._peer = peer
        self._number = number
        self._received = bytearray()
        self._ended = False
        self._was_reset = False
        self._credit = WINDOW

    async def send(self, data: bytes) -> None:
        rest = data
        while rest:
            await self._peer.until(lambda: self._credit > 0)
            size = min(self._credit, MAX_PAYLOAD, len(rest))
            self._credit -= size
            await self._peer.send(frame(self._number, DATA, rest[:size]))
            rest = rest[size:]

    async def finish(self) -> None:
        await self._peer.send(frame(self._number, END))

    async def reset(self) -> None:
        await self._peer.send(frame(self._number, RESET))

    async def receive_exactly(self, size: int) -> bytes:
        """Return this many bytes, or fewer if the end comes first."""
        taken = bytearray()
        while len(taken) < size and (more := await self._receive(size - len(taken))):
            taken += more
        return bytes(taken)

    async def receive_all(self) -> bytes:
        """Return everything up to the end."""
        taken = bytearray()
        while more := await self._receive(WINDOW):
            taken += more
        return bytes(taken)

    async def is_reset(self) -> bool:
        """Wait for the end; return whether it is a reset."""
        try:
            await self.receive_all()
        except ConnectionResetError:
            return True
        return False

    async def _receive(self, size: int) -> bytes:
        await self._peer.until(lambda: self._received or self._ended or self._was_reset)
        taken = bytes(self._received[:size])
        del self._received[: len(taken)]
        if taken:
            await self._peer.send(credit(self._number, len(taken)))
        elif self._was_reset:
            raise ConnectionResetError
        return taken

    def on_frame(self, kind: int, payload: bytes) -> None:
        if kind == DATA:
            self._received += payload
            assert len(self._received) <= WINDOW, "more was sent than there was credit for"
        elif kind == END:
            self._ended = True
        elif kind == RESET:
            self._was_reset = True
        else:
            self._credit += int.from_bytes(payload, "big")


class CarrierPeer:
    """The far end of the connection."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.streams = {number: CarriedStream(self, number) for number in STREAMS}
        self._changed = asyncio.Condition()
        self._sending = asyncio.Lock()
        self._reading = asyncio.create_task(self._read())

    async def send(self, data: bytes) -> None:
        async with self._sending:
            await self.stream.send(data)

    async def until(self, ready: object) -> None:
        """Wait until `ready()` is true; frames change it."""
        assert callable(ready)
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(ready)

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        loop, received = asyncio.get_running_loop(), bytearray()
        while more := await loop.sock_recv(self.stream.socket, WINDOW):
            received += more
            async with self._changed:
                for number, kind, payload in take_frames(received):
                    self.streams[number].on_frame(kind, payload)
                self._changed.notify_all()
