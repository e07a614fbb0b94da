"""Reaching the upstream side: racing addresses, deadlines, and why it failed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Never, cast

import pytest

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.streams import FullQueue, Stream, listening
from uproxy.contract import PLAIN, CacheScope, Candidate, Engine, Route, Tls
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Outcome, Role, TcpAddress, Timeouts, UnixAddress
from uproxy.proxy.services import PER_PEER, PER_PEER_AND_SOURCE
from uproxy.transport.dial import HEAD_START
from uproxy.transport.native import NativeEngine

engine = engines.engine


def to(*addresses: Address, connect: float = 5.0) -> RecordingDoor:
    there = Route("db", (Candidate("db:5432", addresses),), PLAIN, Timeouts(connect=connect))
    return RecordingDoor(Direction.OUTBOUND, there)


async def test_a_dead_first_address_costs_the_head_start_only(engine: Engine) -> None:
    dead = FullQueue()
    async with (
        listening() as upstream,
        open_door(engine, door := to(dead.address, upstream.address)) as here,
    ):
        before = time.monotonic()
        await Stream.connect(here)
        connection = await door.connection()
        assert connection.dialled == upstream.address
        assert connection.endpoint == "db:5432"
        assert time.monotonic() - before >= HEAD_START
    dead.close()
    assert door.attempts == [("db:5432", None)]


async def test_a_refusing_first_address_costs_nothing(engine: Engine) -> None:
    refusing = TcpAddress("127.0.0.1", free_port())
    async with (
        listening() as upstream,
        open_door(engine, door := to(refusing, upstream.address)) as address,
    ):
        await Stream.connect(address)
        assert (await door.connection()).dialled == upstream.address


async def test_the_preferred_address_wins_when_it_answers_in_time(engine: Engine) -> None:
    async with listening() as first, listening() as second:
        door = to(first.address, second.address)
        async with open_door(engine, door) as address:
            await Stream.connect(address)
            assert (await door.connection()).dialled == first.address
            await first.accept()
            with pytest.raises(BlockingIOError):
                second.socket.accept()


async def test_a_dial_without_an_answer_has_a_deadline(engine: Engine) -> None:
    dead = FullQueue()
    async with open_door(engine, door := to(dead.address, connect=0.2)) as address:
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
    dead.close()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.CONNECTING)
    assert ending.reason is not None
    assert ending.reason.startswith(f"no answer from {dead.address} in 0.2 s")


async def test_every_address_refusing_says_why_for_each(engine: Engine) -> None:
    first, second = (TcpAddress("127.0.0.1", free_port()) for _ in range(2))
    async with open_door(engine, door := to(first, second)) as address:
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
    assert ending.outcome is Outcome.CONNECT_FAILED
    assert ending.reason == "; ".join(
        f"connection refused by {address}: is the application running?"
        for address in (first, second)
    )


async def test_a_missing_unix_socket_is_named(engine: Engine, tmp_path: Path) -> None:
    where = UnixAddress(f"{tmp_path}/gone.sock")
    async with open_door(engine, door := to(where)) as address:
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
    assert ending.reason == f"no socket at {where}: is the application running?"


@pytest.mark.parametrize("scope", [None, PER_PEER, PER_PEER_AND_SOURCE])
async def test_an_address_of_an_interface_that_is_gone_fails_to_connect(
    engine: Engine, scope: frozenset[CacheScope] | None
) -> None:
    where = TcpAddress("fe80::1%gone", 5432)
    door = RecordingDoor(Direction.OUTBOUND, replace(route(where), cache_scope=scope))
    async with open_door(engine, door) as address:
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.CONNECT_FAILED, State.CONNECTING)
    assert [endpoint for endpoint, _ in door.attempts] == [str(where)]


async def test_a_full_queue_of_a_unix_socket_is_waited_for(engine: Engine, tmp_path: Path) -> None:
    path = f"{tmp_path}/busy.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as filler:
        busy.bind(path)
        busy.listen(0)
        filler.connect(path)
        async with open_door(engine, door := to(UnixAddress(path))) as address:
            await Stream.connect(address)
            await asyncio.sleep(0.05)
            assert not door.opened_
            busy.accept()[0].close()
            await door.connection()


@pytest.mark.parametrize("raced", [False, True])
async def test_a_connection_knows_from_where_it_was_dialled_also_when_it_is_over(
    engine: Engine, raced: bool
) -> None:
    """The application's log, or the peer's, has that address too."""
    async with listening() as upstream:
        second = (TcpAddress("127.0.0.9", 1),) if raced else ()
        async with open_door(engine, door := to(upstream.address, *second)) as address:
            downstream = await Stream.connect(address)
            there = await upstream.accept()
            seen = "{}:{}".format(*there.socket.getpeername())
            connection = await door.connection()
            await eventually(lambda: connection.dialled_from, "the address")
            assert str(connection.dialled_from) == seen
            downstream.reset()
            await door.ending()
            assert str(connection.dialled_from) == seen


async def test_over_a_unix_socket_it_was_dialled_from_nowhere(
    engine: Engine, tmp_path: Path
) -> None:
    async with (
        listening(str(tmp_path / "s")) as upstream,
        open_door(engine, door := to(upstream.address)) as address,
    ):
        downstream = await Stream.connect(address)
        await upstream.accept()
        connection = await door.connection()
        downstream.reset()
        await door.ending()
    assert connection.dialled_from is None


async def test_when_every_address_fails_the_last_one_tried_is_known(engine: Engine) -> None:
    first, last = TcpAddress("127.0.0.1", free_port()), TcpAddress("127.0.0.1", free_port())
    door = RecordingDoor(Direction.OUTBOUND, route(first, last))
    async with open_door(engine, door) as address:
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
    [(connection, _)] = door.endings
    assert ending.outcome is Outcome.CONNECT_FAILED
    assert (connection.dialled, connection.dialled_from) == (last, None)


async def test_a_route_without_candidates_fails_to_connect(engine: Engine) -> None:
    door = RecordingDoor(Direction.OUTBOUND, route())
    async with open_door(engine, door) as address:
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
    assert (ending.outcome, ending.state) == (Outcome.CONNECT_FAILED, State.CONNECTING)
    assert ending.reason == "there has no address to try"


async def test_a_door_that_was_replaced_meanwhile_decides_when_a_dial_fails(
    engine: Engine,
) -> None:
    dead = FullQueue()
    async with listening() as upstream, open_door(engine, old := to(dead.address, connect=1)) as at:
        await Stream.connect(at)
        await eventually(lambda: old.arrivals, "an arrival")
        assert old.listener is not None
        old.listener.replace(new := to(upstream.address))
        assert (await new.connection()).dialled == upstream.address
    dead.close()
    assert [arrival.id for arrival in new.arrivals] == [arrival.id for arrival in old.arrivals]
    assert not old.endings


async def test_closing_while_dialling_ends_the_dial(engine: Engine) -> None:
    dead = FullQueue()
    async with open_door(engine, door := to(dead.address, dead.address)) as address:
        downstream = await Stream.connect(address)
        await eventually(lambda: door.arrivals, "an arrival")
        await engine.stop()
        assert await downstream.is_reset()
        assert (await door.ending()).outcome is Outcome.DRAINED
    dead.close()


async def test_a_caller_that_resets_while_we_dial_is_noticed_at_once(engine: Engine) -> None:
    dead = FullQueue()
    async with open_door(engine, door := to(dead.address, connect=60)) as address:
        downstream = await Stream.connect(address)
        await downstream.send(b"never mind")
        await eventually(lambda: door.arrivals, "an arrival")
        downstream.reset()
        ending = await door.ending()
    dead.close()
    assert (ending.outcome, ending.state) == (Outcome.RESET, State.CONNECTING)
    assert ending.reason == "reset by the application"


async def test_a_caller_that_says_all_and_leaves_while_we_dial_is_still_heard(
    engine: Engine, tmp_path: Path
) -> None:
    """A unix socket reports a hang-up then, which isn't a reset."""
    async with listening(str(tmp_path / "upstream")) as upstream:
        upstream.socket.listen(0)
        filler = await Stream.connect(upstream.address)
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address))
        async with open_door(engine, door, UnixAddress(str(tmp_path / "downstream"))) as address:
            downstream = await Stream.connect(address)
            await eventually(lambda: door.arrivals, "an arrival")
            await downstream.send(b"fire and forget")
            downstream.close()
            await asyncio.sleep(0)
            filler.close()
            await upstream.accept()
            assert await (await upstream.accept()).receive_all() == b"fire and forget"


# Defects.


def defective_dial(there: Route, patch: pytest.MonkeyPatch) -> Route:
    """Whoever dials meets a defect."""

    async def dial(*_args: object) -> Never:
        raise ZeroDivisionError("a defect of the test's")

    patch.setattr("uproxy.transport.dial.dial", dial)
    return there


def defective_socket(there: Route, patch: pytest.MonkeyPatch) -> Route:
    """Whoever has reached an address meets a defect."""

    def connect_error(_connection: socket.socket) -> Never:
        raise ZeroDivisionError("a defect of the test's")

    patch.setattr("uproxy.sockets.connect_error", connect_error)
    return there


def defective_plan(there: Route, _patch: pytest.MonkeyPatch) -> Route:
    """Whoever has reached the peer meets a defect: of the key to shake hands with."""

    class Key:
        def private_bytes(self, *_args: object) -> Never:
            raise ZeroDivisionError("a defect of the test's")

    ours = Authority("example.org")
    tls = plan(Role.CLIENT, ours.issue("/ns/web/sa/frontend"), verifier(Role.SERVER, ours))
    return replace(there, upstream=Tls(replace(tls, key=cast("Any", Key()))))


@pytest.mark.parametrize("defective", [defective_dial, defective_socket, defective_plan])
async def test_a_defect_while_dialling_ends_that_connection_and_no_other(
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    defective: Callable[[Route, pytest.MonkeyPatch], Route],
) -> None:
    async with listening() as upstream:
        door = to(upstream.address, upstream.address)
        async with open_door(engine, door) as address:
            other = await Stream.connect(address)
            its = await upstream.accept()
            await door.connection()
            sound = door.answer
            with monkeypatch.context() as patch:
                assert isinstance(sound, Route)
                door.answer = defective(sound, patch)
                assert await (await Stream.connect(address)).is_reset()
                ending = await door.ending()
            assert ending.outcome is Outcome.RESET
            assert ending.reason == "a defect in uProxy: its log says more"
            assert "a defect ended connection" in caplog.text
            assert "a defect of the test's" in caplog.text
            if defective is not defective_dial:  # it had been reached, and is let go of
                await (await upstream.accept()).is_reset()
            if isinstance(engine, NativeEngine):
                assert engine.state.core.alive() == 1
            await other.send(b"still here")
            assert await its.receive_exactly(10) == b"still here"
            door.answer = sound
            await Stream.connect(address)
            assert (await door.connection(2)).dialled == upstream.address
