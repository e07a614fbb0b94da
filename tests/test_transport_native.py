"""What only an engine of threads can get wrong: what they share, and what they remember.

Each hazard of sharing buffers, verdicts and pointers between connections has its test here;
what a connection does is in the other modules of `test_transport_*`, for every engine.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import random
import socket
import struct
import termios
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.heap import in_use, needs_malloc
from tests.helpers.hostile_client import HostileClient
from tests.helpers.streams import TIMEOUT_S, Segments, Stream, Upstream, close_all, listening
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import CacheScope, Connection, PeerSvid, Refusal, TlsPlan
from uproxy.errors import UntrustedError
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually, wait_until
from uproxy.lifecycle import State
from uproxy.model import (
    Address,
    Alert,
    Direction,
    Limits,
    Outcome,
    Role,
    TcpAddress,
    Timeouts,
    TlsSettings,
)
from uproxy.proxy.services import PER_PEER, PER_PEER_AND_SOURCE
from uproxy.transport.native import NativeEngine
from uproxy.transport.native.loop import LoopState

engine = engines.one_thread

OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")
STRANGER = Authority("stranger.test").issue("/ns/a/sa/b")
DENIED = Refusal(Outcome.DENIED, "no")
CHANGED = Refusal(Outcome.POLICY_CHANGED, "not any more")


class Judge:
    """A verifier that counts what it is asked."""

    def __init__(self, lasting: timedelta = timedelta(hours=1)) -> None:
        self.asked = 0
        self.lasting = lasting
        self.refusing = False

    def __call__(self, chain: tuple[bytes, ...]) -> PeerSvid:
        self.asked += 1
        if self.refusing:
            raise UntrustedError("X5-1", "not any more", Alert.UNKNOWN_CA)
        return PeerSvid("spiffe://example.org/x", chain, datetime.now(UTC) + self.lasting)


def server(judge: Judge) -> TlsPlan:
    return plan(Role.SERVER, US, judge)


async def calls(address: object, door: RecordingDoor, times: int) -> None:
    """So many handshakes, one after the other, each admitted and denied."""
    assert isinstance(address, TcpAddress)
    for _ in range(times):
        count = len(door.endings) + 1
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        with suppress(SSL.Error, ConnectionResetError):
            await peer.receive()
        await door.ending(count)


# What is remembered of verified leaves.


async def test_a_leaf_is_judged_once_per_plan(engine: NativeEngine) -> None:
    judge = Judge()
    door = RecordingDoor(Direction.INBOUND, DENIED, server(judge))
    async with open_door(engine, door) as address:
        await calls(address, door, 3)
        assert judge.asked == 1
        assert len(door.arrivals) == 3
        assert {arrival.peer and arrival.peer.spiffe_id for arrival in door.arrivals} == {
            "spiffe://example.org/x"
        }


async def test_another_generation_of_trust_judges_anew(engine: NativeEngine) -> None:
    before, after = Judge(), Judge()
    after.refusing = True
    door = RecordingDoor(Direction.INBOUND, DENIED, server(before))
    async with open_door(engine, door) as address:
        await calls(address, door, 2)
        door.downstream_tls = server(after)
        door.ask_again()
        await calls(address, door, 2)
    assert (before.asked, after.asked) == (1, 2)
    outcomes = [ending.outcome for _, ending in door.endings]
    assert outcomes == [Outcome.DENIED] * 2 + [Outcome.PEER_UNTRUSTED] * 2


async def test_a_verdict_ends_with_the_chain(engine: NativeEngine) -> None:
    judge = Judge(lasting=timedelta(0))
    door = RecordingDoor(Direction.INBOUND, DENIED, server(judge))
    async with open_door(engine, door) as address:
        await calls(address, door, 3)
    assert judge.asked == 3


async def test_a_refusal_is_not_kept(engine: NativeEngine) -> None:
    judge = Judge()
    judge.refusing = True
    door = RecordingDoor(Direction.INBOUND, DENIED, server(judge))
    async with open_door(engine, door) as address:
        await calls(address, door, 1)
        judge.refusing = False
        await calls(address, door, 1)
    assert [ending.outcome for _, ending in door.endings] == [
        Outcome.PEER_UNTRUSTED,
        Outcome.DENIED,
    ]


async def test_a_verdict_for_one_leaf_is_none_for_another_of_the_same_name(
    engine: NativeEngine,
) -> None:
    real = verifier(Role.CLIENT, OURS)
    door = RecordingDoor(Direction.INBOUND, DENIED, plan(Role.SERVER, US, real))
    forged = OURS.issue("/ns/web/sa/frontend", forged=True)
    async with open_door(engine, door) as address:
        await calls(address, door, 1)
        peer = TlsStream(await Stream.connect(address), forged)
        await peer.handshake()
        with pytest.raises(SSL.Error):
            await peer.receive()
        peer.stream.close()
        await eventually(lambda: len(door.endings) == 2, "the forger's ending")
    assert door.endings[1][1].outcome is Outcome.PEER_UNTRUSTED
    assert len(door.arrivals) == 1


# What connections share.


async def test_an_alert_never_reaches_another_connection(engine: NativeEngine) -> None:
    """Good and bad peers by turns, on one thread: each hears what is meant for it."""
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    async with listening() as upstream:
        door = RecordingDoor(Direction.INBOUND, route(upstream.address), ours)
        async with open_door(engine, door) as address:
            good = TlsStream(await Stream.connect(address), PEER)
            await good.handshake()
            there = await upstream.accept()
            for turn in range(10):
                bad = TlsStream(await Stream.connect(address), STRANGER)
                await bad.handshake()
                await good.send(b"%04d" % turn)
                with pytest.raises(SSL.Error, match="unknown ca"):
                    await bad.receive()
                bad.stream.close()
                assert await there.receive_exactly(4) == b"%04d" % turn
                await there.send(b"back")
                assert await good.receive_exactly(4) == b"back"


async def test_streams_on_one_thread_keep_their_bytes_apart(engine: NativeEngine) -> None:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    async with listening() as upstream:
        door = RecordingDoor(Direction.INBOUND, route(upstream.address), ours)
        async with open_door(engine, door) as address:
            pairs = []
            for _ in range(6):
                peer = TlsStream(await Stream.connect(address), PEER)
                await peer.handshake()
                pairs.append((peer, await upstream.accept()))

            async def exchange(peer: TlsStream, there: Stream) -> None:
                for _ in range(20):
                    data = os.urandom(random.randrange(1, 100_000))  # noqa: S311  sizes, not secrets
                    _, heard = await asyncio.gather(
                        peer.send(data), there.receive_exactly(len(data))
                    )
                    assert heard == data
                    _, heard = await asyncio.gather(
                        there.send(data), peer.receive_exactly(len(data))
                    )
                    assert heard == data

            await asyncio.gather(*(exchange(peer, there) for peer, there in pairs))


async def test_a_hello_may_drip_in_records_of_one_byte(engine: NativeEngine) -> None:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    door = RecordingDoor(Direction.INBOUND, DENIED, ours)
    async with open_door(engine, door) as address:
        peer = TlsStream(await Stream.connect(address), PEER)
        with pytest.raises(SSL.WantReadError):
            peer.tls.do_handshake()
        hello = peer.pending()[5:]
        for at in range(len(hello)):
            record = b"\x16\x03\x01\x00\x01" + hello[at : at + 1]
            for piece in (record[:3], record[3:]) if at % 16 == 0 else (record,):
                await peer.stream.send(piece)
                if at % 64 == 0:
                    await asyncio.sleep(0)
        await peer.handshake()
        await eventually(lambda: door.arrivals, "an arrival")


async def test_connections_cut_at_any_moment_leave_nothing_behind() -> None:
    """Both threads, random ends: every arrival has one ending, every descriptor is closed."""
    engine = NativeEngine(threads=2)
    chance = random.Random(4)  # noqa: S311  a script, not secrets
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    gc.collect()
    async with listening() as upstream:
        door = RecordingDoor(
            Direction.INBOUND, route(upstream.address), ours, Timeouts(handshake=1.0, connect=1.0)
        )

        def maybe_cut(connection: object) -> None:
            if chance.random() < 0.3:
                connection.close(DENIED)  # type: ignore[attr-defined]  # a Connection

        door.on_opened = maybe_cut

        async def echo() -> None:
            while True:
                there = await upstream.accept()
                with suppress(OSError):
                    await there.send(b"hello")
                with suppress(OSError):  # the caller was quicker
                    chance.choice((there.close, there.reset, there.finish))()

        async def caller(address: TcpAddress) -> None:
            shows = PEER if chance.random() < 0.8 else STRANGER
            peer = TlsStream(await Stream.connect(address), shows)
            with suppress(OSError, SSL.Error, EOFError):
                if chance.random() < 0.1:
                    await peer.stream.send(b"\x16\x03\x01\x02")
                else:
                    await peer.handshake()
                    await peer.send(bytes(chance.randrange(1, 30_000)))
                    await peer.receive()
            chance.choice((peer.stream.close, peer.stream.reset))()

        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            echoing = asyncio.create_task(upstream_forever(echo))
            for _ in range(10):
                await asyncio.gather(*(caller(address) for _ in range(20)))
            await eventually(lambda: len(door.endings) == 200, "200 endings")
            engine.set_limits(Limits(handshakes_in_flight=1))  # nobody has kept a slot
            last = TlsStream(await Stream.connect(address), PEER)
            await last.handshake()
            last.stream.close()
            await eventually(lambda: len(door.endings) == 201, "the last ending")
            echoing.cancel()
            await asyncio.gather(echoing, return_exceptions=True)
    assert engine.state.core.alive() == 0
    assert Outcome.LIMIT not in {ending.outcome for _, ending in door.endings}
    assert engine.responsive()
    await engine.stop()
    close_all()


async def upstream_forever(echo: object) -> None:
    while True:
        with suppress(TimeoutError):  # nobody came for a while
            await echo()  # type: ignore[operator]  # a coroutine function


async def test_a_stopped_engine_is_not_responsive_and_stops_again_for_nothing() -> None:
    engine = NativeEngine(threads=1)
    assert engine.responsive()
    await engine.stop()
    await engine.stop()


# A flood.

UNHEARD = 4096
"""Ended connections that the loop hasn't heard of, at most (`codes.pxd`, as `ACCEPTS`)."""
ACCEPTS = 16
"""Arrivals that a thread takes in one turn."""


async def test_a_flood_that_is_refused_faster_than_the_loop_hears_of_it_waits_outside(
    engine: NativeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise each would cost memory until its end is told; nobody is lost by the wait."""
    engine.set_limits(Limits(connections=1))
    flood = UNHEARD + 100

    def paused() -> bool:
        for opened in engine.state.listeners:
            opened.on_reports()
        return "accepting pauses, callers wait: a flood of arrivals" in caplog.text

    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address))
        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            inside = await Stream.connect(address)
            there = await upstream.accept()
            await door.connection()
            for _ in range(flood):  # without a turn for the loop
                with suppress(ConnectionResetError):  # so soon
                    socket.create_connection((address.host, address.port), TIMEOUT_S).close()
            wait_until(paused, "a pause")
            assert UNHEARD < engine.state.core.alive() - 1 <= UNHEARD + ACCEPTS
            await eventually(lambda: len(door.endings) == flood, "an ending for each", 30)
            assert {ending.outcome for _, ending in door.endings} == {Outcome.LIMIT}
            assert engine.refused()["connections"] == flood
            assert engine.refused()["descriptors"] == 0
            assert engine.state.core.alive() == 1
            await inside.send(b"still here")
            assert await there.receive_exactly(10) == b"still here"
            inside.close()
            there.close()
            await door.ending(flood + 1)
            await Stream.connect(address)
            await door.connection(2)


# Turns.

THIN = 8 * 1024
"""Bytes taken in a turn from who sends KeyUpdates (`codes.pxd`)."""
RECEIVES = 4
"""How often somebody who says more is heard in a turn (`relay.pxd`)."""


class Turnstile:
    """Lets an engine's only thread go on by one turn at a time: it stands still in the verdict
    on a stranger that it has called, and when that one has gone it meets the next in the turn
    after."""

    def __init__(self) -> None:
        self._judge = verifier(Role.SERVER, OURS)
        self._met = 0
        self._go_on = threading.Semaphore(0)
        self._strangers: list[TlsStream] = []

    def verify(self, chain: tuple[bytes, ...]) -> PeerSvid:
        if chain[0] == STRANGER.der[0]:
            self._met += 1
            self._go_on.acquire()
        return self._judge(chain)

    @asynccontextmanager
    async def holding(self, engine: NativeEngine, turns: int) -> AsyncIterator[None]:
        """The thread stands still, for so many turns in between at most."""
        async with listening() as upstream:
            ours = plan(Role.CLIENT, US, self.verify)
            limits = Timeouts(handshake=60)  # on a slow machine a turn takes seconds
            there = route(upstream.address, tls=ours, timeouts=limits)
            async with open_door(engine, RecordingDoor(Direction.OUTBOUND, there)) as address:
                self._strangers = [await self._called(address, upstream) for _ in range(1 + turns)]
                try:
                    await self._strangers.pop().flush()
                    await eventually(lambda: self._met == 1, "the first stranger")
                    yield
                finally:
                    self._go_on.release(1 + turns)

    async def turn(self) -> None:
        """A whole one, for everything that has been said by now."""
        met = self._met
        await self._strangers.pop().flush()
        self._go_on.release()
        await eventually(lambda: self._met == met + 1, "the next stranger")

    async def _called(self, address: Address, upstream: Upstream) -> TlsStream:
        """Who has heard our hello, and has its answer ready."""
        await Stream.connect(address)
        stranger = TlsStream(await upstream.accept(), STRANGER, server=True)
        stranger.tls.bio_write(await stranger.stream.receive())
        with pytest.raises(SSL.WantReadError):
            stranger.tls.do_handshake()
        return stranger


async def test_who_floods_with_key_updates_is_heard_little_until_it_says_something_again(
    engine: NativeEngine,
) -> None:
    """Each costs as much as a record of 16 KiB: whole receives of them would hold up others."""
    turnstile = Turnstile()
    updates, size = 1000, 5 + 5 + 1 + 16  # a record's header, a message, its type, its tag
    data = [os.urandom(4000) for _ in range(12)]

    def shaken(port: int) -> HostileClient:
        return HostileClient(port, PEER).handshake()

    def answered(peer: HostileClient) -> int:
        """Bytes that it has been sent and hasn't read."""
        (unread,) = struct.unpack("=i", fcntl.ioctl(peer.socket, termios.FIONREAD, bytes(4)))
        return int(unread)

    async with listening() as upstream:
        ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
        door = RecordingDoor(Direction.INBOUND, route(upstream.address), ours)
        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            with await asyncio.to_thread(shaken, address.port) as peer:
                there = await upstream.accept()
                connection = await door.connection()
                async with turnstile.holding(engine, turns=7):
                    heard: list[int] = []
                    for turns in (1, 4):  # the first receive is as large as anybody's
                        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                        for _ in range(updates):
                            peer.update_key(ask=True)
                        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
                        for _ in range(turns):
                            await turnstile.turn()
                            heard.append(
                                await eventually(lambda: answered(peer) - sum(heard), "answers")
                            )
                    # with a record that had begun before
                    assert max(heard[1:]) <= THIN + size < heard[0]
                    # the last one's answer may wait for other words
                    assert sum(heard) >= (2 * updates - 1) * size
                    assert connection.bytes_received == 0
                    for words in data:
                        peer.send(words)
                    await turnstile.turn()
                    assert connection.bytes_received == sum(map(len, data)) > RECEIVES * THIN
                assert await there.receive_exactly(sum(map(len, data))) == b"".join(data)
                await there.send(b"ok")
                assert await asyncio.to_thread(peer.receive, 2) == b"ok"
            await eventually(lambda: connection.state is State.CLOSED, "its end")


# What goes together.


async def test_last_bytes_go_to_a_peer_in_one_segment_with_both_ends(
    engine: NativeEngine,
) -> None:
    ours = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS))
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address, tls=ours))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            peer = TlsStream(await upstream.accept(), PEER, server=True)
            await peer.handshake()
            await downstream.send(b"first")
            assert await peer.receive_exactly(5) == b"first"
            before = peer.stream.segments(Segments.WITH_BYTES)
            downstream.send_last(b"last")
            assert await peer.receive_all() == b"last"
            assert await peer.stream.receive() == b""
            assert peer.stream.segments(Segments.WITH_BYTES) == before + 1


async def test_last_bytes_go_to_an_application_in_one_segment_with_the_end(
    engine: NativeEngine,
) -> None:
    async with listening() as upstream:
        door = RecordingDoor(Direction.INBOUND, route(upstream.address), server(Judge()))
        async with open_door(engine, door) as address:
            peer = TlsStream(await Stream.connect(address), PEER)
            await peer.handshake()
            await peer.send(b"first")
            there = await upstream.accept()
            assert await there.receive() == b"first"
            before = there.segments(Segments.ALL)
            await peer.send_last(b"last")
            assert await there.receive_all() == b"last"
            assert there.segments(Segments.ALL) == before + 1


BETWEEN_ROUNDS = 0.1
"""Seconds between two rounds of reports that ask nothing (`machine.h`, as BUSY)."""
COMPANY = 8
"""Connections told of in one round, after which the next one takes its time (`codes.pxd`)."""
CROWD = 256
"""Connections that something is to be told of, and nobody waits for more (`codes.pxd`)."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the loop heard of callers who came one after the other, and ask nothing."""

    connections: int
    rounds: int
    lasted: float
    """Seconds."""


async def hear_of_callers(monkeypatch: pytest.MonkeyPatch, pause: float) -> Heard:
    """Callers for five rounds' time, with a pause between each few."""
    rounds, take = count(), LoopState.take

    def counting(state: LoopState, _most: int = 0) -> None:
        next(rounds)
        take(state, 1 << 20)

    monkeypatch.setattr(LoopState, "take", counting)
    engine, loop = NativeEngine(threads=1), asyncio.get_running_loop()
    async with listening() as upstream:
        door = RecordingDoor(
            Direction.OUTBOUND, replace(route(upstream.address), cache_scope=PER_PEER)
        )
        async with open_door(engine, door) as address:
            before, began = next(rounds), loop.time()
            while loop.time() < began + 5 * BETWEEN_ROUNDS:
                for _ in range(COMPANY):
                    (await Stream.connect(address)).close()
                await asyncio.sleep(pause)
            heard = Heard(len(door.repeats), next(rounds) - before, loop.time() - began)
    await engine.stop()
    return heard


async def test_reports_that_ask_nothing_come_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = await hear_of_callers(monkeypatch, BETWEEN_ROUNDS / 10)
    crowds = heard.connections / CROWD
    # the first one asked, and a round that told of few was followed soon; one every 10 ms is 50
    assert heard.rounds <= 2 * heard.lasted / BETWEEN_ROUNDS + crowds + 4


async def test_a_crowd_of_reports_does_not_wait_for_its_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = await hear_of_callers(monkeypatch, 0)
    assert heard.rounds > 0.7 * heard.connections / CROWD


async def test_ends_are_told_in_their_order(engine: NativeEngine) -> None:
    async with listening() as upstream:
        answer = replace(route(upstream.address), cache_scope=PER_PEER)
        door = RecordingDoor(Direction.OUTBOUND, answer)
        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            (await Stream.connect(address)).close()
            (await upstream.accept()).close()
            await door.ending()
            # the loop takes nothing from here on
            upstream.socket.setblocking(True)
            pairs = []
            for _ in range(3):
                downstream = socket.create_connection((address.host, address.port), TIMEOUT_S)
                pairs.append((downstream, upstream.socket.accept()[0]))
            left = []
            for downstream, there in reversed(pairs):
                left.append(TcpAddress(*downstream.getsockname()))
                there.close()
                assert downstream.recv(1) == b""
                downstream.close()
            await door.ending(4)
    assert [connection.arrival.source for connection, _ in door.endings[1:]] == left


async def test_whoever_got_in_is_known_when_doors_are_asked_again(engine: NativeEngine) -> None:
    async with listening() as upstream:
        answer = replace(route(upstream.address), cache_scope=PER_PEER)
        door = RecordingDoor(Direction.OUTBOUND, answer)
        async with open_door(engine, door) as address:
            for known in range(1, 21):
                for _ in ("asks", "needn't"):
                    downstream = await Stream.connect(address)
                    await downstream.send(b"x")
                    assert await (await upstream.accept()).receive() == b"x"
                door.ask_again()
                await asyncio.sleep(0)  # a turn of the loop
                assert len(door.repeats) == known


# Routes that stand.


async def repeats(
    engine: NativeEngine, scope: frozenset[CacheScope] | None, *hosts: str
) -> RecordingDoor:
    """A caller from each host in turn, through one door; asked again before an empty one."""
    async with listening() as upstream:
        answer = replace(route(upstream.address), cache_scope=scope)
        door = RecordingDoor(Direction.INBOUND, answer, server(Judge()))
        async with open_door(engine, door) as address:
            for host in hosts:
                if not host:
                    door.ask_again()
                    continue
                count = len(door.endings) + 1
                peer = TlsStream(await Stream.connect(address, source=host), PEER)
                await peer.handshake()
                await peer.send(b"again")
                there = await upstream.accept()
                assert await there.receive() == b"again"
                peer.stream.close()
                there.close()
                await door.ending(count)
    assert len(door.opened_) == len(door.endings) == len(door.arrivals) + len(door.repeats)
    return door


async def test_a_known_caller_is_let_in_without_asking(engine: NativeEngine) -> None:
    door = await repeats(engine, PER_PEER, "127.0.0.1", "127.0.0.1", "127.0.0.2")
    assert (len(door.arrivals), len(door.repeats)) == (1, 2)
    arrival, given = door.repeats[1]
    assert arrival.peer is not None
    assert str(arrival.source).startswith("127.0.0.2:")
    assert arrival.tls is door.downstream_tls
    assert given is door.answer
    assert {connection.dialled for connection in door.opened_} == {given.candidates[0].addresses[0]}
    assert len({connection.arrival.id for connection, _ in door.endings}) == 3


async def test_a_route_that_does_not_stand_is_asked_for_every_time(engine: NativeEngine) -> None:
    door = await repeats(engine, None, "127.0.0.1", "127.0.0.1")
    assert (len(door.arrivals), len(door.repeats)) == (2, 0)


async def test_a_route_stands_for_its_source_alone_where_a_rule_names_one(
    engine: NativeEngine,
) -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.1")
    door = await repeats(engine, PER_PEER_AND_SOURCE, *hosts)
    assert (len(door.arrivals), len(door.repeats)) == (2, 2)


async def test_no_route_stands_once_doors_are_asked_again(engine: NativeEngine) -> None:
    hosts = ("127.0.0.1", "127.0.0.1", "", "127.0.0.1", "127.0.0.1")
    door = await repeats(engine, PER_PEER, *hosts)
    assert (len(door.arrivals), len(door.repeats)) == (2, 2)


async def test_a_route_stands_for_one_leaf_and_no_other(engine: NativeEngine) -> None:
    other = OURS.issue("/ns/web/sa/frontend")  # the same name
    async with listening() as upstream:
        answer = replace(route(upstream.address), cache_scope=PER_PEER)
        door = RecordingDoor(Direction.INBOUND, answer, server(Judge()))
        async with open_door(engine, door) as address:
            for count, shows in enumerate((PEER, other, PEER, other), start=1):
                peer = TlsStream(await Stream.connect(address), shows)
                await peer.handshake()
                await door.connection(count)
                peer.stream.close()
            await door.ending(4)
    assert (len(door.arrivals), len(door.repeats)) == (2, 2)


async def test_no_byte_passes_by_a_route_that_fell_while_its_connection_was_made(
    engine: NativeEngine,
) -> None:
    ours = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS))
    async with listening() as upstream:
        answer = replace(route(upstream.address, tls=ours), cache_scope=PER_PEER)
        door = RecordingDoor(Direction.OUTBOUND, answer)
        async with open_door(engine, door) as address:
            for count in (1, 2):
                downstream = await Stream.connect(address)
                await downstream.send(b"secret")
                there = TlsStream(await upstream.accept(), PEER, server=True)
                if count == 2:
                    door.on_opened = lambda connection: connection.close(CHANGED)
                    door.ask_again()  # between the dial and the end of the handshake
                with suppress(ConnectionResetError):  # in its last step, the second time
                    await there.handshake()
                if count == 1:
                    assert await there.receive() == b"secret"
                    downstream.close()
                    there.stream.close()
                    await door.ending()
            with pytest.raises((ConnectionResetError, SSL.SysCallError, EOFError)):
                await there.receive()
            assert (await door.ending(2)).outcome is Outcome.POLICY_CHANGED
    assert (len(door.arrivals), len(door.repeats)) == (1, 1)
    assert door.endings[1][0].bytes_sent == 0


async def test_a_route_that_stands_and_leads_nowhere_ends_as_any_other(
    engine: NativeEngine,
) -> None:
    async with listening() as upstream:
        answer = replace(route(upstream.address), cache_scope=PER_PEER)
        door = RecordingDoor(Direction.OUTBOUND, answer)
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            there = await upstream.accept()
            upstream.close()
            assert await (await Stream.connect(address)).is_reset()
            ending = await door.ending()
            downstream.close()
            there.close()
    assert (ending.outcome, ending.state) == (Outcome.CONNECT_FAILED, State.CONNECTING)
    assert len(door.repeats) == 1
    assert door.attempts[-1][1] is not None


async def test_a_refusal_is_the_ending_though_the_caller_leaves_before_it_is_carried_out(
    engine: NativeEngine,
) -> None:
    downstream: list[Stream] = []

    def cut(connection: Connection) -> None:
        open_before = len(os.listdir("/proc/self/fd"))
        downstream[0].reset()  # closes its own, and the thread then both of its sockets
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == open_before - 3, "it is gone")
        connection.close(CHANGED)

    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address), on_opened=cut)
        async with open_door(engine, door) as address:
            downstream.append(await Stream.connect(address))
            ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.POLICY_CHANGED, State.RELAYING)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_a_caller_that_stays_goes_on_without_what_its_handshake_needed(
    engine: NativeEngine, version: int
) -> None:
    """After a second the peer's public key and names are dropped; what was verified stays verified,
    and bytes go both ways as before."""
    ours = plan(Role.SERVER, US, Judge(), settings=TlsSettings(min_version="1.2"))
    async with listening() as upstream:
        patient = route(upstream.address, timeouts=Timeouts(idle=1.5))
        door = RecordingDoor(Direction.INBOUND, patient, ours)
        async with open_door(engine, door) as address:
            peer = TlsStream(await Stream.connect(address), PEER, version=version)
            await peer.handshake()
            there = await upstream.accept()
            connection = await door.connection()
            await talk_beyond_the_trim(peer, there)
            ending = await door.ending()
            assert connection.peer is not None
            assert connection.peer.chain[0] == PEER.der[0]
            there.close()
    assert ending.outcome is Outcome.TIMED_OUT
    assert ending.reason == "nothing moved for 1.5 s"


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_one_that_we_have_dialled_goes_on_without_it_too(
    engine: NativeEngine, version: int
) -> None:
    judge = Judge()
    ours = plan(Role.CLIENT, US, judge, settings=TlsSettings(min_version="1.2"))
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address, tls=ours))
        async with open_door(engine, door) as address:
            here = await Stream.connect(address)
            peer = TlsStream(await upstream.accept(), PEER, server=True, version=version)
            await peer.handshake()
            connection = await door.connection()
            await talk_beyond_the_trim(peer, here)
            assert connection.peer is not None
            assert connection.peer.chain[0] == PEER.der[0]
            here.reset()
            await door.ending()
    assert judge.asked == 1


async def talk_beyond_the_trim(peer: TlsStream, other: Stream) -> None:
    """Have both sides speak for longer than the second after which memory is given back."""
    begun = time.monotonic()
    while time.monotonic() < begun + 1.2:
        await peer.send(b"ping")
        assert await other.receive_exactly(4) == b"ping"
        await other.send(b"pong")
        assert await peer.receive_exactly(4) == b"pong"


NEEDLESS = 3700
"""Bytes of a connection that only its handshake needed: 4,030 were measured with names of 64
characters in the peer's certificate, 3,410 if these stay, and nothing if nothing is trimmed."""


@needs_malloc
async def test_what_only_a_handshake_needed_is_given_back(engine: NativeEngine) -> None:
    wordy, peers = OURS.issue("/a", subject="x" * 64), 100
    async with listening() as upstream, AsyncExitStack() as stack:
        door = RecordingDoor(Direction.INBOUND, route(upstream.address), server(Judge()))
        address = await stack.enter_async_context(open_door(engine, door))
        for _ in range(peers):
            peer = TlsStream(await Stream.connect(address), wordy)
            stack.callback(peer.stream.close)
            await peer.handshake()
            stack.callback((await upstream.accept()).close)
        before = in_use()
        await eventually(lambda: before - in_use() > peers * NEEDLESS, "it is given back")
