"""Routes through L7 proxies, by both engines: the far end is software that isn't ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import h2.errors
import h2.events
import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door
from tests.helpers.streams import FullQueue, Stream, Upstream, listening
from tests.helpers.tunnels import STRANGERS, H2Peer, frame, outbound_door
from uproxy.contract import PLAIN, Candidate, Engine, Refusal, Route, Tunnel
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Outcome, TcpAddress, Timeouts
from uproxy.transport import failures
from uproxy.transport.through import END_DELAY_S, MAX_STRANDINGS

engine = engines.tunnel_engine
one_thread = engines.one_thread

APP = TcpAddress("192.0.2.1", 5432)
HEADERS = (("x-uproxy-expect-id", "spiffe://example.org/ns/shop/sa/reviews," * 9), ("x-one", ""))
RST_STREAM, GOAWAY = 3, 7
LOST = (SSL.Error, ConnectionResetError, EOFError)
"""How a tunnel ends for its far end."""


def by_way_of(
    *ends: Address, then: Address | None = None, timeouts: Timeouts = Timeouts()
) -> Route:
    """A route by way of L7 proxies; `then`: past them, through a tunnel that ends there."""
    made = outbound_door(15008, APP).answer
    assert isinstance(made, Route)
    assert isinstance(made.upstream, Tunnel)
    past = made.upstream
    ways = [replace(past, end=_tcp(end), via="l7", headers=HEADERS) for end in ends]
    ways += [] if then is None else [replace(past, end=_tcp(then))]
    candidates = tuple(Candidate("there", (APP,), upstream=way) for way in ways)
    return replace(made, candidates=candidates, upstream=ways[0], timeouts=timeouts)


def _tcp(address: Address) -> TcpAddress:
    assert isinstance(address, TcpAddress)
    return address


@asynccontextmanager
async def door_to(engine: Engine, route: Route) -> AsyncIterator[tuple[RecordingDoor, Address]]:
    door = RecordingDoor(Direction.OUTBOUND, route, timeouts=route.timeouts)
    async with open_door(engine, door) as address:
        yield door, address


@asynccontextmanager
async def through_one(
    engine: Engine, **timeouts: float
) -> AsyncIterator[tuple[RecordingDoor, Address, Upstream]]:
    """A door whose only way is an L7 proxy, which is what the test accepts."""
    limits = Timeouts(**timeouts)
    async with (
        listening() as end,
        door_to(engine, by_way_of(end.address, timeouts=limits)) as (door, address),
    ):
        yield door, address, end


async def answered(end: Upstream, status: int = 200) -> tuple[H2Peer, int]:
    """Be an L7 proxy that answers a CONNECT; return the tunnel's end and the stream."""
    peer = await H2Peer.accept(end)
    stream = await peer.request()
    await peer.answer(stream, status, end=status != 200)
    return peer, stream


def failures_of(door: RecordingDoor) -> list[Outcome]:
    return [failure.outcome for _endpoint, failure in door.attempts if failure is not None]


async def test_the_headers_come_with_each_connect_and_leave_no_trace_in_the_table(
    engine: Engine,
) -> None:
    async with through_one(engine) as (door, address, end):
        streams = [await Stream.connect(address)]
        peer = await H2Peer.accept(end)
        for _ in range(2):
            asked = await peer.event(h2.events.RequestReceived)
            fields = [(str(name), str(value)) for name, value in asked.headers or ()]
            assert fields == [(":method", "CONNECT"), (":authority", str(APP)), *HEADERS]
            assert not peer.h2.decoder.header_table.dynamic_entries
            await peer.answer(asked.stream_id or 0, 200)
            streams.append(await Stream.connect(address))
        connection = await door.connection()
        assert (connection.via, connection.tunnel_end) == ("l7", end.address)


async def test_a_route_that_is_kept_has_the_headers_too(one_thread: Engine) -> None:
    async with listening() as end:
        route = replace(
            by_way_of(end.address),
            candidates=(Candidate("there", (APP,)),),
            cache_scope=frozenset(),
        )
        async with door_to(one_thread, route) as (door, address):
            first = await Stream.connect(address)
            peer, _stream = await answered(end)
            second = await Stream.connect(address)
            asked = await peer.event(h2.events.RequestReceived)
            assert ("x-one", "") in [(str(n), str(v)) for n, v in asked.headers or ()]
            await peer.answer(asked.stream_id or 0, 200)
            await eventually(lambda: len(door.opened_) == 2, "both are open")
            assert (len(door.arrivals), len(door.repeats)) == (1, 1)
            assert [each.via for each in door.opened_] == ["l7", "l7"]
        del first, second


@pytest.mark.parametrize("status", [403, 404, 503])
async def test_an_answer_that_refuses_is_l7_refused_and_names_the_proxy(
    engine: Engine, status: int
) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        await answered(end, status)
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (Outcome.L7_REFUSED, State.OPENING_STREAM)
        assert str(ending.reason).startswith(
            f"L7 proxy l7 at {end.address}: the peer answered the CONNECT with {status}: "
        )


async def test_a_reset_instead_of_an_answer_is_a_refusal_too(engine: Engine) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        peer.h2.reset_stream(await peer.request(), h2.errors.ErrorCodes.CONNECT_ERROR)
        await peer.flush()
        assert await downstream.is_reset()
        assert (await door.ending()).outcome is Outcome.L7_REFUSED


async def test_one_that_never_answers_is_unavailable_after_a_bound(engine: Engine) -> None:
    async with through_one(engine, connect=0.3) as (door, address, end):
        downstream = await Stream.connect(address)
        await (await H2Peer.accept(end)).request()
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (Outcome.L7_UNAVAILABLE, State.OPENING_STREAM)
        assert "didn't answer the CONNECT in 0.3 s" in str(ending.reason)


async def test_one_that_shakes_no_hands_is_unavailable(engine: Engine) -> None:
    async with through_one(engine, handshake=0.3) as (door, address, end):
        downstream = await Stream.connect(address)
        await end.accept()  # and says nothing
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (
            Outcome.L7_UNAVAILABLE, State.HANDSHAKING_UPSTREAM,
        )  # fmt: skip


async def test_one_that_talks_nonsense_is_unavailable(engine: Engine) -> None:
    async with through_one(engine, handshake=0.3) as (door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        await peer.raw(frame(RST_STREAM, 0, await peer.request(), b"short"))
        assert await downstream.is_reset()
        assert (await door.ending()).outcome is Outcome.L7_UNAVAILABLE


async def test_one_that_always_talks_nonsense_is_asked_about(engine: Engine) -> None:
    async def talk_nonsense(end: Upstream) -> None:
        while True:
            with suppress(*LOST):
                peer = await H2Peer.accept(end)
                await peer.raw(frame(RST_STREAM, 0, await peer.request(), b"short"))

    async with through_one(engine) as (door, address, end):
        talking = asyncio.create_task(talk_nonsense(end))
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
        assert ending.outcome is Outcome.L7_UNAVAILABLE
        assert failures.NO_TUNNELS in str(ending.reason)
        talking.cancel()


async def test_one_with_another_identity_is_peer_untrusted_and_nobody_goes_past_it(
    engine: Engine,
) -> None:
    async with listening() as end, listening() as straight:
        route = by_way_of(end.address, then=straight.address)
        async with door_to(engine, route) as (door, address):
            downstream = await Stream.connect(address)
            stranger = STRANGERS.issue("/ns/mesh/sa/l7")
            with pytest.raises((SSL.Error, ConnectionResetError)):
                await (await H2Peer.accept(end, stranger)).request()
            assert await downstream.is_reset()
            ending = await door.ending()
            assert ending.outcome is Outcome.PEER_UNTRUSTED
            assert str(ending.reason).startswith(f"L7 proxy l7 at {end.address}: ")


async def test_one_that_refuses_our_certificate_has_refused_and_nobody_goes_past_it(
    engine: Engine,
) -> None:
    async with listening() as end, listening() as straight:
        route = by_way_of(end.address, then=straight.address)
        async with door_to(engine, route) as (door, address):
            downstream = await Stream.connect(address)
            while not door.endings:
                with suppress(SSL.Error, ConnectionResetError, TimeoutError):
                    async with asyncio.timeout(1):
                        await H2Peer.accept(end, root=STRANGERS.root)
            assert await downstream.is_reset()
            ending = await door.ending()
            assert ending.outcome is Outcome.L7_REFUSED
            assert "refused our certificate (unknown ca)" in str(ending.reason)
            assert failures_of(door) == [Outcome.L7_REFUSED]


async def test_one_that_drops_each_connect_gets_no_more_time_than_one_that_does_not_answer(
    engine: Engine,
) -> None:
    limit = 0.6
    async with listening() as first, listening() as second:
        route = by_way_of(first.address, second.address, timeouts=Timeouts(connect=limit))
        async with door_to(engine, route) as (door, address):
            tried = [0, 0]

            async def drop_each(end: Upstream, which: int) -> None:
                while True:
                    peer = await H2Peer.accept(end)
                    await peer.request()
                    tried[which] += 1
                    await asyncio.sleep(limit / 2)  # it thinks
                    peer.tls.stream.reset()

            dropping = [
                asyncio.create_task(drop_each(end, n)) for n, end in enumerate((first, second))
            ]
            assert await (await Stream.connect(address)).is_reset()
            assert (await door.ending()).outcome is Outcome.L7_UNAVAILABLE
            for each in dropping:
                each.cancel()
            assert failures_of(door) == [Outcome.L7_UNAVAILABLE] * 2
            assert all(1 < times <= 3 for times in tried)


async def test_a_refusal_lets_another_proxy_be_asked_and_nobody_past_them(engine: Engine) -> None:
    async with listening() as one, listening() as other, listening() as straight:
        route = by_way_of(one.address, other.address, then=straight.address)
        async with door_to(engine, route) as (door, address):
            downstream = await Stream.connect(address)
            await answered(one, 403)
            await answered(other, 403)
            assert await downstream.is_reset()
            assert (await door.ending()).outcome is Outcome.L7_REFUSED
            assert failures_of(door) == [Outcome.L7_REFUSED] * 2


async def test_an_address_that_is_gone_makes_the_next_be_tried_and_the_last_way_is_straight(
    engine: Engine,
) -> None:
    gone = FullQueue()
    async with listening() as straight:
        route = by_way_of(gone.address, then=straight.address, timeouts=Timeouts(connect=0.3))
        async with door_to(engine, route) as (door, address):
            downstream = await Stream.connect(address)
            peer, stream = await answered(straight)
            await peer.send(stream, b"hello")
            assert await downstream.receive_exactly(5) == b"hello"
            connection = await door.connection()
            assert (connection.via, connection.tunnel_end) == (None, straight.address)
            assert failures_of(door) == [Outcome.L7_UNAVAILABLE]
    gone.close()


async def test_what_goes_straight_to_addresses_that_race_went_via_nobody(engine: Engine) -> None:
    gone = FullQueue()
    async with listening() as one, listening() as other:
        route = by_way_of(gone.address, timeouts=Timeouts(connect=0.3))
        straight = Candidate("there", (one.address, other.address), upstream=PLAIN)
        route = replace(route, candidates=(*route.candidates, straight))
        async with door_to(engine, route) as (door, address):
            downstream = await Stream.connect(address)
            connection = await door.connection()
            assert (connection.via, connection.tunnel_end) == (None, None)
            del downstream
    gone.close()


async def test_a_proxy_that_goes_away_while_it_is_asked_is_left_for_another(
    engine: Engine,
) -> None:
    async with (
        listening() as one,
        listening() as other,
        door_to(engine, by_way_of(one.address, other.address)) as (door, address),
    ):
        downstream = await Stream.connect(address)
        for _ in range(8):
            peer = await H2Peer.accept(one)
            await peer.request()
            await peer.raw(frame(GOAWAY, 0, 0, bytes(8)))
        peer, stream = await answered(other)
        await peer.send(stream, b"hello")
        assert await downstream.receive_exactly(5) == b"hello"
        assert (await door.connection()).tunnel_end == other.address


async def refuse_streams(end: Upstream) -> None:
    """Be an L7 proxy that has as many streams as it may have, until cancelled."""
    while True:
        with suppress(*LOST):
            peer = await H2Peer.accept(end)
            while True:
                peer.h2.reset_stream(await peer.request(), h2.errors.ErrorCodes.REFUSED_STREAM)
                await peer.flush()


@asynccontextmanager
async def full() -> AsyncIterator[Upstream]:
    """An L7 proxy that refuses every stream without a look at it."""
    async with listening() as end:
        refusing = asyncio.create_task(refuse_streams(end))
        yield end
        refusing.cancel()
        with suppress(asyncio.CancelledError):
            await refusing


async def test_a_proxy_that_takes_no_more_streams_is_left_for_another(engine: Engine) -> None:
    async with (
        full() as one,
        listening() as other,
        door_to(engine, by_way_of(one.address, other.address)) as (door, address),
    ):
        downstream = await Stream.connect(address)
        peer, stream = await answered(other)
        await peer.send(stream, b"hello")
        assert await downstream.receive_exactly(5) == b"hello"
        assert (await door.connection()).tunnel_end == other.address
        assert failures_of(door) == [Outcome.L7_UNAVAILABLE]


async def test_where_no_proxy_takes_more_streams_that_is_said_of_the_last(engine: Engine) -> None:
    async with (
        full() as one,
        full() as other,
        door_to(engine, by_way_of(one.address, other.address)) as (door, address),
    ):
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (Outcome.L7_UNAVAILABLE, State.OPENING_STREAM)
        assert str(ending.reason).startswith(f"L7 proxy l7 at {other.address}: the peer ")
        assert "streams" in str(ending.reason)
        assert failures_of(door) == [Outcome.L7_UNAVAILABLE] * 2


async def test_what_is_reset_before_its_first_byte_was_refused_behind_the_proxy(
    engine: Engine,
) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        await door.connection()
        await peer.raw(frame(RST_STREAM, 0, stream, (10).to_bytes(4, "big")))
        assert await downstream.is_reset()
        ending = await door.ending()
        assert ending.outcome is Outcome.L7_REFUSED
        assert "reset before the first byte" in str(ending.reason)


async def test_what_is_reset_after_its_first_byte_is_a_reset(engine: Engine) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        await peer.send(stream, b"hello")
        assert await downstream.receive_exactly(5) == b"hello"
        await peer.raw(frame(RST_STREAM, 0, stream, (10).to_bytes(4, "big")))
        assert await downstream.is_reset()
        assert (await door.ending()).outcome is Outcome.RESET


# A proxy that is lost before the first byte.


def lose(peer: H2Peer) -> None:
    """Be killed."""
    peer.tls.stream.reset()


@asynccontextmanager
async def opened_through_the_first_of_two(
    engine: Engine,
) -> AsyncIterator[tuple[RecordingDoor, Stream, H2Peer, Upstream]]:
    """A connection that is open and on which nothing has passed; the proxy, and the other one."""
    async with (
        listening() as one,
        listening() as other,
        door_to(engine, by_way_of(one.address, other.address)) as (door, address),
    ):
        downstream = await Stream.connect(address)
        peer, _stream = await answered(one)
        await door.connection()
        door.answer = by_way_of(other.address)
        yield door, downstream, peer, other


async def test_where_no_byte_has_passed_a_lost_proxy_is_replaced_by_another(
    engine: Engine,
) -> None:
    async with opened_through_the_first_of_two(engine) as (door, downstream, first, other):
        first_end = door.opened_[0].tunnel_end
        lose(first)
        peer, stream = await answered(other)
        connection = await door.connection(2)
        assert (connection, connection.arrival.id) == (door.opened_[0], door.arrivals[0].id)
        assert (connection.via, connection.tunnel_end) == ("l7", other.address)
        ((_connection, lost),) = door.stranded
        assert (lost.outcome, lost.bytes_sent, lost.bytes_received) == (
            Outcome.L7_UNAVAILABLE, 0, 0,
        )  # fmt: skip
        assert lost.reason == f"L7 proxy l7 at {first_end}: lost before a byte had passed"
        assert 0 < lost.duration < 60
        await downstream.send(b"request")
        assert await peer.receive(stream, 7) == b"request"
        await peer.send(stream, b"a response", end=True)
        downstream.finish()
        assert await downstream.receive_all() == b"a response"
        ending = await door.ending()
        assert (ending.outcome, ending.bytes_sent, ending.bytes_received) == (
            Outcome.CLOSED, 7, 10,
        )  # fmt: skip


async def test_the_first_bytes_may_come_while_another_proxy_is_dialled(engine: Engine) -> None:
    async with opened_through_the_first_of_two(engine) as (door, downstream, first, other):
        lose(first)
        await eventually(lambda: len(door.arrivals) == 2, "the door is asked again")
        await downstream.send(b"request")
        peer, stream = await answered(other)
        assert await peer.receive(stream, 7) == b"request"


@pytest.mark.parametrize("way", ["to", "from"])
async def test_where_a_byte_has_passed_a_lost_proxy_is_a_reset(engine: Engine, way: str) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        if way == "to":
            await downstream.send(b"x")
            assert await peer.receive(stream, 1) == b"x"
        else:
            await peer.send(stream, b"x")
            assert await downstream.receive_exactly(1) == b"x"
        lose(peer)
        assert await downstream.is_reset()
        ending = await door.ending()
        words = f"L7 proxy l7 at {end.address}: its tunnel was lost, and what was under way on it"
        assert (ending.outcome, ending.reason) == (Outcome.RESET, words)
        assert len(door.arrivals) == 1
        assert not door.stranded


async def test_what_a_lost_tunnel_has_not_taken_keeps_no_connection(engine: Engine) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, _stream = await answered(end)
        await door.connection()
        downstream.socket.send(b"x")
        lose(peer)  # in the same turn, so that the byte waits for the tunnel's socket
        assert await downstream.is_reset()
        assert (await door.ending()).bytes_sent == 1


async def test_who_has_ended_its_direction_is_not_sent_elsewhere(engine: Engine) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        await door.connection()
        downstream.finish()
        await peer.event(h2.events.StreamEnded, stream)
        lose(peer)
        assert await downstream.is_reset()
        await door.ending()
        assert len(door.arrivals) == 1


async def test_a_destination_without_an_l7_proxy_is_not_asked_for_again(engine: Engine) -> None:
    async with (
        listening() as end,
        door_to(engine, outbound_route(end.address)) as (door, address),
    ):
        downstream = await Stream.connect(address)
        peer, _stream = await answered(end)
        await door.connection()
        lose(peer)
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (Outcome.RESET, "the tunnel to the peer was lost")
        assert len(door.arrivals) == 1


def outbound_route(end: Address) -> Route:
    """A route through a tunnel, and no L7 proxy."""
    made = outbound_door(_tcp(end).port, APP).answer
    assert isinstance(made, Route)
    assert isinstance(made.upstream, Tunnel)
    past = replace(made.upstream, end=_tcp(end))
    return replace(made, candidates=(Candidate("there", (APP,), upstream=past),), upstream=past)


async def test_what_the_door_says_when_it_is_asked_again_counts(engine: Engine) -> None:
    async with opened_through_the_first_of_two(engine) as (door, downstream, first, _other):
        door.answer = Refusal(Outcome.L7_UNAVAILABLE, "there is none")
        lose(first)
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (Outcome.L7_UNAVAILABLE, "there is none")
        assert ending.state is State.ADMITTING
        assert len(door.stranded) == 1


async def test_one_that_has_reset_a_stream_and_is_then_lost_has_refused(engine: Engine) -> None:
    async with listening() as one, listening() as straight:
        route = by_way_of(one.address, then=straight.address)
        async with door_to(engine, route) as (door, address):
            downstream = await Stream.connect(address)
            peer = await H2Peer.accept(one)
            stream = await peer.request()
            peer.h2.send_headers(stream, [(":status", "200")])
            peer.h2.reset_stream(stream, h2.errors.ErrorCodes.CONNECT_ERROR)
            peer.tls.tls.sendall(peer.h2.data_to_send())
            # at once, so that all of it has come before the door says that bytes may pass
            peer.tls.stream.send_last(peer.tls.pending())
            assert await downstream.is_reset()
            assert (await door.ending()).outcome is Outcome.L7_REFUSED
            assert not door.stranded
            assert len(door.arrivals) == 1


async def test_what_was_known_of_a_lost_proxy_is_not_said_of_what_follows(engine: Engine) -> None:
    async with opened_through_the_first_of_two(engine) as (door, downstream, first, _other):
        door.answer = Refusal(Outcome.CONNECT_FAILED, "db.example can't be resolved")
        lose(first)
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (
            Outcome.CONNECT_FAILED, "db.example can't be resolved",
        )  # fmt: skip
        ((connection, _ending),) = door.endings
        # otherwise its handshake is counted once more, as that of a connection which never opened
        assert (connection.peer, connection.tls) == (None, None)
        assert (connection.via, connection.tunnel_end) == (None, None)


async def test_while_a_listener_is_closing_a_lost_proxy_is_still_replaced(engine: Engine) -> None:
    async with opened_through_the_first_of_two(engine) as (door, downstream, first, other):
        assert door.listener is not None
        await door.listener.close()
        lose(first)
        peer, stream = await answered(other)
        assert (await door.connection(2)).tunnel_end == other.address
        await downstream.send(b"request")
        assert await peer.receive(stream, 7) == b"request"


async def test_where_the_door_was_taken_away_a_lost_proxy_ends_it(engine: Engine) -> None:
    async with opened_through_the_first_of_two(engine) as (door, downstream, first, _other):
        assert door.listener is not None
        door.listener.replace(None)
        lose(first)
        assert await downstream.is_reset()
        ending = await door.ending()
        assert ending.outcome is Outcome.POLICY_CHANGED
        assert len(door.arrivals) == 1
        assert not door.stranded


async def test_proxies_that_are_always_lost_are_given_up(engine: Engine) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        for count in range(MAX_STRANDINGS + 1):
            peer, _stream = await answered(end)
            await door.connection(count + 1)
            lose(peer)
        assert await downstream.is_reset()
        assert (await door.ending()).outcome is Outcome.RESET
        assert len(door.stranded) == MAX_STRANDINGS
        assert len(door.arrivals) == MAX_STRANDINGS + 1


async def test_many_connections_move_from_one_lost_proxy(engine: Engine) -> None:
    count = 50
    async with (
        listening() as one,
        listening() as other,
        door_to(engine, by_way_of(one.address)) as (door, address),
    ):
        waiting = [await Stream.connect(address) for _ in range(count)]
        serving = asyncio.create_task(_answer_all(one))
        await door.connection(count)
        door.answer = by_way_of(other.address)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        again = asyncio.create_task(_answer_all(other))
        await door.connection(2 * count)
        assert len(door.stranded) == count
        assert {each.tunnel_end for each in door.opened_} == {other.address}
        again.cancel()
        with suppress(asyncio.CancelledError):
            await again
        del waiting


async def _answer_all(end: Upstream) -> None:
    """Be a proxy that answers each CONNECT on as many tunnels as there are, until cancelled; then
    it is killed."""
    peers: list[H2Peer] = []

    async def serve(peer: H2Peer) -> None:
        while True:
            await peer.answer(await peer.request(), 200)

    serving: list[asyncio.Task[None]] = []
    try:
        while True:
            peers.append(await H2Peer.accept(end))
            serving.append(asyncio.create_task(serve(peers[-1])))
    finally:
        for each in serving:
            each.cancel()
        for peer in peers:
            lose(peer)


async def test_a_kept_route_is_not_what_a_stranded_connection_gets(one_thread: Engine) -> None:
    async with listening() as one, listening() as other:
        kept = replace(
            by_way_of(one.address),
            candidates=(Candidate("there", (APP,)),),
            cache_scope=frozenset(),
        )
        async with door_to(one_thread, kept) as (door, address):
            streams = [await Stream.connect(address)]
            peer, _stream = await answered(one)
            streams.append(await Stream.connect(address))
            await peer.answer(await peer.request(), 200)
            await eventually(lambda: len(door.opened_) == 2, "both are open")
            assert len(door.repeats) == 1
            door.answer = by_way_of(other.address)
            lose(peer)
            await door.connection(2)
            again, _stream = await answered(other)
            await again.answer(await again.request(), 200)
            await door.connection(4)
            assert {each.tunnel_end for each in door.opened_} == {other.address}
        del streams


# Half-close.


async def until_all_has_come(peer: H2Peer) -> None:
    """Wait for what was sent before the answer to a PING."""
    peer.h2.ping(b"8 bytes.")
    await peer.flush()
    await peer.event(h2.events.PingAckReceived)


async def test_our_end_waits_until_the_proxys_has_come(engine: Engine) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        await downstream.send(b"request")
        downstream.finish()
        assert await peer.receive(stream, 7) == b"request"
        await peer.send(stream, b"a response")
        assert await downstream.receive_exactly(10) == b"a response"
        await until_all_has_come(peer)
        assert not peer.has(h2.events.StreamEnded)
        await peer.send(stream, b"", end=True)
        await peer.event(h2.events.StreamEnded, stream)
        assert await downstream.receive_all() == b""
        assert (await door.ending()).outcome is Outcome.CLOSED


async def test_our_end_waits_for_half_of_the_half_close_at_most(engine: Engine) -> None:
    async with through_one(engine, half_close=1.0) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        await downstream.send(b"request")
        downstream.finish()
        assert await peer.receive(stream, 7) == b"request"
        await until_all_has_come(peer)
        assert not peer.has(h2.events.StreamEnded)
        await peer.event(h2.events.StreamEnded, stream)
        await peer.send(stream, b"a response", end=True)
        assert await downstream.receive_all() == b"a response"
        assert (await door.ending()).outcome is Outcome.CLOSED


@pytest.mark.parametrize("greeting", [b"", b"220 hello"])
async def test_our_end_does_not_wait_where_nothing_was_asked(
    engine: Engine, greeting: bytes
) -> None:
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        await door.connection()
        await peer.send(stream, greeting)
        assert await downstream.receive_exactly(len(greeting)) == greeting
        downstream.finish()
        await until_all_has_come(peer)
        await until_all_has_come(peer)
        assert peer.has(h2.events.StreamEnded)
        await peer.send(stream, b"all the same", end=True)
        assert await downstream.receive_all() == b"all the same"
        assert (await door.ending()).outcome is Outcome.CLOSED


async def test_our_end_waits_less_once_the_proxy_has_answered(engine: Engine) -> None:
    """Most who end their direction have closed, and keep a stream for nothing."""
    async with through_one(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer, stream = await answered(end)
        await downstream.send(b"request")
        assert await peer.receive(stream, 7) == b"request"
        await peer.send(stream, b"a response")
        assert await downstream.receive_exactly(10) == b"a response"
        downstream.finish()
        await until_all_has_come(peer)
        assert not peer.has(h2.events.StreamEnded)
        async with asyncio.timeout(END_DELAY_S - 1):
            await peer.event(h2.events.StreamEnded, stream)
        await peer.send(stream, b"", end=True)
        assert (await door.ending()).outcome is Outcome.CLOSED
