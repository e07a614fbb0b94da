"""A wire tap: forwards TCP from a port of loopback to another, and keeps what went by.

It understands nothing of what it forwards, as somebody on the network would.  Rules: bytes
and half-closes pass unchanged; when one side breaks off, the other is cut; of each direction
the first KEPT bytes are kept.
"""

from __future__ import annotations

import asyncio

from uproxy.lab.listening import Listener, Streams

KEPT = 1024 * 1024
"""Bytes per direction of a connection; far more than the demonstration sends."""
_CHUNK = 64 * 1024


class Capture:
    """One connection, as it went by."""

    def __init__(self) -> None:
        self.from_client = bytearray()
        self.from_server = bytearray()

    @property
    def both_ways(self) -> tuple[bytearray, bytearray]:
        """Everything."""
        return self.from_client, self.from_server


class Tap(Listener):
    """Listens on a port of its own in front of `target`, a port of loopback."""

    def __init__(self, target: int) -> None:
        super().__init__(self._forward)
        self.captures: list[Capture] = []
        """In the order they came."""
        self._target = target

    async def _forward(self, client: Streams) -> None:
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
            pass  # one side broke off, or was never there: the other notices, as on any wire
        finally:
            for writer in writers:
                writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
) -> None:
    while data := await reader.read(_CHUNK):
        kept += data[: KEPT - len(kept)]
        writer.write(data)
        await writer.drain()
    writer.write_eof()
