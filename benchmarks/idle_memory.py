"""What does a connection cost that is open and silent?

    N clients ── frontend's uProxy ── mTLS ── orders' uProxy ── an application that echoes

Every client sends one byte and waits for it to come back, so all handshakes are done; then
everybody is silent.  Printed is each uProxy's private memory (Private_Dirty: what every further
uProxy on a node costs) without connections, with N of them, and per connection.  Run it as
root: a uProxy lets no other process of its user look.  It doesn't measure the kernel's socket
buffers, nor a connection that moves bytes, nor speed.

    python -m benchmarks.idle_memory [N, default 500] [GROUP, default tls.groups' default]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.memory import private_dirty
from tests.helpers.pair import Pair

BATCH = 20
"""Connections opened at the same time."""
SETTLE_S = 2.0
"""So long nothing happens before memory is measured."""

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Echo(asyncio.Protocol):
    """The application: sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _open(port: int) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    await reader.readexactly(1)
    return reader, writer


async def measure(count: int, groups: Sequence[str]) -> None:
    """Print what `count` idle connections cost both uProxies; no `groups` means the default."""
    loop = asyncio.get_running_loop()
    application = await loop.create_server(_Echo, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder), {"echo": application.sockets[0].getsockname()[1]})
        if groups:
            pair.orders_config["tls"] = pair.frontend_config["tls"] = {"groups": list(groups)}
        with pair:
            uproxies = {"outbound": pair.frontend, "inbound": pair.orders}
            clients = [await _open(pair.port("echo"))]  # what the first one costs is no rate
            await asyncio.sleep(SETTLE_S)
            before = {name: private_dirty(each.pid) for name, each in uproxies.items()}
            while len(clients) <= count:
                batch = min(BATCH, count + 1 - len(clients))
                clients += await asyncio.gather(*(_open(pair.port("echo")) for _ in range(batch)))
            await asyncio.sleep(SETTLE_S)
            for name, each in uproxies.items():
                after = private_dirty(each.pid)
                rate = (after - before[name]) / count
                print(
                    f"{name:8}  1 connection {before[name] / 2**20:5.1f} MiB"
                    f"   {count + 1} connections {after / 2**20:5.1f} MiB"
                    f"   each {rate / 1024:5.1f} KiB"
                )
            for _, writer in clients:
                writer.close()
    application.close()


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 500, sys.argv[2:]))
