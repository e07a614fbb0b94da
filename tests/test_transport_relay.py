"""Moving bytes in the clear: what every engine must do, TLS aside."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import uvloop

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, route
from tests.helpers.streams import Stream, Upstream, close_all, listening
from uproxy import sockets
from uproxy.contract import Arrival, Connection, Engine, Refusal
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Direction, Outcome, TcpAddress, Timeouts, UnixAddress
from uproxy.transport.python import PythonEngine
from uproxy.transport.python.connection import Connection as PythonConnection
from uproxy.transport.python.listener import Listener
from uproxy.transport.python.relay import MAX_UNSENT_ANSWERS, Flow

engine = engines.engine

MIB = 1 << 20


def outbound(application: Upstream, **timeouts: float) -> RecordingDoor:
    limits = Timeouts(**timeouts)
    there = route(application.address, timeouts=limits)
    return RecordingDoor(Direction.OUTBOUND, there, timeouts=limits)


async def test_bytes_pass_both_ways_and_are_counted_while_they_move(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream = await Stream.connect(address)
        there = await upstream.accept()
        await downstream.send(b"question")
        assert await there.receive_exactly(8) == b"question"
        await there.send(b"an answer")
        assert await downstream.receive_exactly(9) == b"an answer"
        connection = await door.connection()
        assert (connection.bytes_sent, connection.bytes_received) == (8, 9)
        assert connection.state is State.RELAYING
        assert connection.dialled == upstream.address
        assert connection.endpoint == str(upstream.address)
        assert (connection.peer, connection.tls) == (None, None)
        downstream.finish()
        there.finish()
        ending = await door.ending()
    assert ending.outcome is Outcome.CLOSED
    assert ending.state is State.CLOSING
    assert (ending.bytes_sent, ending.bytes_received) == (8, 9)
    assert (ending.reason, ending.rule) == (None, "the rule")


async def test_bytes_are_counted_from_the_peer_on_an_inbound_door(engine: Engine) -> None:
    async with listening() as upstream:
        door = RecordingDoor(Direction.INBOUND, route(upstream.address))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            there = await upstream.accept()
            await downstream.send(b"12345")
            downstream.finish()
            await there.send(b"1")
            there.finish()
            ending = await door.ending()
    assert (ending.bytes_received, ending.bytes_sent) == (5, 1)


async def test_an_arrival_tells_who_dialled_in(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream = await Stream.connect(address)
        connection = await door.connection()
        assert connection.arrival.source == TcpAddress(*downstream.socket.getsockname())
        assert connection.arrival.local == address
        assert connection.arrival.peer is None


async def test_an_ipv4_caller_of_a_dual_stack_door_has_an_ipv4_address(engine: Engine) -> None:
    async with listening() as upstream:
        door = outbound(upstream)
        async with open_door(engine, door, TcpAddress("::", 0)) as address:
            assert isinstance(address, TcpAddress)
            await Stream.connect(TcpAddress("127.0.0.1", address.port))
            connection = await door.connection()
    assert isinstance(connection.arrival.source, TcpAddress)
    assert connection.arrival.source.host == "127.0.0.1"
    assert connection.arrival.local == TcpAddress("127.0.0.1", address.port)


async def test_the_downstream_side_may_half_close_first(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address), await upstream.accept()
        await downstream.send(b"request")
        downstream.finish()
        assert await there.receive_all() == b"request"
        await eventually(lambda: door.opened_[0].state is State.CLOSING, "half-closed")
        await there.send(b"late answer")
        there.close()
        assert await downstream.receive_all() == b"late answer"
        assert (await door.ending()).outcome is Outcome.CLOSED


async def test_the_upstream_side_may_half_close_first(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address), await upstream.accept()
        await there.send(b"banner")
        there.finish()
        assert await downstream.receive_all() == b"banner"
        await downstream.send(b"still talking")
        downstream.finish()
        assert await there.receive_all() == b"still talking"
        assert (await door.ending()).outcome is Outcome.CLOSED


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_a_reset_of_one_side_becomes_a_reset_of_the_other(engine: Engine, who: str) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address), await upstream.accept()
        await downstream.send(b"x")
        await there.receive()
        sides = {"downstream": (downstream, there), "upstream": (there, downstream)}
        first, second = sides[who]
        first.reset()
        assert await second.is_reset()
        ending = await door.ending()
    assert ending.outcome is Outcome.RESET
    assert ending.reason == f"reset by {'the application' if who == 'downstream' else 'the peer'}"


async def test_a_reset_is_noticed_on_a_side_that_has_half_closed(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address), await upstream.accept()
        downstream.finish()
        assert await there.receive_all() == b""
        downstream.reset()
        assert (await door.ending()).outcome is Outcome.RESET
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await there.send(b"anybody?")


async def test_a_hang_up_while_bytes_wait_is_no_busy_loop(engine: Engine) -> None:
    """It is level-triggered: it must not be reported again and again to who can't act on it."""
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address, 4096), await upstream.accept()
        connection = await door.connection()
        downstream.finish()
        assert await there.receive_all() == b""
        size = 0
        while connection.bytes_received == size:  # until the relay has stopped reading
            await there.send(bytes(32 * 1024))
            size += 32 * 1024
            with suppress(AssertionError):
                await eventually(partial(caught_up, connection, size), "the relay", 0.3)
        there.close()  # its end waits behind those bytes: now both directions of it are shut
        before = os.times()
        await asyncio.sleep(0.5)
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.2
        assert len(await downstream.receive_all()) == size
        assert (await door.ending()).outcome is Outcome.CLOSED


async def test_a_reader_that_stalls_stops_the_writer_and_memory_stays_bounded(
    engine: Engine,
) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address, 4096), await upstream.accept()
        connection = await door.connection()
        payload = os.urandom(MIB) * 64
        tracemalloc.start()
        try:
            before, _peak = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            pushing = asyncio.create_task(there.send(payload))
            moved = await settled(partial(getattr, connection, "bytes_received"))
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # what the kernel's socket buffers swallow, and not more
        assert moved < 32 * MIB
        assert peak - before < 256 * 1024
        heard = hashlib.sha256()
        for _ in range(64):
            heard.update(await downstream.receive_exactly(MIB))
        assert heard.digest() == hashlib.sha256(payload).digest()
        await pushing


def caught_up(connection: Connection, size: int) -> bool:
    return connection.bytes_received == size


async def settled(measure: Callable[[], int]) -> int:
    """A count once it has stopped growing for a while."""
    last, quiet = -1, 0
    while quiet < 10:
        await asyncio.sleep(0.01)
        now = measure()
        quiet = quiet + 1 if now == last and now else 0
        last = now
    return last


async def test_a_stalled_direction_does_not_hold_the_other_one(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, outbound(upstream)) as address:
        downstream, there = await Stream.connect(address, 4096), await upstream.accept()
        pushing = asyncio.create_task(there.send(bytes(16 * MIB)))
        telling = asyncio.create_task(downstream.send(bytes(8 * MIB)))
        assert len(await there.receive_exactly(8 * MIB)) == 8 * MIB
        assert len(await downstream.receive_exactly(16 * MIB)) == 16 * MIB
        await asyncio.gather(pushing, telling)


async def test_an_idle_connection_is_ended_with_resets(engine: Engine) -> None:
    async with (
        listening() as upstream,
        open_door(engine, door := outbound(upstream, idle=0.2)) as address,
    ):
        downstream, there = await Stream.connect(address), await upstream.accept()
        await downstream.send(b"x")
        assert await there.receive() == b"x"
        assert await downstream.is_reset()
        assert await there.is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.RELAYING)
    assert ending.duration >= 0.2
    assert ending.reason == "nothing moved for 0.2 s"


async def test_a_connection_is_idle_from_its_last_byte_on(engine: Engine) -> None:
    async with (
        listening() as upstream,
        open_door(engine, door := outbound(upstream, idle=0.3)) as address,
    ):
        downstream, there = await Stream.connect(address), await upstream.accept()
        await door.connection()
        await asyncio.sleep(0.1)
        await there.send(b"x")
        assert await downstream.is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.RELAYING)
    assert ending.duration >= 0.4


async def test_bytes_either_way_keep_a_connection_from_being_idle(engine: Engine) -> None:
    async with (
        listening() as upstream,
        open_door(engine, door := outbound(upstream, idle=0.5)) as address,
    ):
        downstream, there = await Stream.connect(address), await upstream.accept()
        for _ in range(8):
            await there.send(b"tick")
            assert await downstream.receive_exactly(4) == b"tick"
            await asyncio.sleep(0.1)
        assert not door.endings
        downstream.close()
        there.close()


async def test_a_half_closed_connection_has_a_shorter_deadline(engine: Engine) -> None:
    door_ = {"idle": 60.0, "half_close": 0.2}
    async with (
        listening() as upstream,
        open_door(engine, door := outbound(upstream, **door_)) as address,
    ):
        downstream, there = await Stream.connect(address), await upstream.accept()
        downstream.finish()
        assert await there.receive_all() == b""
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.CLOSING)


async def test_a_slow_reader_still_gets_what_was_sent_before_the_deadline(engine: Engine) -> None:
    """A reset would take what the kernel hasn't delivered."""
    async with (
        listening() as upstream,
        open_door(engine, door := outbound(upstream, half_close=0.2)) as here,
    ):
        downstream, there = await Stream.connect(here, 4096), await upstream.accept()
        await there.send(bytes(MIB))
        there.finish()
        ending = await door.ending()
        assert (ending.outcome, ending.bytes_received) == (Outcome.TIMED_OUT, MIB)
        assert len(await downstream.receive_all()) == MIB
        assert await there.is_reset()


async def test_the_preface_comes_first_and_is_not_counted(engine: Engine) -> None:
    async with listening() as upstream:
        there_route = route(upstream.address, preface=b"PROXY TCP4\r\n")
        door = RecordingDoor(Direction.INBOUND, there_route)
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            await downstream.send(b"hello")
            downstream.finish()
            there = await upstream.accept()
            assert await there.receive_all() == b"PROXY TCP4\r\nhello"
            there.close()
            assert (await door.ending()).bytes_received == 5


async def test_a_door_and_an_application_may_be_unix_sockets(
    engine: Engine, tmp_path: Path
) -> None:
    async with listening(str(tmp_path / "app.sock")) as upstream:
        door = outbound(upstream)
        where = UnixAddress(str(tmp_path / "door.sock"))
        async with open_door(engine, door, where) as address:
            downstream = await Stream.connect(address)
            there = await upstream.accept()
            await downstream.send(b"over unix")
            downstream.finish()
            assert await there.receive_all() == b"over unix"
            there.close()
            assert (await door.ending()).outcome is Outcome.CLOSED
    assert door.arrivals[0].source == where
    assert door.arrivals[0].local == where
    assert not (tmp_path / "door.sock").exists()


async def test_closing_cuts_both_sides_with_resets_and_the_refusal_is_the_ending(
    engine: Engine,
) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address), await upstream.accept()
        connection = await door.connection()
        connection.close(Refusal(Outcome.POLICY_CHANGED, "no rule allows it any more", "web"))
        connection.close(Refusal(Outcome.DRAINED, "too late"))
        assert await downstream.is_reset()
        assert await there.is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.rule) == (Outcome.POLICY_CHANGED, "web")
    assert ending.reason == "no rule allows it any more"


async def test_a_door_may_close_a_connection_at_the_moment_it_opens(engine: Engine) -> None:
    async with listening() as upstream:
        door = outbound(upstream)
        door.on_opened = lambda connection: connection.close(Refusal(Outcome.DRAINED, "no more"))
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            assert await downstream.is_reset()
            assert (await door.ending()).outcome is Outcome.DRAINED


async def test_a_refused_arrival_is_reset_and_the_application_never_hears_of_it(
    engine: Engine,
) -> None:
    refusal = Refusal(Outcome.DENIED, "no rule allows it", "deny-all")
    door = RecordingDoor(Direction.INBOUND, refusal)
    async with open_door(engine, door) as address:
        downstream = await Stream.connect(address)
        assert await downstream.is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.DENIED, State.ADMITTING)
    assert (ending.reason, ending.rule) == ("no rule allows it", "deny-all")
    assert not door.opened_


async def test_a_door_that_raises_refuses_and_its_defect_is_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_arrival: object) -> Refusal:
        raise RuntimeError("a defect of the door")

    door = RecordingDoor(Direction.INBOUND, broken)
    with caplog.at_level(logging.ERROR):
        async with open_door(engine, door) as address:
            assert await (await Stream.connect(address)).is_reset()
            ending = await door.ending()
    assert ending.outcome is Outcome.RESET
    assert "a defect of the door" in caplog.text


async def test_a_door_that_raises_when_told_of_the_end_is_told_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(RecordingDoor):
        def closed(self, connection: object, ending: object) -> None:
            super().closed(connection, ending)  # type: ignore[arg-type]  # passed through
            raise RuntimeError("can't take it")

    door = Broken(Direction.INBOUND, Refusal(Outcome.DENIED, "no"))
    with caplog.at_level(logging.ERROR):
        async with open_door(engine, door) as address:
            assert await (await Stream.connect(address)).is_reset()
            await door.ending()
    assert "can't take it" in caplog.text


@pytest.mark.parametrize("moment", ["attempted", "opened"])
async def test_a_door_that_raises_later_loses_its_connection_on_both_sides(
    engine: Engine, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("a defect of the door")

    monkeypatch.setattr(RecordingDoor, moment, broken)
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream, there = await Stream.connect(address), await upstream.accept()
        assert await downstream.is_reset()
        assert await there.is_reset()
        assert (await door.ending()).outcome is Outcome.RESET


async def test_replacing_a_door_keeps_the_socket_and_the_open_connections(engine: Engine) -> None:
    async with listening() as first_upstream, listening() as second_upstream:
        first, second = outbound(first_upstream), outbound(second_upstream)
        listener = sockets.listen(TcpAddress("127.0.0.1", 0))
        address = TcpAddress(*listener.getsockname())
        opened = engine.open(listener, first)
        old, old_there = await Stream.connect(address), await first_upstream.accept()
        await first.connection()
        opened.replace(second)
        new, new_there = await Stream.connect(address), await second_upstream.accept()
        await opened.close()
        with pytest.raises(ConnectionRefusedError):
            await Stream.connect(address)
        for downstream, there in ((old, old_there), (new, new_there)):
            await downstream.send(b"on")
            assert await there.receive() == b"on"


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_closing_a_door_loses_nobody_who_waits_in_its_queue(
    engine: Engine, where: str, tmp_path: Path
) -> None:
    listen = TcpAddress("127.0.0.1", 0) if where == "tcp" else UnixAddress(f"{tmp_path}/door")
    async with listening() as upstream:
        listener = sockets.listen(listen)
        waiting = []
        for _ in range(100):
            caller = socket.socket(listener.family)
            caller.connect(listener.getsockname())
            caller.sendall(b"in the queue")
            waiting.append(Stream(caller))
        opened = engine.open(listener, door := outbound(upstream))
        await opened.close()
        assert listener.fileno() == -1
        assert len(door.arrivals) == 100
        for _ in waiting:
            assert await (await upstream.accept()).receive() == b"in the queue"


async def test_stopping_cuts_everything_and_reports_each_ending(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        streams = [await Stream.connect(address) for _ in range(5)]
        await door.connection(5)
        await engine.stop()
        assert [await stream.is_reset() for stream in streams] == [True] * 5
        assert len(door.endings) == 5
        assert {ending.outcome for _c, ending in door.endings} == {Outcome.DRAINED}


async def test_a_connection_cut_before_its_first_step_has_its_ending() -> None:
    """A task that is cancelled before its first step would never report an ending."""
    door = RecordingDoor(Direction.INBOUND, Refusal(Outcome.DENIED, "no"))
    ours, theirs = socket.socketpair()
    nowhere = UnixAddress("/nowhere")
    engine = PythonEngine()
    listener = cast("Listener", SimpleNamespace(door=door))
    arrival = Arrival(1, nowhere, nowhere, None)
    connection = PythonConnection(engine, listener, door, ours, arrival)
    task = connection.start(lambda: None)
    connection.close(Refusal(Outcome.DRAINED, "at once"))
    await task
    ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.DRAINED, State.ACCEPTED)
    assert theirs.recv(1) == b""
    theirs.close()
    await engine.stop()


def test_who_asks_for_answers_and_does_not_read_them_is_not_read() -> None:
    """As a peer that sends KeyUpdates only could make us buffer answers without end."""
    greedy = SimpleNamespace(unsent=MAX_UNSENT_ANSWERS + 1)
    flow = Flow(greedy, SimpleNamespace(unsent=0, must_read_first=False))
    assert not flow.open
    greedy.unsent = MAX_UNSENT_ANSWERS
    assert flow.open


def test_the_python_engine_works_on_uvloop() -> None:
    async def main() -> None:
        engine = PythonEngine()
        await test_a_reset_of_one_side_becomes_a_reset_of_the_other(engine, "upstream")
        await test_the_downstream_side_may_half_close_first(engine)
        await test_closing_cuts_both_sides_with_resets_and_the_refusal_is_the_ending(engine)
        assert engine.responsive()
        await engine.stop()
        close_all()

    uvloop.run(main())
