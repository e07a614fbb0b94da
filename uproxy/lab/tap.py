"""A wire tap: forwards TCP from a loopback port to another and captures the bytes.

Like an observer on the network, it doesn't interpret them.  Rules: bytes and half-closes are
forwarded unchanged; when one side breaks the connection, the other is cut; of each direction
the first KEPT bytes are captured.
"""

from __future__ import annotations

import asyncio

from uproxy.lab.listening import LoopbackServer, Streams

KEPT = 1024 * 1024
"""Bytes captured for each direction of a connection; far more than the demonstration sends."""
_CHUNK = 64 * 1024


class Capture:
    """The captured bytes of one connection."""

    def __init__(self) -> None:
        self.from_client = bytearray()
        self.from_server = bytearray()

    @property
    def both_ways(self) -> tuple[bytearray, bytearray]:
        """Both directions."""
        return self.from_client, self.from_server


class Tap(LoopbackServer):
    """Listens on a free loopback port and forwards to `target`, another loopback port."""

    def __init__(self, target: int) -> None:
        super().__init__(self._forward)
        self.captures: list[Capture] = []
        """One for each connection, in order."""
        self._target = target

    async def _forward(self, client: Streams) -> None:
        """Forward one connection in both directions until both have ended."""
        capture = Capture()
        self.captures.append(capture)
        writers = [client[1]]
        try:
            server = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(server[1])
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(client[0], server[1], capture.from_client))
                group.create_task(_pump(server[0], client[1], capture.from_server))
            for writer in writers:
                writer.close()
                await writer.wait_closed()
        except* OSError:
            pass  # one side is gone, or couldn't be reached: the other is cut below
        finally:
            for writer in writers:
                writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
) -> None:
    """Forward one direction and keep its first KEPT bytes."""
    while data := await reader.read(_CHUNK):
        kept += data[: KEPT - len(kept)]
        writer.write(data)
        await writer.drain()
    writer.write_eof()
