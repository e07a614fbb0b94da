"""What only the compiled engine does with tunnels: cached routes, pools of threads."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from dataclasses import replace

import h2.events
import hpack
import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import open_door
from tests.helpers.streams import Stream, Upstream, close_all, listening
from tests.helpers.tunnels import H2Peer, frame, inbound_door, named, outbound_door, through
from uproxy.contract import Arrival, CacheScope, Refusal, Route
from uproxy.hbone import frames
from uproxy.hbone.frames import Splitter
from uproxy.lab.waiting import eventually
from uproxy.model import Address, Limits, Outcome, TcpAddress, TunnelSettings
from uproxy.transport.native import NativeEngine

one_thread = engines.one_thread

MIB = 1 << 20
DATA, HEADERS, RST_STREAM, GOAWAY, END_STREAM = 0, 1, 3, 7, 1

CHANCE = random.Random(11)  # noqa: S311  repeatable


@pytest.fixture
async def two_threads() -> AsyncIterator[NativeEngine]:
    made = NativeEngine(threads=2)
    yield made
    await made.stop()
    close_all()


def cacheable(arrival: Arrival) -> Route:
    answer = named(arrival)
    assert isinstance(answer, Route)
    return replace(answer, cache_scope=frozenset({CacheScope.PEER, CacheScope.TARGET}))


async def test_a_repeated_connect_gets_its_route_without_asking_and_another_target_asks(
    one_thread: NativeEngine,
) -> None:
    door = inbound_door(cacheable)
    async with listening() as one, listening() as other, open_door(one_thread, door) as address:
        peer = await H2Peer.connect(address)
        for application in (one, other, one, other, one):
            stream = await peer.open(application.address)
            there = await application.accept()
            assert await peer.status(stream) == 200
            await peer.send(stream, b"question")
            assert await there.receive_exactly(8) == b"question"
        await door.connection(5)
        assert [each.target for each in door.arrivals] == [one.address, other.address]
        assert [each.target for each, _route in door.repeats] == [
            one.address, other.address, one.address,
        ]  # fmt: skip
        assert len({each.id for each in door.arrivals} | {each.id for each, _ in door.repeats}) == 5


@pytest.fixture
def on_one_processor(one_thread: NativeEngine) -> Iterator[NativeEngine]:
    """An engine whose thread shares a processor with ours: it hears at once of what we do in a
    row."""
    allowed = os.sched_getaffinity(0)
    _run_on({min(allowed)})
    yield one_thread
    _run_on(allowed)


def _run_on(processors: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), processors)


async def test_a_tunnel_that_gets_a_stream_just_when_it_is_to_make_room_ends_with_the_stream(
    on_one_processor: NativeEngine,
) -> None:
    """Whoever accepts decides that under a lock, and the tunnel's thread hears of it later."""
    door = inbound_door(cacheable)
    async with listening() as application, open_door(on_one_processor, door) as address:
        busy = await H2Peer.connect(address)
        assert await busy.status(await busy.open(application.address)) == 200
        await application.accept()
        for number in range(1, 101):
            on_one_processor.set_limits(Limits(connections=20))
            peer = await H2Peer.connect(address)
            await peer.event(h2.events.RemoteSettingsChanged)
            on_one_processor.set_limits(Limits(connections=3))
            began = await begins_when_full(peer, address, application)
            peer.tls.stream.reset()
            await eventually(lambda: len(door.ended_tunnels) == number, "it has ended")  # noqa: B023
            if began:
                break
        else:
            pytest.fail("no CONNECT has come at that moment")
        assert Outcome.DRAINED not in {ending.outcome for _, ending in door.endings}


async def begins_when_full(peer: H2Peer, address: Address, application: Upstream) -> bool:
    """Dial a door that is full, and send a CONNECT on the only tunnel that may make room, at once.
    Return whether the stream began all the same; its tunnel must have been told to take no other,
    and the stream must go on."""
    assert isinstance(address, TcpAddress)
    splitter, said = Splitter(server=False), list[int]()
    stream = peer.h2.get_next_available_stream_id()
    target = [(":method", "CONNECT"), (":authority", str(application.address))]
    peer.h2.send_headers(stream, target)
    peer.tls.tls.sendall(peer.h2.data_to_send())
    connect = peer.tls.pending()
    with closing(socket.socket()) as stranger:
        stranger.connect((address.host, address.port))
        peer.tls.stream.socket.send(connect)
        [*splitter.split(frames.settings([]))]  # the peer's own were read before
        try:
            while not {HEADERS, RST_STREAM} & {*said}:
                said += [each.kind for each in splitter.split(await peer.tls.receive())]
                if peer.tls.tls.get_shutdown():
                    return False
        except (ConnectionResetError, EOFError, SSL.Error):
            return False
        if RST_STREAM in said:
            return False
        there = await application.accept()
        await peer.raw(frame(DATA, END_STREAM, stream, b"goes on"))
        assert await there.receive_all() == b"goes on"
        there.finish()
        while GOAWAY not in said:
            said += [each.kind for each in splitter.split(await peer.tls.receive())]
    return True


async def test_an_authority_that_is_no_address_gets_no_cached_route(
    one_thread: NativeEngine,
) -> None:
    def anywhere(arrival: Arrival) -> Route:
        return replace(cacheable(arrival), cache_scope=frozenset({CacheScope.PEER}))

    door = inbound_door(anywhere)
    async with listening() as application, open_door(one_thread, door) as address:
        peer = await H2Peer.connect(address)
        stream = await peer.open(application.address)
        assert await peer.status(stream) == 200
        assert await peer.status(await peer.open("db.internal:5432")) == 400
        assert await peer.status(await peer.open("192.0.2.1:80")) == 200  # the scope says so
        assert len(door.arrivals) == 1


async def test_cached_routes_lead_through_tunnels_too(one_thread: NativeEngine) -> None:
    async with through(one_thread) as mesh:
        route = mesh.outbound.answer
        assert isinstance(route, Route)
        mesh.outbound.answer = replace(route, cache_scope=frozenset({CacheScope.PEER}))
        mesh.outbound.ask_again()
        for _ in range(5):
            downstream, there = await mesh.relay()
            await downstream.send(b"x")
            assert await there.receive_exactly(1) == b"x"
        last = await mesh.outbound.connection(5)
        assert (len(mesh.outbound.arrivals), len(mesh.outbound.repeats)) == (1, 4)
        assert len(mesh.inbound.carrying_) == 1
        assert last.tunnel_end == mesh.end
        assert last.dialled == mesh.application.address
        assert last.shares_tls


async def test_each_thread_has_tunnels_of_its_own(two_threads: NativeEngine) -> None:
    async with through(two_threads) as mesh:
        await mesh.relays(20)
        await mesh.inbound.connection(20)
        assert len(mesh.inbound.carrying_) == two_threads.pooled_tunnels() == 2


@pytest.mark.slow
async def test_a_tunnel_that_died_in_silence_is_found_out_before_it_is_used_again(
    one_thread: NativeEngine,
) -> None:
    """After the 10 s of SILENT_TUNNEL_S, and the 2 s of PROVE_TUNNEL_S."""
    async with listening() as end:
        door = outbound_door(end.address, TcpAddress("192.0.2.1", 5432))
        async with open_door(one_thread, door) as address:
            first = await Stream.connect(address)
            dead = await H2Peer.accept(end)
            await dead.answer(await dead.request(), 200)
            await first.send(b"x")
            await dead.receive(1, 1)  # from here on it says nothing more
            await asyncio.sleep(10.5)
            second = await Stream.connect(address)
            alive = await H2Peer.accept(end)
            stream = await alive.request()
            await alive.answer(stream, 200)
            await second.send(b"y")
            assert await alive.receive(stream, 1) == b"y"
            await first.send(b"still there")  # its stream isn't cut for it
            assert await dead.receive(1, 11) == b"still there"


@pytest.mark.slow
async def test_a_tunnel_that_was_silent_is_used_again_if_it_answers(
    one_thread: NativeEngine,
) -> None:
    async with through(one_thread) as mesh:
        await mesh.relay()
        await asyncio.sleep(10.5)
        downstream, there = await mesh.relay()
        await downstream.send(b"x")
        assert await there.receive_exactly(1) == b"x"
        assert len(mesh.inbound.carrying_) == 1


async def test_readers_that_stall_are_reset_when_their_tunnel_keeps_too_much_for_them(
    one_thread: NativeEngine,
) -> None:
    """16 MiB are kept for all of them, and a window for each."""
    settings = TunnelSettings(stream_window=MIB)
    async with through(one_thread, settings=settings) as mesh:
        stalled = await mesh.relays(40)
        await mesh.inbound.connection(40)
        sending = [asyncio.create_task(each.send(bytes(32 * MIB))) for each, _there in stalled]
        await eventually(lambda: bool(mesh.inbound.endings), "one was reset", timeout=60)
        assert {ending.outcome for _, ending in mesh.inbound.endings} == {Outcome.LIMIT}
        downstream, there = await mesh.relay()
        await downstream.send(b"others go on")
        assert await there.receive_exactly(12) == b"others go on"
        assert len(mesh.inbound.carrying_) == 1
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


CUT = Refusal(Outcome.POLICY_CHANGED, "not any more")


async def _visit(address: Address) -> None:
    """Send something, and leave in one of four ways."""
    stream = await Stream.connect(address)
    with suppress(OSError):
        await stream.send(os.urandom(CHANCE.choice((1, 100, 70_000))))
        way = CHANCE.randrange(4)
        if way == 0:
            stream.reset()
        elif way == 1:
            stream.finish()
            await stream.receive_all()
        else:
            await stream.receive_exactly(1)
            stream.reset() if way == 2 else stream.close()


async def _echo(stream: Stream) -> None:
    with suppress(OSError):
        while data := await stream.receive():
            await stream.send(data)
            if CHANCE.random() < 0.1:
                stream.reset()
                return
        stream.close()


async def _serve(application: Upstream) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(_echo(await application.accept()))


@pytest.mark.slow
async def test_streams_that_come_and_go_in_every_way_leave_nothing(
    two_threads: NativeEngine,
) -> None:
    """Half-closes, resets of either end, cuts, on two threads; the doors change meanwhile."""
    async with through(two_threads, settings=TunnelSettings(streams_per_connection=7)) as mesh:
        doors = mesh.inbound, mesh.outbound
        serving = asyncio.create_task(_serve(mesh.application))
        for _ in range(12):
            await asyncio.gather(*(_visit(mesh.address) for _ in range(40)))
            for connection in (*mesh.inbound.opened_, *mesh.outbound.opened_)[-20:]:
                if CHANCE.random() < 0.2:
                    connection.close(CUT)
            mesh.outbound.ask_again()
            mesh.inbound.ask_again()
            if CHANCE.random() < 0.3:
                mesh.inbound.carrying_[-1].close(CUT)
        await eventually(
            lambda: sum(each.streams for each in mesh.inbound.carrying_) == 0, "no stream is left"
        )
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await eventually(
            lambda: all(len(door.endings) >= len(door.arrivals) for door in doors), "all have ended"
        )
        for door in doors:
            assert len({each.arrival.id for each, _ in door.endings}) == len(door.endings)


async def test_what_a_lost_tunnel_leaves_behind_is_reported_before_it_even_when_all_is_cut(
    one_thread: NativeEngine,
) -> None:
    """Otherwise the loop would look for the tunnel in memory that is freed."""
    door = inbound_door()
    async with open_door(one_thread, door) as address:
        peer = await H2Peer.connect(address)
        await eventually(lambda: bool(door.carrying_), "it carries")
        block = hpack.Encoder().encode([(":method", "CONNECT"), (":authority", "nowhere")])
        await peer.raw(*(frame(1, 4, 2 * at + 1, block) for at in range(1000)))
        peer.tls.stream.close()
        time.sleep(0.3)  # noqa: ASYNC251  the loop is busy, its thread goes on
        one_thread.state.core.cut_all()
        time.sleep(0.1)  # noqa: ASYNC251  before the loop has taken a report
        await door.ending(1000)
        assert [each.arrival.tunnel for each, _ in door.endings] == [
            door.ended_tunnels[0][0].arrival.id
        ] * 1000  # fmt: skip
        assert len(door.ended_tunnels) == 1
