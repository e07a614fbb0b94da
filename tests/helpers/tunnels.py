"""Tunnels (HBONE) under test: two doors of an engine with a tunnel between them, and a peer made of
the h2 library over pyOpenSSL, in either role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import h2.config
import h2.connection
import h2.events
import h2.settings
from OpenSSL import SSL

from tests.helpers.engines import RecordingDoor, open_door, plan, verifier
from tests.helpers.streams import TIMEOUT_S, Stream, Upstream
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import PLAIN, Arrival, Candidate, Engine, Refusal, Route, Tunnel
from uproxy.lab.pki import Authority, Issued
from uproxy.model import (
    Address,
    Direction,
    Outcome,
    Role,
    TcpAddress,
    Timeouts,
    TunnelSettings,
)

ALPN = ("h2",)
OURS = Authority("example.org")
STRANGERS = Authority("stranger.test")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")

_Event = TypeVar("_Event", bound=h2.events.Event)
Begin = Callable[[h2.connection.H2Connection], None]
"""Begins a session, with SETTINGS of its own."""


def named(arrival: Arrival, timeouts: Timeouts = Timeouts()) -> Route | Refusal:
    """The route to whatever address the CONNECT names."""
    if arrival.target is None:
        return Refusal(Outcome.NO_DESTINATION, "names nothing")
    candidate = Candidate(str(arrival.target), (arrival.target,))
    return Route("the application", (candidate,), PLAIN, timeouts, rule="the rule")


def inbound_door(
    answer: Callable[[Arrival], Route | Refusal] = named,
    settings: TunnelSettings = TunnelSettings(),
    timeouts: Timeouts = Timeouts(),
    shows: Issued = US,
) -> RecordingDoor:
    """A door at which tunnels come in."""
    tls = plan(Role.SERVER, shows, verifier(Role.CLIENT, OURS), alpn=ALPN)
    return RecordingDoor(Direction.INBOUND, answer, tls, timeouts, tunnels=settings)


def outbound_door(
    end: Address | int,
    *applications: Address,
    settings: TunnelSettings = TunnelSettings(),
    timeouts: Timeouts = Timeouts(),
    trusts: Authority = OURS,
) -> RecordingDoor:
    """A door that leads to applications through tunnels to `end`."""
    assert isinstance(end, TcpAddress | int)
    tls = plan(Role.CLIENT, PEER, verifier(Role.SERVER, trusts), alpn=ALPN)
    candidates = tuple(Candidate(str(each), (each,)) for each in applications)
    upstream = Tunnel(tls, end, settings)
    there = Route("there", candidates, upstream, timeouts, rule="the rule")
    return RecordingDoor(Direction.OUTBOUND, there, timeouts=timeouts)


@dataclass
class Through:
    """An outbound door, whose tunnels lead to an inbound door, which leads to an application."""

    application: Upstream
    address: Address
    """Of the outbound door."""
    end: Address
    """Of the inbound door."""
    outbound: RecordingDoor
    inbound: RecordingDoor

    async def relay(self) -> tuple[Stream, Stream]:
        """Return both ends of a new connection through a tunnel."""
        downstream = await Stream.connect(self.address)
        return downstream, await self.application.accept()

    async def relays(self, count: int) -> list[tuple[Stream, Stream]]:
        """Return both ends of connections that have come at once; which ends belong together isn't
        known."""
        downstream = [await Stream.connect(self.address) for _ in range(count)]
        return [(each, await self.application.accept()) for each in downstream]


@asynccontextmanager
async def through(
    engine: Engine,
    answer: Callable[[Arrival], Route | Refusal] = named,
    *,
    settings: TunnelSettings = TunnelSettings(),
    theirs: TunnelSettings | None = None,
    timeouts: Timeouts = Timeouts(),
) -> AsyncIterator[Through]:
    """Open both doors on one engine, with an application behind them."""
    application = Upstream()
    inbound = inbound_door(answer, theirs or settings, timeouts)
    try:
        async with open_door(engine, inbound) as end:
            outbound = outbound_door(end, application.address, settings=settings, timeouts=timeouts)
            async with open_door(engine, outbound) as address:
                yield Through(application, address, end, outbound, inbound)
    finally:
        application.close()


class H2Peer:
    """One end of a tunnel, by software that isn't ours."""

    def __init__(self, tls: TlsStream, *, client: bool) -> None:
        config = h2.config.H2Configuration(
            client_side=client, header_encoding="utf-8", validate_outbound_headers=False
        )
        self.tls = tls
        self.h2 = h2.connection.H2Connection(config)
        self.received: list[h2.events.Event] = []
        self.data: dict[int, bytes] = {}
        self._seen = 0

    @classmethod
    async def connect(
        cls,
        address: Address,
        shows: Issued | None = PEER,
        *,
        begin: Begin = h2.connection.H2Connection.initiate_connection,
        **how: Any,
    ) -> H2Peer:
        """Dial a door for tunnels, and begin a session."""
        tls = TlsStream(await Stream.connect(address), shows, alpn=ALPN, **how)
        await tls.handshake()
        return await cls._begun(cls(tls, client=True), begin)

    @classmethod
    async def accept(
        cls,
        upstream: Upstream,
        shows: Issued = US,
        *,
        begin: Begin = h2.connection.H2Connection.initiate_connection,
        **how: Any,
    ) -> H2Peer:
        """Accept a tunnel, and begin a session."""
        tls = TlsStream(await upstream.accept(), shows, server=True, **how)
        await tls.handshake()
        return await cls._begun(cls(tls, client=False), begin)

    @staticmethod
    async def _begun(peer: H2Peer, begin: Begin) -> H2Peer:
        begin(peer.h2)
        await peer.flush()
        return peer

    async def open(self, authority: object, *more: tuple[str, str]) -> int:
        """Send a CONNECT; return its stream."""
        stream = self.h2.get_next_available_stream_id()
        headers = [(":method", "CONNECT"), (":authority", str(authority)), *more]
        self.h2.send_headers(stream, headers)
        await self.flush()
        return stream

    async def status(self, stream: int) -> int:
        """Wait for the answer to a CONNECT; return its status."""
        answer = await self.event(h2.events.ResponseReceived, stream)
        fields = {str(name): str(value) for name, value in answer.headers or ()}
        return int(fields[":status"])

    async def request(self) -> int:
        """Wait for a CONNECT; return its stream."""
        asked = await self.event(h2.events.RequestReceived)
        assert asked.stream_id is not None
        return asked.stream_id

    async def answer(self, stream: int, status: int, *, end: bool = False) -> None:
        self.h2.send_headers(stream, [(":status", str(status))], end_stream=end)
        await self.flush()

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send as the windows allow."""
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                await self.turn()
                continue
            self.h2.send_data(stream, data[:room])
            data = data[room:]
            await self.flush()
        if end:
            self.h2.end_stream(stream)
            await self.flush()

    async def receive(self, stream: int, size: int) -> bytes:
        """Wait for so many bytes of a stream, and take them."""
        while len(self.data.get(stream, b"")) < size:
            await self.turn()
        data = self.data[stream]
        self.data[stream] = data[size:]
        return data[:size]

    async def event(self, kind: type[_Event], stream: int | None = None) -> _Event:
        """Wait for an event that wasn't returned yet, and return it."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                for each in self.received:
                    if isinstance(each, kind) and stream in (None, getattr(each, "stream_id", 0)):
                        self.received.remove(each)
                        return each
                await self.turn()

    def has(self, kind: type[h2.events.Event]) -> bool:
        """Whether such an event has come, and wasn't returned."""
        return any(isinstance(each, kind) for each in self.received)

    async def turn(self) -> None:
        """Wait for bytes, and take what they say.

        Raises:
            ConnectionResetError: it was closed.
        """
        data = await self.tls.receive()
        if not data:
            raise ConnectionResetError("closed in order")
        self.take(data)
        await self.flush()

    def take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                more = event.data or b""
                self.data[event.stream_id] = self.data.get(event.stream_id, b"") + more
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.received.append(event)

    async def until_closed(self) -> None:
        """Wait until the other end has closed."""
        try:
            while True:
                await self.turn()
        except (ConnectionResetError, SSL.Error):
            return

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.tls.send(data)

    async def raw(self, *frames: bytes) -> None:
        """Send bytes that the library wouldn't."""
        await self.tls.send(b"".join(frames))


def begin_with(settings: dict[h2.settings.SettingCodes, int], *, window: int = 0) -> Begin:
    """Begin sessions with these SETTINGS, and with the tunnel's window enlarged by `window`."""

    def begin(connection: h2.connection.H2Connection) -> None:
        is_client = connection.config.client_side
        # what is set in any other way isn't sent
        connection.local_settings = h2.settings.Settings(is_client, settings)
        connection.max_inbound_frame_size = connection.local_settings.max_frame_size
        connection.initiate_connection()
        if window:
            connection.increment_flow_control_window(window)

    return begin


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame (RFC 9113 §4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload
