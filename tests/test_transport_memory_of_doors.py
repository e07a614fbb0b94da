"""What an open connection keeps of the door, plan and snapshot that let it in: nothing."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import partial

import pytest

from tests.helpers import engines
from tests.helpers.engines import open_door, plan, route, verifier
from tests.helpers.streams import Stream, listening
from tests.helpers.tls_sessions import shaken
from tests.helpers.tls_streams import TlsStream
from tests.helpers.world import ANYBODY, World, credentials, settings
from uproxy import libssl, sockets
from uproxy.config.settings import DestinationSettings, InboundSettings, OutboundSettings, Settings
from uproxy.contract import PLAIN, CacheScope, Engine, Route
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, Role, TcpAddress, Transport

engine = engines.engine

CA = Authority("example.org")
OURS = CA.issue("/ns/db/sa/orders")
PEER = CA.issue("/ns/web/sa/frontend")
ANYWHERE = TcpAddress("127.0.0.1", 0)


def configured(direction: Direction, upstream: TcpAddress) -> Settings:
    if direction is Direction.INBOUND:
        door = InboundSettings("api", ANYWHERE, Transport.MTLS, upstream)
        return settings(ANYBODY, inbound=(door,))
    to = DestinationSettings("db", (upstream,), Transport.MTLS, (PEER.spiffe_id,))
    return settings(outbound=(OutboundSettings(ANYWHERE, "db"),), destinations={"db": to})


def are_open(here: World, count: int) -> bool:
    return len(here.connections) == count


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("direction", Direction)
async def test_an_open_connection_keeps_nothing_of_the_snapshot_that_let_it_in(
    engine: Engine, direction: Direction, cached: bool
) -> None:
    async with listening() as upstream:
        assert isinstance(upstream.address, TcpAddress)
        here = World(configured(direction, upstream.address), credentials(OURS, CA))
        listener = sockets.listen(ANYWHERE)
        door = here.door()
        here.listening[ANYWHERE] = engine.open(listener, door)
        address = TcpAddress(*listener.getsockname())
        ends = []
        for count in range(2 if cached else 1):
            downstream = await Stream.connect(address)
            if direction is Direction.INBOUND:
                inner = TlsStream(downstream, PEER)
                await inner.handshake()
                ends.append((inner, await upstream.accept()))
            else:
                inner = TlsStream(await upstream.accept(), PEER, server=True)
                await inner.handshake()
                ends.append((inner, downstream))
            await inner.send(b"x")
            await ends[-1][1].receive_exactly(1)
            await eventually(partial(are_open, here, count + 1), "it is open")
        snapshot = here.snapshot
        tls = next(iter(snapshot.plans.plans.values()))
        old: list[weakref.ref[object]] = [weakref.ref(each) for each in (snapshot, tls)]
        del snapshot, tls, door
        here.believe(credentials(CA.issue("/ns/db/sa/orders"), CA, generation=2))
        await eventually(lambda: gc.collect() >= 0 and not any(each() for each in old), "to forget")
        for inner, there in ends:
            await inner.send(b"still here")
            assert await there.receive_exactly(10) == b"still here"
            there.close()
            inner.stream.close()
        await eventually(lambda: len(here.connections) == 0, "the end")


async def test_a_route_that_is_open_has_neither_plan_nor_addresses(engine: Engine) -> None:
    ours = plan(Role.CLIENT, OURS, verifier(Role.SERVER, CA))
    async with listening() as upstream:
        answer = replace(
            route(upstream.address, tls=ours), cache_scope=frozenset({CacheScope.PEER})
        )
        door = engines.RecordingDoor(Direction.OUTBOUND, answer)
        async with open_door(engine, door) as address:
            downstream = await Stream.connect(address)
            there = TlsStream(await upstream.accept(), PEER, server=True)
            await there.handshake()
            connection = await door.connection()
            rest = Route("there", (), PLAIN, answer.timeouts, "the rule")
            await eventually(lambda: connection.route == rest, "the rest of the route")
            downstream.close()
            there.stream.close()


def test_a_session_that_has_shaken_hands_keeps_no_context() -> None:
    for session in shaken():
        assert session._context is None


def test_plans_that_negotiate_alike_share_what_has_no_key() -> None:
    one, other = (plan(Role.SERVER, CA.issue("/a"), verifier(Role.CLIENT, CA)) for _ in range(2))
    first, second = libssl.context_of(one), libssl.context_of(other)
    assert first.pointer is second.pointer
    assert first.identity is not second.identity
    client = libssl.context_of(plan(Role.CLIENT, OURS, verifier(Role.SERVER, CA)))
    assert client.pointer is not first.pointer
