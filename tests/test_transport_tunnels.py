"""Connections through tunnels (HBONE), from one door of an engine to another."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from weakref import ref

import pytest

from tests.helpers import engines
from tests.helpers.engines import open_door
from tests.helpers.streams import Stream, listening
from tests.helpers.tunnels import (
    OURS,
    STRANGERS,
    inbound_door,
    outbound_door,
    through,
)
from uproxy.contract import Engine, Refusal, Route, Tunnel
from uproxy.lab.waiting import eventually
from uproxy.model import Limits, Outcome, TcpAddress, Timeouts, TunnelSettings

engine = engines.tunnel_engine

KIB, MIB = 1 << 10, 1 << 20


async def test_bytes_pass_both_ways_and_are_counted(engine: Engine) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        await downstream.send(b"question")
        assert await there.receive_exactly(8) == b"question"
        await there.send(b"an answer")
        assert await downstream.receive_exactly(9) == b"an answer"
        out, came = await mesh.outbound.connection(), await mesh.inbound.connection()
        assert (out.bytes_sent, out.bytes_received) == (8, 9)
        assert (came.bytes_received, came.bytes_sent) == (8, 9)
        downstream.finish()
        there.finish()
        assert (await mesh.outbound.ending()).outcome is Outcome.CLOSED
        assert (await mesh.inbound.ending()).outcome is Outcome.CLOSED


async def test_a_stream_arrives_under_the_identity_of_its_tunnel_for_the_named_address(
    engine: Engine,
) -> None:
    async with through(engine) as mesh:
        await mesh.relay()
        came = (await mesh.inbound.connection()).arrival
        carrier = mesh.inbound.carrying_[0].arrival
        assert came.peer is not None
        assert came.peer.spiffe_id == "spiffe://example.org/ns/web/sa/frontend"
        assert came.target == mesh.application.address
        assert (came.source, came.local, came.tunnel) == (
            carrier.source, carrier.local, carrier.id,
        )  # fmt: skip
        assert came.local == mesh.end


async def test_the_outbound_side_knows_the_far_end_and_the_application(engine: Engine) -> None:
    async with through(engine) as mesh:
        await mesh.relay()
        await mesh.relay()
        await mesh.outbound.connection(2)
        first, second = mesh.outbound.opened_
        assert first.dialled == second.dialled == mesh.application.address
        assert first.tunnel_end == second.tunnel_end == mesh.end
        assert first.peer is not None
        assert first.peer.spiffe_id == "spiffe://example.org/ns/shop/sa/orders"
        assert first.tls is not None
        assert first.tls.version == "TLSv1.3"
        assert (first.shares_tls, second.shares_tls) == (False, True)
        assert first.dialled_from == mesh.inbound.carrying_[0].arrival.source


async def test_later_connections_share_the_tunnel(engine: Engine) -> None:
    async with through(engine) as mesh:
        for _ in range(5):
            downstream, there = await mesh.relay()
            await downstream.send(b"x")
            assert await there.receive_exactly(1) == b"x"
        assert len(mesh.inbound.carrying_) == 1
        assert mesh.inbound.carrying_[0].streams == 5
        assert engine.pooled_tunnels() == 1


async def test_connections_that_come_at_once_share_one_dial(engine: Engine) -> None:
    async with through(engine) as mesh:
        await mesh.relays(50)
        await mesh.inbound.connection(50)
        assert len(mesh.inbound.carrying_) == 1


async def test_a_full_tunnel_gets_another_one_beside_it(engine: Engine) -> None:
    async with through(engine, settings=TunnelSettings(streams_per_connection=10)) as mesh:
        await mesh.relays(25)
        await mesh.inbound.connection(25)
        assert sorted(each.streams for each in mesh.inbound.carrying_) == [5, 10, 10]


async def test_the_far_ends_limit_is_kept_although_it_is_heard_of_late(engine: Engine) -> None:
    async with through(engine, theirs=TunnelSettings(max_streams=10)) as mesh:
        await mesh.relays(40)
        await mesh.inbound.connection(40)
        assert max(each.streams for each in mesh.inbound.carrying_) == 10


async def test_the_caller_may_half_close_first(engine: Engine) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        await downstream.send(b"request")
        downstream.finish()
        assert await there.receive_all() == b"request"
        await there.send(b"late answer")
        there.close()
        assert await downstream.receive_all() == b"late answer"
        assert (await mesh.outbound.ending()).outcome is Outcome.CLOSED
        assert (await mesh.inbound.ending()).outcome is Outcome.CLOSED


async def test_the_application_may_half_close_first(engine: Engine) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        await there.send(b"banner")
        there.finish()
        assert await downstream.receive_all() == b"banner"
        await downstream.send(b"still talking")
        downstream.finish()
        assert await there.receive_all() == b"still talking"
        assert (await mesh.inbound.ending()).outcome is Outcome.CLOSED


async def test_many_bytes_arrive_as_they_were_sent_both_ways_at_once(engine: Engine) -> None:
    payloads = [os.urandom(8 * MIB) for _ in range(4)]
    async with through(engine) as mesh:
        pairs = [await mesh.relay() for _ in range(2)]
        senders = [end for pair in pairs for end in pair]
        receivers = [end for one, other in pairs for end in (other, one)]
        sending = [
            asyncio.ensure_future(end.send(data))
            for end, data in zip(senders, payloads, strict=True)
        ]
        received = await asyncio.gather(*(end.receive_exactly(8 * MIB) for end in receivers))
        await asyncio.gather(*sending)
        assert [hashlib.sha256(each).digest() for each in received] == [
            hashlib.sha256(each).digest() for each in payloads
        ]


@pytest.mark.parametrize("side", ["caller", "application"])
async def test_a_reader_that_stalls_stops_its_writer_and_no_other_stream(
    engine: Engine, side: str
) -> None:
    async with through(engine) as mesh:
        stalled = [await mesh.relay() for _ in range(6)]
        writers = [pair[side == "application"] for pair in stalled]
        tasks = [asyncio.create_task(each.send(bytes(32 * MIB))) for each in writers]
        downstream, there = await mesh.relay()
        for _ in range(50):
            await downstream.send(b"x" * KIB)
            assert len(await there.receive_exactly(KIB)) == KIB
            await there.send(b"y" * KIB)
            assert len(await downstream.receive_exactly(KIB)) == KIB
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("side", ["caller", "application"])
async def test_a_reader_that_was_quick_and_stalls_stops_no_other_stream_and_loses_nothing(
    engine: Engine, side: str
) -> None:
    """Its window has grown by then."""
    async with through(engine) as mesh:
        pair = await mesh.relay()
        writer, reader = pair[side == "application"], pair[side != "application"]
        sent = os.urandom(MIB + 1) * 24
        task = asyncio.create_task(writer.send(sent))
        assert await reader.receive_exactly(len(sent)) == sent
        await task
        sent *= 3  # more than sockets and windows may have grown to by then
        task = asyncio.create_task(writer.send(sent))
        downstream, there = await mesh.relay()
        for _ in range(50):
            await downstream.send(b"x" * KIB)
            assert len(await there.receive_exactly(KIB)) == KIB
        assert not task.done()
        assert await reader.receive_exactly(len(sent)) == sent
        await task


@pytest.mark.parametrize("side", ["caller", "application"])
async def test_a_reset_becomes_a_reset_at_the_other_end_and_touches_no_other_stream(
    engine: Engine, side: str
) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        other, beyond = await mesh.relay()
        mine, theirs = (downstream, there) if side == "caller" else (there, downstream)
        await mine.send(b"last words")
        mine.reset()
        assert await theirs.receive_exactly(10) == b"last words"
        assert await theirs.is_reset()
        assert (await mesh.inbound.ending()).outcome is Outcome.RESET
        assert (await mesh.outbound.ending()).outcome is Outcome.RESET
        await other.send(b"on")
        assert await beyond.receive_exactly(2) == b"on"


async def test_20000_writes_of_one_byte_arrive(engine: Engine) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()

        async def drip() -> None:
            for _ in range(20_000):
                await downstream.send(b"x")

        dripping = asyncio.create_task(drip())
        assert await there.receive_exactly(20_000) == b"x" * 20_000
        await dripping


async def test_a_refused_caller_is_refused_on_both_sides_in_words(engine: Engine) -> None:
    no = Refusal(Outcome.DENIED, "no rule lets it in", "default")
    async with through(engine, lambda _arrival: no) as mesh:
        downstream = await Stream.connect(mesh.address)
        assert await downstream.is_reset()
        here, there = await mesh.outbound.ending(), await mesh.inbound.ending()
    assert (there.outcome, there.reason) == (Outcome.DENIED, "no rule lets it in")
    assert here.outcome is Outcome.PEER_REFUSED
    assert here.reason is not None
    assert "403" in here.reason


async def test_an_application_that_isnt_there_is_told_of_in_words(engine: Engine) -> None:
    async with through(engine) as mesh:
        mesh.application.close()
        downstream = await Stream.connect(mesh.address)
        assert await downstream.is_reset()
        here, there = await mesh.outbound.ending(), await mesh.inbound.ending()
    assert there.outcome is here.outcome is Outcome.CONNECT_FAILED
    assert here.reason is not None
    assert "503" in here.reason


async def test_a_far_end_that_isnt_there_makes_the_next_address_be_tried(engine: Engine) -> None:
    async with through(engine) as mesh:
        route = mesh.outbound.answer
        assert isinstance(route, Route)
        assert isinstance(route.upstream, Tunnel)
        assert isinstance(mesh.end, TcpAddress)
        assert isinstance(mesh.application.address, TcpAddress)
        nowhere = TcpAddress("127.0.0.2", mesh.application.address.port)
        candidates = (
            replace(route.candidates[0], endpoint="nowhere", addresses=(nowhere,)),
            *route.candidates,
        )
        upstream = replace(route.upstream, end=mesh.end.port)
        mesh.outbound.answer = replace(route, candidates=candidates, upstream=upstream)
        mesh.outbound.ask_again()
        downstream, there = await mesh.relay()
        await downstream.send(b"x")
        assert await there.receive_exactly(1) == b"x"
        assert mesh.outbound.attempts[0][0] == "nowhere"


async def test_a_far_end_of_another_trust_domain_receives_no_byte(engine: Engine) -> None:
    inbound = inbound_door(shows=STRANGERS.issue("/ns/shop/sa/orders"))
    async with listening() as application, open_door(engine, inbound) as end:
        outbound = outbound_door(end, application.address)
        async with open_door(engine, outbound) as address:
            downstream = await Stream.connect(address)
            await downstream.send(b"secret")
            assert await downstream.is_reset()
            ending = await outbound.ending()
    assert ending.outcome is Outcome.PEER_UNTRUSTED
    assert inbound.opened_ == []


async def test_a_caller_that_vanishes_before_it_is_let_in_leaves_nothing(engine: Engine) -> None:
    async with through(engine) as mesh:
        await mesh.relay()
        for _ in range(20):
            (await Stream.connect(mesh.address)).reset()
        downstream, _there = await mesh.relay()
        await downstream.send(b"x")
        await eventually(lambda: mesh.inbound.carrying_[0].streams <= 22, "the others ended")


async def test_a_new_plan_gets_a_tunnel_of_its_own_and_the_old_one_ends_with_its_stream(
    engine: Engine,
) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        old = mesh.outbound.answer
        assert isinstance(mesh.end, TcpAddress)
        renewed = outbound_door(mesh.end, mesh.application.address)
        mesh.outbound.answer = renewed.answer
        mesh.outbound.ask_again()
        del old, renewed
        gc.collect()
        await mesh.relay()
        assert len(mesh.inbound.carrying_) == 2
        await downstream.send(b"still here")
        assert await there.receive_exactly(10) == b"still here"
        downstream.finish()
        there.finish()
        await eventually(lambda: len(mesh.inbound.ended_tunnels) == 1, "the old tunnel has ended")
        assert mesh.inbound.ended_tunnels[0][1].outcome is Outcome.CLOSED
        assert engine.pooled_tunnels() == 1


async def test_tunnels_that_came_in_end_with_their_streams_when_the_door_has_a_renewed_svid(
    engine: Engine,
) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        await mesh.inbound.connection()
        mesh.inbound.downstream_tls = inbound_door().downstream_tls
        mesh.inbound.ask_again()
        while len(mesh.inbound.carrying_) == 1:
            await mesh.relay()  # until the GOAWAY has come
            await asyncio.sleep(0.01)
        await downstream.send(b"still here")
        assert await there.receive_exactly(10) == b"still here"
        mesh.inbound.ask_again()  # with the same one
        await mesh.relay()
        assert len(mesh.inbound.carrying_) == 2


async def test_a_tunnel_is_shared_only_by_those_that_send_the_same_server_name(
    engine: Engine,
) -> None:
    """A router that reads it may lead each name to another far end."""
    async with through(engine) as mesh:
        assert isinstance(mesh.outbound.answer, Route)
        [candidate] = mesh.outbound.answer.candidates
        for name in ("one.example", "other.example", None, "one.example"):
            candidates = (replace(candidate, server_name=name),)
            mesh.outbound.answer = replace(mesh.outbound.answer, candidates=candidates)
            mesh.outbound.ask_again()
            await mesh.relay()
        assert [each.streams for each in mesh.inbound.carrying_] == [2, 1, 1]


async def test_a_tunnel_keeps_neither_plan_of_its_handshake(engine: Engine) -> None:
    """A plan has a key."""
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        await mesh.outbound.connection()
        assert isinstance(mesh.end, TcpAddress)
        assert isinstance(mesh.outbound.answer, Route)
        plans: list[Callable[[], object]] = [
            ref(mesh.outbound.answer.upstream.plan), ref(mesh.inbound.downstream_tls),
        ]  # fmt: skip
        mesh.outbound.answer = outbound_door(mesh.end, mesh.application.address).answer
        mesh.inbound.downstream_tls = inbound_door().downstream_tls
        for door in (mesh.outbound, mesh.inbound):
            door.ask_again()
            for arrival in door.arrivals:
                object.__setattr__(arrival, "tls", None)  # the test's own memory of it

        def are_gone() -> bool:
            gc.collect()
            return [plan() for plan in plans] == [None, None]

        await eventually(are_gone, "both plans are gone")
        await downstream.send(b"still here")
        assert await there.receive_exactly(10) == b"still here"
        assert len(mesh.inbound.carrying_) == 1


async def test_no_stream_begins_on_a_tunnel_when_a_certificate_of_it_has_expired(
    engine: Engine,
) -> None:
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    inbound = inbound_door(shows=OURS.issue("/ns/shop/sa/orders", not_after=expiry))
    async with (
        listening() as application,
        open_door(engine, inbound) as end,
        open_door(engine, outbound_door(end, application.address)) as address,
    ):
        downstream = await Stream.connect(address)
        there = await application.accept()
        await inbound.connection()
        inbound.downstream_tls = inbound_door().downstream_tls
        inbound.ask_again()
        noticed = expiry + timedelta(seconds=0.2)
        await eventually(lambda: datetime.now(UTC) > noticed, "it has expired")
        late = await Stream.connect(address)
        await application.accept()
        await inbound.connection(2)
        assert len(inbound.carrying_) == 2
        await downstream.send(b"still here")
        assert await there.receive_exactly(10) == b"still here"
        late.close()


async def test_a_tunnel_without_streams_ends_after_a_while(engine: Engine) -> None:
    async with through(engine, settings=TunnelSettings(idle=0.2)) as mesh:
        downstream, there = await mesh.relay()
        downstream.finish()
        there.finish()
        await eventually(lambda: len(mesh.inbound.ended_tunnels) == 1, "the tunnel has ended")
        assert mesh.inbound.ended_tunnels[0][1].outcome is Outcome.CLOSED
        assert engine.pooled_tunnels() == 0


async def test_the_end_of_a_tunnel_that_is_cut_is_that_of_its_streams(engine: Engine) -> None:
    distrusted = Refusal(Outcome.IDENTITY_DISTRUSTED, "its bundle is gone")
    async with through(engine) as mesh:
        pairs = [await mesh.relay() for _ in range(3)]
        await mesh.inbound.connection(3)
        await mesh.outbound.connection(3)  # or its CONNECT would be sent again, elsewhere
        mesh.inbound.carrying_[0].close(distrusted)
        for downstream, there in pairs:
            assert await there.is_reset()
            assert await downstream.is_reset()
        await mesh.inbound.ending(3)
        assert {ending.outcome for _, ending in mesh.inbound.endings} == {
            Outcome.IDENTITY_DISTRUSTED
        }
        await eventually(lambda: bool(mesh.inbound.ended_tunnels), "the tunnel has ended")
        assert mesh.inbound.ended_tunnels[0][1].outcome is Outcome.IDENTITY_DISTRUSTED


async def test_one_stream_may_be_cut_and_its_tunnel_stays(engine: Engine) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        other, beyond = await mesh.relay()
        await mesh.inbound.connection(2)
        mesh.inbound.opened_[0].close(Refusal(Outcome.POLICY_CHANGED, "not any more"))
        assert await there.is_reset()
        assert await downstream.is_reset()
        assert (await mesh.inbound.ending()).outcome is Outcome.POLICY_CHANGED
        await other.send(b"on")
        assert await beyond.receive_exactly(2) == b"on"
        assert mesh.inbound.carrying_[0].streams == 1


async def test_a_door_that_is_taken_away_lets_open_streams_finish(engine: Engine) -> None:
    async with through(engine) as mesh:
        downstream, there = await mesh.relay()
        await mesh.inbound.connection()
        assert mesh.inbound.listener is not None
        await mesh.inbound.listener.close()
        await downstream.send(b"still here")
        assert await there.receive_exactly(10) == b"still here"
        late = await Stream.connect(mesh.address)
        assert await late.is_reset()
        downstream.finish()
        there.finish()
        await eventually(lambda: len(mesh.inbound.ended_tunnels) == 1, "the tunnel has ended")
        assert mesh.inbound.ended_tunnels[0][1].outcome is Outcome.CLOSED


async def test_a_new_door_decides_about_streams_of_tunnels_that_came_in_before(
    engine: Engine,
) -> None:
    async with through(engine) as mesh:
        await mesh.relay()
        await mesh.inbound.connection()
        mesh.inbound.answer = Refusal(Outcome.DENIED, "not any more")
        mesh.inbound.ask_again()
        late = await Stream.connect(mesh.address)
        assert await late.is_reset()
        assert (await mesh.inbound.ending()).reason == "not any more"
        assert len(mesh.inbound.carrying_) == 1


async def test_connections_above_the_limit_are_refused_and_the_tunnel_stays(
    engine: Engine,
) -> None:
    async with through(engine) as mesh:
        first = await mesh.relay()
        await mesh.inbound.connection()
        engine.set_limits(Limits(connections=4))  # two doors, a tunnel, and one more
        extra = [await Stream.connect(mesh.address) for _ in range(3)]
        for each in extra:
            assert await each.is_reset()
        await first[0].send(b"on")
        assert await first[1].receive_exactly(2) == b"on"


async def test_an_idle_stream_ends_and_its_tunnel_stays(engine: Engine) -> None:
    async with through(engine, timeouts=Timeouts(idle=0.3)) as mesh:
        _downstream, there = await mesh.relay()
        await there.is_reset()
        assert (await mesh.outbound.ending()).outcome is Outcome.TIMED_OUT
        await mesh.relay()
        assert len(mesh.inbound.carrying_) == 1


async def test_1000_streams_share_a_few_tunnels(engine: Engine) -> None:
    async with through(engine) as mesh:
        pairs = await mesh.relays(1000)
        await mesh.inbound.connection(1000)
        assert len(mesh.inbound.carrying_) <= 12
        for at, (downstream, _there) in enumerate(pairs):
            await downstream.send(b"%04d" % at)
        said = {await there.receive_exactly(4) for _downstream, there in pairs}
        assert len(said) == 1000
