"""What goes wrong where connections share threads, buffers and verdicts, for every engine.

Each of these has happened to somebody's TLS proxy: an alert sent to the wrong peer, bytes lost
behind a Finished, a verdict that outlived its reasons, a pointer that outlived its owner, an end
taken for something else.  What only threads can get wrong is in test_transport_native.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.hostile_client import HostileClient
from tests.helpers.streams import Stream, Upstream, listening
from tests.helpers.tls_streams import TlsStream
from tests.helpers.world import credentials, with_crl
from uproxy.contract import Arrival, Engine, PeerSvid, Refusal, Route, VerifyPeer
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import CLIENT_AUTH, SERVER_AUTH, Authority, Issued
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Direction, Outcome, Role, TcpAddress, Timeouts, TlsSettings

engine = engines.engine

MIB = 1 << 20
OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")
STRANGER = Authority("stranger.test").issue("/ns/a/sa/b")
DENIED = Refusal(Outcome.DENIED, "no")
CLASSIC = TlsSettings(min_version="1.2")
chance = random.Random(10)  # noqa: S311  sizes and moments, not secrets


@dataclass
class Inbound:
    """A door with mutual TLS, and the application behind it."""

    door: RecordingDoor
    address: TcpAddress
    application: Upstream

    async def relay(self) -> tuple[TlsStream, Stream]:
        """Both ends of an open connection."""
        opened = len(self.door.opened_)
        peer = TlsStream(await Stream.connect(self.address), PEER)
        await peer.handshake()
        there = await self.application.accept()
        await self.door.connection(opened + 1)
        return peer, there


@asynccontextmanager
async def inbound(
    engine: Engine, verify: VerifyPeer | None = None, **timeouts: float
) -> AsyncIterator[Inbound]:
    limits = Timeouts(**timeouts)
    ours = plan(Role.SERVER, US, verify or verifier(Role.CLIENT, OURS))
    async with listening() as application:
        there = route(application.address, timeouts=limits)
        door = RecordingDoor(Direction.INBOUND, there, ours, limits)
        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            yield Inbound(door, address, application)


@asynccontextmanager
async def outbound(
    engine: Engine, settings: TlsSettings = TlsSettings()
) -> AsyncIterator[tuple[RecordingDoor, TcpAddress, Upstream]]:
    """A door in the clear, towards a peer who is to shake hands."""
    ours = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS), settings=settings)
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address, tls=ours))
        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            yield door, address, upstream


class Choppy(TlsStream):
    """Its records come in pieces, cut anywhere."""

    async def flush(self) -> None:
        data = self.pending()
        self.stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data:
            size = chance.choice((1, 4, 5, 6, 100, 16_384, 40_000))
            await self.stream.send(data[:size])
            await asyncio.sleep(0)  # others between
            data = data[size:]


# What one connection leaves behind for the next.


async def told_off(address: TcpAddress, shows: Issued | None, alert: str) -> None:
    """A caller who hears this alert, and nothing else."""
    bad = TlsStream(await Stream.connect(address), shows)
    await bad.handshake()
    with pytest.raises(SSL.Error, match=alert):
        await bad.receive()
    bad.stream.close()


async def test_words_for_a_refused_peer_reach_nobody_else(engine: Engine) -> None:
    async with inbound(engine) as here:
        pairs = [await here.relay() for _ in range(4)]
        for turn in range(12):
            if turn % 3 == 0:
                garbage = await Stream.connect(here.address)
                await garbage.send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
                await garbage.is_reset()
            elif turn % 3 == 1:
                await told_off(here.address, STRANGER, "unknown ca")
            else:
                await told_off(here.address, None, "certificate required")
            for peer, there in pairs:
                await there.send(b"%04d" % turn)
                assert await peer.receive_exactly(4) == b"%04d" % turn
                await peer.send(b"ok")
                assert await there.receive_exactly(2) == b"ok"


async def test_a_failure_is_not_explained_by_the_one_before(engine: Engine) -> None:
    """OpenSSL's queue of errors belongs to the thread, not to the connection."""
    async with inbound(engine) as here:
        for turn in range(8):
            garbage = await Stream.connect(here.address)
            await garbage.send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
            await garbage.is_reset()
            garbage.close()
            assert (await here.door.ending(2 * turn + 1)).reason == "length too short"
            peer, there = await here.relay()
            peer.truncate()
            assert await there.is_reset()
            peer.stream.close()
            ending = await here.door.ending(2 * turn + 2)
            assert ending.reason == "the peer closed without a close_notify (truncated)"


# Bytes in company.


async def test_data_behind_the_answering_peers_finished_is_not_lost(engine: Engine) -> None:
    """In TLS 1.2 a server's Finished comes last, and its first words may be in the segment."""
    async with outbound(engine, CLASSIC) as (door, address, upstream):
        downstream = await Stream.connect(address)
        there = TlsStream(await upstream.accept(), PEER, server=True, version=SSL.TLS1_2_VERSION)
        while True:
            there.tls.bio_write(await there.stream.receive())
            try:
                there.tls.do_handshake()
            except SSL.WantReadError:
                await there.flush()
            else:
                break
        banner = os.urandom(40_000)
        there.tls.sendall(banner)
        there.tls.shutdown()
        await there.stream.send(there.pending())
        assert await downstream.receive_all() == banner
        downstream.close()
        assert await there.receive() == b""
        assert (await door.ending()).outcome is Outcome.CLOSED


async def test_records_may_be_cut_anywhere(engine: Engine) -> None:
    """Also the handshake's; several connections at once, so that each step leaves nothing."""
    async with inbound(engine) as here:

        async def speak(peer: Choppy, data: bytes) -> None:
            for at in range(0, len(data), 7_000):
                await peer.send(data[at : at + 7_000])
            await peer.finish()

        async def one() -> None:
            peer = Choppy(await Stream.connect(here.address), PEER)
            await peer.handshake()
            # who is whose is told by the first bytes
            name, data = os.urandom(8), os.urandom(60_000)
            said[name] = data
            await speak(peer, name + data)
            with suppress(ConnectionResetError):
                assert await peer.receive_all() == name[::-1]

        async def answer(there: Stream) -> None:
            heard = await there.receive_all()
            assert heard[8:] == said.pop(heard[:8])
            await there.send(heard[7::-1])
            there.finish()

        said: dict[bytes, bytes] = {}
        calling = [asyncio.create_task(one()) for _ in range(8)]
        answering = [asyncio.create_task(answer(await here.application.accept())) for _ in range(8)]
        await asyncio.gather(*calling, *answering)
        await here.door.ending(8)
    assert {ending.outcome for _, ending in here.door.endings} == {Outcome.CLOSED}


SIZES = [1, 16_384, 65_535, 65_536, 65_537, 131_072, 3 * MIB]
"""Around what one receive can take: a short one isn't the end, a full one may be."""


@pytest.mark.parametrize("transport", ["plaintext", "mtls"])
async def test_whatever_came_before_the_end_is_delivered_whatever_its_size(
    engine: Engine, transport: str
) -> None:
    async with inbound(engine) as here:
        if transport == "plaintext":
            here.door.downstream_tls = None
            here.door.ask_again()
        for turn, size in enumerate(SIZES):
            payload = os.urandom(size)
            stream = await Stream.connect(here.address)
            said: asyncio.Task[None]
            if transport == "mtls":
                peer = TlsStream(stream, PEER)
                await peer.handshake()
                said = asyncio.create_task(peer.send(payload))
                there = await here.application.accept()
                end: Callable[[], Awaitable[None]] = peer.finish
            else:
                said = asyncio.create_task(stream.send(payload))
                there = await here.application.accept()

                async def end(stream: Stream = stream) -> None:
                    stream.finish()

            async def finish(said: asyncio.Task[None] = said) -> None:
                await said
                await end()  # noqa: B023  awaited in this turn

            finishing = asyncio.create_task(finish())
            await asyncio.sleep(0.01)  # to find the end behind bytes that it hasn't taken
            assert await there.receive_all() == payload
            await finishing
            there.close()
            assert (await here.door.ending(turn + 1)).outcome is Outcome.CLOSED
            stream.close()


async def test_little_buffers_on_every_side_swap_no_byte(engine: Engine) -> None:
    """Writes are taken in part all the time; the rest goes on with the very same bytes."""
    async with listening() as application:
        application.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        application.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
        door = RecordingDoor(Direction.INBOUND, route(application.address), ours)
        async with open_door(engine, door) as address:

            async def exchange() -> None:
                peer = TlsStream(await Stream.connect(address, 4096), PEER)
                peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                await peer.handshake()
                there = await application.accept()
                up = [os.urandom(chance.randrange(1, 90_000)) for _ in range(6)]
                down = [os.urandom(chance.randrange(1, 90_000)) for _ in range(6)]
                names = os.urandom(8)
                await peer.send(names)
                assert await there.receive_exactly(8) == names  # accepted in order: one at a time

                async def talk(say: Callable[[bytes], Awaitable[None]], words: list[bytes]) -> None:
                    for word in words:
                        await say(word)

                _, _, heard_there, heard_here = await asyncio.gather(
                    talk(peer.send, up),
                    talk(there.send, down),
                    there.receive_exactly(len(b"".join(up))),
                    peer.receive_exactly(len(b"".join(down))),
                )
                assert heard_there == b"".join(up)
                assert heard_here == b"".join(down)
                await peer.finish()
                there.close()

            for _ in range(3):
                await exchange()


async def test_key_updates_among_data_lose_nothing(engine: Engine) -> None:
    """Asked for or not, in the middle of bulk both ways, by somebody else's library."""
    payload = [os.urandom(chance.randrange(1, 8_000)) for _ in range(32)]

    def talk(port: int) -> bytes:
        heard = b""
        with HostileClient(port, PEER) as peer:
            peer.handshake()
            for turn, words in enumerate(payload):
                peer.send(words)
                peer.update_key(ask=turn % 3 != 0)
                if turn % 4 == 3:  # not read at once: our updates come in the middle of data
                    heard += peer.receive(sum(map(len, payload[turn - 3 : turn + 1])))
            return heard

    async def echo() -> None:
        there = await here.application.accept()
        with suppress(ConnectionResetError):
            while data := await there.receive():
                await there.send(data)

    async with inbound(engine) as here:
        echoing = asyncio.create_task(echo())
        assert await asyncio.to_thread(talk, here.address.port) == b"".join(payload)
        await echoing
        await here.door.ending()


# Verdicts.


async def call(here: Inbound, shows: Issued) -> Outcome:
    """What becomes of a caller, whom the door denies if it is let in."""
    count = len(here.door.endings) + 1
    peer = TlsStream(await Stream.connect(here.address), shows)
    await peer.handshake()
    with suppress(SSL.Error, ConnectionResetError):
        await peer.receive()
    peer.stream.close()
    return (await here.door.ending(count)).outcome


async def test_a_leaf_that_expires_is_not_believed_any_longer(engine: Engine) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=3)).replace(microsecond=0)
    brief = OURS.issue("/ns/brief/sa/visit", not_after=soon)
    async with inbound(engine) as here:
        here.door.answer = DENIED
        assert [await call(here, brief) for _ in range(2)] == [Outcome.DENIED] * 2
        await eventually(lambda: datetime.now(UTC) > soon + timedelta(seconds=1), "its expiry")
        assert await call(here, brief) is Outcome.PEER_UNTRUSTED


async def test_a_leaf_that_is_revoked_is_not_believed_by_the_next_plan(engine: Engine) -> None:
    before = credentials(None, OURS)
    judge = Verifier(with_crl(before, OURS, PEER))

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        return judge.verify(chain, Role.CLIENT, datetime.now(UTC))

    async with inbound(engine) as here:
        here.door.answer = DENIED
        assert await call(here, PEER) is Outcome.DENIED
        here.door.downstream_tls = plan(Role.SERVER, US, verify)
        here.door.ask_again()
        assert await call(here, PEER) is Outcome.PEER_UNTRUSTED
        assert await call(here, US) is Outcome.DENIED


async def test_who_may_call_may_not_therefore_answer(engine: Engine) -> None:
    """The same leaf, at the same time, in the other role."""
    caller = OURS.issue("/ns/web/sa/frontend", eku=(CLIENT_AUTH,))
    answerer = OURS.issue("/ns/web/sa/frontend", eku=(SERVER_AUTH,))
    async with inbound(engine) as here, outbound(engine) as (door, address, upstream):
        here.door.answer = DENIED
        assert await call(here, caller) is Outcome.DENIED
        for shows, expected in ((caller, False), (answerer, True)):
            downstream = await Stream.connect(address)
            there = TlsStream(await upstream.accept(), shows, server=True)
            if expected:
                await there.handshake()
                await downstream.send(b"x")
                assert await there.receive() == b"x"
            else:
                with pytest.raises(SSL.Error):
                    await there.handshake()
                assert await downstream.is_reset()
            downstream.close()
        assert door.attempts[0][1] is not None
        assert door.attempts[0][1].outcome is Outcome.PEER_UNTRUSTED
        assert await call(here, answerer) is Outcome.PEER_UNTRUSTED


# Deadlines.


async def test_a_hello_that_drips_gains_no_time(engine: Engine) -> None:
    async with inbound(engine, handshake=0.5) as here:
        peer = TlsStream(await Stream.connect(here.address), PEER)
        with pytest.raises(SSL.WantReadError):
            peer.tls.do_handshake()
        hello = peer.pending()
        with suppress(ConnectionResetError, BrokenPipeError):
            for byte in hello:
                await peer.stream.send(bytes((byte,)))
                await asyncio.sleep(0.01)
        ending = await here.door.ending()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.HANDSHAKING_DOWNSTREAM)
    assert 0.5 <= ending.duration < 5


async def test_a_handshake_that_stops_behind_our_flight_has_its_deadline(engine: Engine) -> None:
    async with inbound(engine, handshake=0.3) as here:
        peer = TlsStream(await Stream.connect(here.address), PEER)
        with pytest.raises(SSL.WantReadError):
            peer.tls.do_handshake()
        await peer.flush()
        assert await peer.stream.receive()  # our flight, which it leaves unanswered
        with suppress(ConnectionResetError):
            await peer.stream.receive_all()
        ending = await here.door.ending()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.HANDSHAKING_DOWNSTREAM)


async def test_somebody_refused_who_neither_reads_nor_leaves_is_gone_soon(engine: Engine) -> None:
    async with inbound(engine, handshake=60.0) as here:
        peer = TlsStream(await Stream.connect(here.address, 4096), STRANGER)
        await peer.handshake()

        async def babble() -> None:
            while True:
                await peer.send(bytes(16_000))

        babbling = asyncio.create_task(babble())
        assert (await here.door.ending()).outcome is Outcome.PEER_UNTRUSTED
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await babbling


# Ends.


@pytest.mark.parametrize("where", ["between records", "within a record"])
async def test_an_answering_peer_that_ends_without_saying_so_is_a_truncation(
    engine: Engine, where: str
) -> None:
    async with outbound(engine) as (door, address, upstream):
        downstream = await Stream.connect(address)
        there = TlsStream(await upstream.accept(), PEER, server=True)
        await there.handshake()
        await there.send(b"half an answer")
        assert await downstream.receive_exactly(14) == b"half an answer"
        if where == "within a record":
            there.tls.sendall(bytes(1000))
            await there.stream.send(there.pending()[:500])
        there.truncate()
        assert await downstream.is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.bytes_received) == (Outcome.RESET, 14)
    assert ending.reason == "the peer closed without a close_notify (truncated)"


async def test_a_calling_peer_that_ends_within_a_record_is_a_truncation(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, there = await here.relay()
        await peer.send(b"half")
        peer.tls.sendall(bytes(1000))
        await peer.stream.send(peer.pending()[:500])
        assert await there.receive_exactly(4) == b"half"
        peer.truncate()
        assert await there.is_reset()
        ending = await here.door.ending()
    assert (ending.outcome, ending.bytes_received) == (Outcome.RESET, 4)


# Lifetimes.


async def test_plans_may_go_while_connections_live_that_were_made_with_them(
    engine: Engine,
) -> None:
    """One is open, one in the middle of its handshake, when nobody else holds their plan."""
    async with inbound(engine, handshake=60.0) as here:
        open_peer, open_there = await here.relay()
        slow = TlsStream(await Stream.connect(here.address), PEER)
        with pytest.raises(SSL.WantReadError):
            slow.tls.do_handshake()
        await slow.flush()
        slow.tls.bio_write(await slow.stream.receive())
        here.door.arrivals.clear()
        here.door.opened_.clear()
        for _ in range(5):  # the next ones' memory is where the old one's was
            here.door.downstream_tls = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
            here.door.ask_again()
            gc.collect()
            await told_off(here.address, STRANGER, "unknown ca")
        await slow.handshake()
        slow_there = await here.application.accept()
        for peer, there in ((open_peer, open_there), (slow, slow_there)):
            await peer.send(b"still here")
            assert await there.receive_exactly(10) == b"still here"
            peer.stream.reset()
            assert await there.is_reset()
        await here.door.ending(7)


@pytest.mark.parametrize("moment", ["verify", "admit", "opened"])
async def test_a_peer_that_resets_while_it_is_decided_on_leaves_in_order(
    engine: Engine, moment: str
) -> None:
    judge = verifier(Role.CLIENT, OURS)
    callers: list[TlsStream] = []

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        if moment == "verify":
            callers[-1].stream.reset()
        return judge(chain)

    def admit(_arrival: Arrival) -> Route:
        if moment == "admit":
            callers[-1].stream.reset()
        return there

    async with inbound(engine, verify) as here:
        assert isinstance(here.door.answer, Route)
        there = here.door.answer
        here.door.answer = admit
        if moment == "opened":
            here.door.on_opened = lambda _connection: callers[-1].stream.reset()
        for turn in range(10):
            # a leaf nobody has seen: each is judged
            callers.append(TlsStream(await Stream.connect(here.address), OURS.issue("/ns/a/sa/b")))
            with suppress(OSError, EOFError):
                await callers[-1].handshake()
            ending = await here.door.ending(turn + 1)
            assert ending.outcome in (Outcome.RESET, Outcome.HANDSHAKE_FAILED)
        assert len(here.door.endings) == 10


async def test_a_handle_may_be_asked_and_told_things_after_the_end(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer, there = await here.relay()
        connection = await here.door.connection()
        await peer.send(b"12345")
        assert await there.receive_exactly(5) == b"12345"
        await there.send(b"123")
        assert await peer.receive_exactly(3) == b"123"
        peer.stream.reset()
        await here.door.ending()
        for _ in range(50):  # their memory is where its was
            other, its = await here.relay()
            other.stream.reset()
            assert await its.is_reset()
        connection.close(DENIED)
        assert connection.state is State.CLOSED
        assert (connection.bytes_received, connection.bytes_sent) == (5, 3)
        assert connection.peer is not None
        assert connection.peer.spiffe_id == PEER.spiffe_id
        await here.door.ending(51)
