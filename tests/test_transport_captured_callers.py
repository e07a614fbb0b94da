"""At a door for capture the port that a caller has meant says whether it makes a handshake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.streams import Stream, Upstream, listening
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import CacheScope, Engine, Refusal
from uproxy.lab.pki import Authority
from uproxy.lifecycle import State
from uproxy.model import Direction, Outcome, Role, TcpAddress, Timeouts

engine = engines.engine

OURS = Authority("example.org")
US, PEER = OURS.issue("/ns/shop/sa/orders"), OURS.issue("/ns/web/sa/frontend")
ELSEWHERE = frozenset({1})
KEPT = frozenset({CacheScope.PEER, CacheScope.TARGET})


@asynccontextmanager
async def captured(
    engine: Engine, *, tls: bool, migrating: bool = False, **timeouts: float
) -> AsyncIterator[tuple[RecordingDoor, Upstream, TcpAddress]]:
    """A door for capture that has a plan, and whose own port, for which callers that nobody has
    steered are meant, is one with TLS or without."""
    limits = Timeouts(**timeouts)
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    async with listening() as application:
        there = replace(route(application.address, timeouts=limits), cache_scope=KEPT)
        door = RecordingDoor(
            Direction.INBOUND, there, ours, limits, captured=True, tls_ports=ELSEWHERE
        )
        async with open_door(engine, door) as address:
            assert isinstance(address, TcpAddress)
            here = frozenset({address.port})
            door.tls_ports = ELSEWHERE | here if tls else ELSEWHERE
            door.migrating_ports = here if migrating else frozenset()
            door.ask_again()
            yield door, application, address


async def call(address: TcpAddress) -> TlsStream:
    stream = TlsStream(await Stream.connect(address), PEER)
    await stream.handshake()
    return stream


async def test_at_a_port_with_tls_the_caller_is_verified(engine: Engine) -> None:
    async with captured(engine, tls=True) as (door, application, address):
        for number in (1, 2):  # the second by a cached route, in the compiled engine
            caller, there = await call(address), await application.accept()
            await caller.send(b"hello")
            assert await there.receive(5) == b"hello"
            arrival = (await door.connection(number)).arrival
            assert arrival.target == address
            assert arrival.peer is not None
            assert arrival.peer.spiffe_id == PEER.spiffe_id


@pytest.mark.parametrize("migrating", [False, True])
async def test_a_caller_in_clear_reaches_the_application_where_it_may(
    engine: Engine, migrating: bool
) -> None:
    async with captured(engine, tls=migrating, migrating=migrating) as (door, application, address):
        for number in (1, 2):
            caller = await Stream.connect(address)
            await caller.send(b"hello")
            there = await application.accept()
            assert await there.receive(5) == b"hello"
            await there.send(b"you too")
            assert await caller.receive(7) == b"you too"
            arrival = (await door.connection(number)).arrival
            assert (arrival.target, arrival.peer, arrival.tls) == (address, None, None)
            assert door.opened_[-1].tls is None


async def test_a_server_may_speak_first_at_a_port_without_tls(engine: Engine) -> None:
    async with captured(engine, tls=False) as (_door, application, address):
        caller, there = await Stream.connect(address), await application.accept()
        await there.send(b"220 ready")
        assert await caller.receive(9) == b"220 ready"


async def test_where_both_may_come_the_first_byte_tells(engine: Engine) -> None:
    async with captured(engine, tls=True, migrating=True) as (door, application, address):
        caller, there = await call(address), await application.accept()
        await caller.send(b"hello")
        assert await there.receive(5) == b"hello"
        assert (await door.connection()).arrival.peer is not None
        in_clear = await Stream.connect(address)
        await in_clear.send(b"hello")
        assert await (await application.accept()).receive(5) == b"hello"
        assert (await door.connection(2)).arrival.peer is None


async def test_who_says_nothing_where_both_may_come_is_given_up_at_the_handshakes_deadline(
    engine: Engine,
) -> None:
    async with captured(engine, tls=True, migrating=True, handshake=0.2) as (door, _, address):
        await Stream.connect(address)
        ending = await door.ending()
        assert ending.state is State.HANDSHAKING_DOWNSTREAM
        assert door.arrivals == []


async def test_a_caller_in_clear_at_a_port_with_tls_is_not_asked_about(engine: Engine) -> None:
    async with captured(engine, tls=True) as (door, _application, address):
        caller = await Stream.connect(address)
        await caller.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await door.ending()).outcome is Outcome.HANDSHAKE_FAILED
        assert door.arrivals == []


@pytest.mark.parametrize("migrating", [False, True])
async def test_without_an_identity_callers_in_clear_are_served_all_the_same(
    engine: Engine, migrating: bool
) -> None:
    async with captured(engine, tls=migrating, migrating=migrating) as (door, application, address):
        door.downstream_tls = Refusal(Outcome.NO_IDENTITY, "no identity yet")
        door.ask_again()
        caller = await Stream.connect(address)
        await caller.send(b"hello")
        assert await (await application.accept()).receive(5) == b"hello"


async def test_without_an_identity_callers_with_tls_are_told_why_not(engine: Engine) -> None:
    async with captured(engine, tls=True, migrating=True) as (door, _application, address):
        door.downstream_tls = Refusal(Outcome.NO_IDENTITY, "no identity yet")
        door.ask_again()
        await (await Stream.connect(address)).send(b"\x16\x03\x01\x00\x05")
        assert (await door.ending()).outcome is Outcome.NO_IDENTITY
