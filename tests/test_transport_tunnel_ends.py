"""How a tunnel has ended: what the door is told of those that peers have made, and whoever watches
of those that we have dialled; and what becomes of the bytes that have come through it before."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import h2.events
import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import open_door
from tests.helpers.streams import Stream, Upstream, listening, slow_listening
from tests.helpers.tunnels import (
    STRANGERS,
    US,
    H2Peer,
    frame,
    inbound_door,
    named,
    outbound_door,
)
from uproxy.contract import Arrival, Engine, PeerSvid, Refusal, Route
from uproxy.hbone.codes import END_HEADERS, ErrorCode, FrameType
from uproxy.lab.waiting import eventually
from uproxy.model import Address, Outcome, TcpAddress, TunnelSettings

engine = engines.tunnel_engine

BREACHES = [
    (frame(FrameType.PING, 0, 0, bytes(8)) * 3000, "pings"),
    (frame(FrameType.SETTINGS, 0, 0) * 500, "settings"),
    (frame(FrameType.DATA, 0, 0, b"x"), "protocol_error"),
    (frame(FrameType.PING, 0, 0, b"short"), "frame_size_error"),
    (frame(FrameType.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), "flow_control_error"),
]


class Ends:
    """The ends of tunnels that were dialled, as they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[PeerSvid, TcpAddress, Refusal | None]] = []

    def __call__(self, peer: PeerSvid, end: TcpAddress, why: Refusal | None) -> None:
        self.told.append((peer, end, why))

    async def one(self) -> tuple[PeerSvid, TcpAddress, Refusal | None]:
        """Wait for the first end; there is no other."""
        await eventually(lambda: self.told, "the end to be told")
        (told,) = self.told
        return told


@asynccontextmanager
async def dialling(
    engine: Engine, settings: TunnelSettings = TunnelSettings()
) -> AsyncIterator[tuple[Ends, Address, Upstream]]:
    """A door whose tunnels end at what the test accepts, and what is told of their ends."""
    ends = Ends()
    engine.watch_tunnels(ends)
    async with listening() as end:
        door = outbound_door(end.address, TcpAddress("192.0.2.1", 5432), settings=settings)
        async with open_door(engine, door) as address:
            yield ends, address, end


async def carrying(address: Address, end: Upstream) -> tuple[Stream, H2Peer]:
    """A connection through a new tunnel, and the tunnel's far end."""
    downstream = await Stream.connect(address)
    peer = await H2Peer.accept(end)
    await peer.answer(await peer.request(), 200)
    return downstream, peer


async def finish(downstream: Stream, peer: H2Peer) -> None:
    """End the only stream, from both sides."""
    downstream.finish()
    await peer.event(h2.events.StreamEnded)
    peer.h2.end_stream(1)
    await peer.flush()
    assert await downstream.receive_all() == b""


@pytest.mark.parametrize(("bad", "breach"), BREACHES, ids=[each for _, each in BREACHES])
async def test_with_what_a_client_broke_http2_is_told(
    engine: Engine, bad: bytes, breach: str
) -> None:
    door = inbound_door()
    async with open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        await peer.raw(bad)
        await peer.until_closed()
        peer.tls.stream.reset()
        await eventually(lambda: door.ended_tunnels, "the tunnel has ended")
        ending = door.ended_tunnels[0][1]
        assert (ending.outcome, ending.breach) == (Outcome.RESET, breach)


@pytest.mark.parametrize(("bad", "breach"), BREACHES, ids=[each for _, each in BREACHES])
@pytest.mark.parametrize("idle", [False, True], ids=["with a stream", "without one"])
async def test_with_what_a_server_broke_http2_is_told_once(
    engine: Engine, bad: bytes, breach: str, idle: bool
) -> None:
    async with dialling(engine) as (ends, address, end):
        downstream, peer = await carrying(address, end)
        if idle:
            await finish(downstream, peer)
        await peer.raw(bad)
        await peer.until_closed()
        peer.tls.stream.reset()
        who, where, why = await ends.one()
        assert (who.spiffe_id, where) == (US.spiffe_id, end.address)
        assert why is not None
        assert (why.outcome, why.breach) == (Outcome.RESET, breach)
        assert why.reason.startswith("the peer broke HTTP/2 (")


async def test_a_lost_tunnel_is_reset_and_its_server_broke_nothing(engine: Engine) -> None:
    async with dialling(engine) as (ends, address, end):
        downstream, peer = await carrying(address, end)
        peer.tls.stream.reset()
        assert await downstream.is_reset()
        _who, _where, why = await ends.one()
        assert why == Refusal(Outcome.RESET, "reset by the peer")


async def test_a_tunnel_that_ends_in_order_has_no_reason(engine: Engine) -> None:
    async with dialling(engine, TunnelSettings(idle=0.05)) as (ends, address, end):
        await finish(*(await carrying(address, end)))
        assert (await ends.one())[2] is None


async def test_a_server_that_leaves_when_nothing_can_be_lost_ends_it_in_order(
    engine: Engine,
) -> None:
    async with dialling(engine) as (ends, address, end):
        downstream, peer = await carrying(address, end)
        await finish(downstream, peer)
        peer.tls.stream.reset()
        assert (await ends.one())[2] is None


async def test_a_server_that_refuses_our_certificate_is_told_as_that(engine: Engine) -> None:
    """Under TLS 1.3 it says so when our handshake has ended."""
    async with dialling(engine) as (ends, address, end):
        downstream = await Stream.connect(address)
        with pytest.raises(SSL.Error):
            await H2Peer.accept(end, root=STRANGERS.root)
        assert await downstream.is_reset()
        _who, _where, why = await ends.one()
        assert why is not None
        assert why.outcome is Outcome.HANDSHAKE_FAILED
        assert "refused our certificate" in why.reason


async def test_of_a_tunnel_without_a_handshake_nothing_is_told(engine: Engine) -> None:
    async with dialling(engine) as (ends, address, end):
        downstream = await Stream.connect(address)
        (await end.accept()).reset()
        assert await downstream.is_reset()
        await eventually(lambda: engine.pooled_tunnels() == 0, "no tunnel is left")
        assert not ends.told


async def test_a_tunnel_that_is_cut_when_uproxy_stops_is_drained(engine: Engine) -> None:
    async with dialling(engine) as (ends, address, end):
        await carrying(address, end)
        await engine.stop()
        _who, _where, why = await ends.one()
        assert why == Refusal(Outcome.DRAINED, "uProxy stopped")


# What its streams hold.

SAID = os.urandom(200_000)
"""Fits into a stream's window, and not into what the slow reader's kernel takes."""
LOSSES: list[Callable[[H2Peer], Awaitable[None]]] = []


def loss(how: Callable[[H2Peer], Awaitable[None]]) -> Callable[[H2Peer], Awaitable[None]]:
    LOSSES.append(how)
    return how


@loss
async def a_fin(peer: H2Peer) -> None:
    peer.tls.truncate()


@loss
async def a_close_notify(peer: H2Peer) -> None:
    await peer.tls.finish()
    peer.tls.stream.finish()


@loss
async def a_goaway(peer: H2Peer) -> None:
    await peer.raw(frame(FrameType.GOAWAY, 0, 0, bytes(8)))
    peer.tls.truncate()


@loss
async def a_breach_of_http2(peer: H2Peer) -> None:
    await peer.raw(frame(FrameType.DATA, 0, 0, b"x"))


@loss
async def a_record_that_was_never_sealed(peer: H2Peer) -> None:
    await peer.tls.stream.send(b"\x17\x03\x03\x00\x40" + os.urandom(64))


async def is_left(peer: H2Peer) -> None:
    """Wait until uProxy has closed the tunnel's socket."""
    with suppress(EOFError):
        await peer.until_closed()


@pytest.mark.parametrize("lose", LOSSES, ids=[each.__name__ for each in LOSSES])
async def test_an_application_gets_all_that_a_stream_had_said_when_its_tunnel_is_lost(
    engine: Engine, lose: Callable[[H2Peer], Awaitable[None]]
) -> None:
    door = inbound_door()
    async with slow_listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        stream = await peer.open(application.address)
        there = await application.accept()
        await peer.send(stream, SAID)
        await lose(peer)
        await is_left(peer)
        assert await there.receive_exactly(len(SAID)) == SAID
        assert await there.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.bytes_received) == (Outcome.RESET, len(SAID))
        await eventually(lambda: door.ended_tunnels, "the tunnel has ended, after its stream")


@pytest.mark.parametrize("lose", LOSSES, ids=[each.__name__ for each in LOSSES])
async def test_a_caller_gets_all_that_a_stream_had_said_when_its_tunnel_is_lost(
    engine: Engine, lose: Callable[[H2Peer], Awaitable[None]]
) -> None:
    async with dialling(engine) as (_ends, address, end):
        downstream = await Stream.connect(address, receive_buffer=4096)
        peer = await H2Peer.accept(end)
        stream = await peer.request()
        await peer.answer(stream, 200)
        await peer.send(stream, SAID)
        await lose(peer)
        await is_left(peer)
        assert await downstream.receive_exactly(len(SAID)) == SAID
        assert await downstream.is_reset()


async def test_a_callers_stream_that_is_lost_with_its_tunnel_is_told_as_that(
    engine: Engine,
) -> None:
    door = inbound_door()
    async with listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        await peer.open(application.address)
        there = await application.accept()
        peer.tls.stream.reset()
        assert await there.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (Outcome.RESET, "the tunnel to the peer was lost")


async def test_a_stream_whose_tunnel_is_lost_while_its_door_decides_is_told_as_that(
    engine: Engine,
) -> None:
    peers: list[H2Peer] = []

    def admit(arrival: Arrival) -> Route | Refusal:
        peers[0].tls.stream.reset()
        return named(arrival)

    door = inbound_door(admit)
    async with listening() as application, open_door(engine, door) as address:
        peers.append(await H2Peer.connect(address))
        with suppress(ConnectionResetError):
            await peers[0].open(application.address)
        ending = await door.ending()
    assert (ending.outcome, ending.reason) == (Outcome.RESET, "the tunnel to the peer was lost")


async def test_who_is_cut_while_a_lost_tunnel_outlives_its_socket_is_cut_at_once(
    engine: Engine,
) -> None:
    door, why = inbound_door(), Refusal(Outcome.IDENTITY_DISTRUSTED, "revoked")
    async with slow_listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        stream = await peer.open(application.address)
        there = await application.accept()
        await peer.send(stream, SAID)
        await a_fin(peer)
        await is_left(peer)
        door.carrying_[0].close(why)
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (Outcome.IDENTITY_DISTRUSTED, "revoked")
        assert await there.is_reset()


async def test_a_stream_that_was_reset_before_anybody_looked_at_it_reaches_no_application(
    engine: Engine,
) -> None:
    door, count = inbound_door(), 50
    async with listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        connect = [(":method", "CONNECT"), (":authority", str(application.address))]
        cancel = ErrorCode.CANCEL.to_bytes(4, "big")
        said = bytearray()
        for stream in range(1, 2 * count, 2):
            block = peer.h2.encoder.encode(connect)
            said += frame(FrameType.HEADERS, END_HEADERS, stream, block)
            said += frame(FrameType.RST_STREAM, 0, stream, cancel)
        await peer.raw(bytes(said))
        ending = await door.ending(count)
        assert (ending.outcome, ending.reason) == (Outcome.RESET, "reset by the peer")
        with pytest.raises(BlockingIOError):
            application.socket.accept()
