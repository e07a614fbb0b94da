"""Ten thousand idle streams at the called side.

The application and the peers that hold them need few descriptors in this process, so that the
engine may have one for each.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import hpack
import pytest

from tests.helpers import crowds, engines
from tests.helpers.apps import Redis
from tests.helpers.engines import open_door
from tests.helpers.streams import Stream
from tests.helpers.tls_streams import TlsStream
from tests.helpers.tunnels import ALPN, PEER, inbound_door
from uproxy.contract import Engine
from uproxy.hbone import frames
from uproxy.hbone.codes import PREFACE, FrameType
from uproxy.hbone.frames import Splitter, frame
from uproxy.lab.waiting import eventually
from uproxy.model import Address, Limits

engine = engines.tunnel_engine

TUNNELS, STREAMS = 10, 1000
"""A peer may have 1,024 streams in a tunnel."""
AT_ONCE = 100


class RawPeer:
    """A client that speaks in frames: it knows nothing of its streams but what it has heard."""

    def __init__(self, tls: TlsStream) -> None:
        self.heard: dict[int, bytes] = {}
        self.answered: set[int] = set()
        self._tls = tls
        self._encoder = hpack.Encoder()
        self._splitter = Splitter(server=False)

    @classmethod
    async def connect(cls, address: Address) -> RawPeer:
        tls = TlsStream(await Stream.connect(address), PEER, alpn=ALPN)
        await tls.handshake()
        await tls.send(PREFACE + frames.settings([]) + frames.SETTINGS_ACK)
        return cls(tls)

    async def open(self, streams: range, authority: str) -> None:
        """Send CONNECTs, and wait until each is answered."""
        names = [(":method", "CONNECT"), (":authority", authority)]
        await self._tls.send(
            b"".join(
                frames.headers(stream, self._encoder.encode(names), end=False) for stream in streams
            )
        )
        while not self.answered.issuperset(streams):
            await self._hear()

    async def ping(self, streams: range) -> None:
        """Have Redis answer on each of some streams."""
        self.heard.clear()
        await self._tls.send(
            b"".join(frame(FrameType.DATA, 0, stream, b"PING\r\n") for stream in streams)
        )
        while self.heard != dict.fromkeys(streams, b"+PONG\r\n"):
            await self._hear()

    async def _hear(self) -> None:
        for each in self._splitter.split(await self._receive()):
            assert each.kind not in (FrameType.RST_STREAM, FrameType.GOAWAY), each
            if each.kind == FrameType.DATA:
                self.heard[each.stream] = self.heard.get(each.stream, b"") + bytes(each.payload)
            elif each.kind == FrameType.HEADERS:
                assert bytes(each.payload).startswith(b"\x88"), "it isn't 200"
                self.answered.add(each.stream)

    async def _receive(self) -> bytes:
        """Wait for as long as the test may last: thousands of ends share this process."""
        while True:
            with suppress(TimeoutError):
                return await self._tls.receive()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_10000_idle_streams_are_kept_and_still_talk(engine: Engine, tmp_path: Path) -> None:
    crowds.raise_descriptor_limit()
    engine.set_limits(Limits(connections=11_000))
    door = inbound_door()
    with Redis(tmp_path) as redis:
        Redis.cli("config", "set", "maxclients", "12000", port=redis.port)
        async with open_door(engine, door) as address:
            peers = [await RawPeer.connect(address) for _ in range(TUNNELS)]
            for peer in peers:
                for first in range(1, 2 * STREAMS, 2 * AT_ONCE):
                    some = range(first, first + 2 * AT_ONCE, 2)
                    await peer.open(some, f"127.0.0.1:{redis.port}")
                    await peer.ping(some)
            await eventually(
                lambda: [each.streams for each in door.carrying_] == [STREAMS] * TUNNELS,
                "all to be open at once",
            )
            for peer in peers:
                await peer.ping(range(1, 2 * STREAMS, 100))
            assert len(door.opened_) == TUNNELS * STREAMS
            assert not door.endings
