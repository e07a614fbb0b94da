"""To whom an engine gives a route again without asking its door: `Route.cache_scope`."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.streams import Stream, listening
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import Arrival, CacheScope, Engine
from uproxy.lab.pki import Authority
from uproxy.model import Direction, Role, TcpAddress
from uproxy.transport.python import PythonEngine

one_thread = engines.one_thread

OURS = Authority("example.org")
US = OURS.issue("/ns/db/sa/orders")
PEERS = (OURS.issue("/ns/web/sa/a"), OURS.issue("/ns/web/sa/b"))
HOSTS = ("127.0.0.1", "127.0.0.2")
CALLERS = tuple((peer, host) for peer in PEERS for host in HOSTS)

Scope = frozenset[CacheScope]
SCOPES: tuple[Scope | None, ...] = (
    None,
    *(frozenset(some) for size in range(5) for some in combinations(CacheScope, size)),
)


def alike(one: Arrival, other: Arrival, scope: Scope) -> bool:
    """Whether two arrivals are equal in every field that `scope` names."""

    def compared(arrival: Arrival) -> dict[CacheScope, object]:
        assert isinstance(arrival.source, TcpAddress)
        return {
            CacheScope.PEER: arrival.peer and arrival.peer.chain[0],
            CacheScope.SOURCE: arrival.source.host,
            CacheScope.TARGET: arrival.target,
            CacheScope.LOCAL: arrival.local,
        }

    return all(compared(one)[each] == compared(other)[each] for each in scope)


def named(scope: Scope | None) -> str:
    return "nobody" if scope is None else "+".join(sorted(each.name for each in scope)) or "anybody"


async def arrive(engine: Engine, scope: Scope | None, tls: bool) -> RecordingDoor:
    """Every caller, twice, one after the other."""
    async with listening() as upstream:
        ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS)) if tls else None
        answer = replace(route(upstream.address), cache_scope=scope)
        door = RecordingDoor(Direction.INBOUND, answer, ours)
        async with open_door(engine, door) as address:
            for number, (peer, host) in enumerate((*CALLERS, *CALLERS), start=1):
                stream = await Stream.connect(address, source=host)
                if tls:
                    await (sealed := TlsStream(stream, peer)).handshake()
                    await sealed.send(b"hello")
                else:
                    await stream.send(b"hello")
                assert await (await upstream.accept()).receive() == b"hello"
                stream.reset()
                await door.ending(number)
    return door


def given(door: RecordingDoor) -> set[int]:
    """The arrivals that got a cached route."""
    return {arrival.id for arrival, _ in door.repeats}


@pytest.mark.parametrize("tls", [True, False], ids=["mtls", "plaintext"])
@pytest.mark.parametrize("scope", SCOPES, ids=named)
async def test_a_route_is_given_again_exactly_to_arrivals_equal_in_its_scope(
    one_thread: Engine, scope: Scope | None, tls: bool
) -> None:
    """The leaf is compared even where it needn't be."""
    door = await arrive(one_thread, scope, tls)
    if scope is None:
        assert (len(door.arrivals), given(door)) == (8, set())
        return
    compared, arrivals = scope | {CacheScope.PEER}, [each.arrival for each, _ in door.endings]
    for arrival in arrivals:
        earlier = (one for one in door.arrivals if one.id < arrival.id)
        assert (arrival.id in given(door)) == any(alike(one, arrival, compared) for one in earlier)
    assert len(given(door)) >= 4


async def test_a_route_of_one_address_of_arrival_isnt_given_at_another(one_thread: Engine) -> None:
    async with listening() as upstream:
        scope = frozenset({CacheScope.LOCAL})
        answer = replace(route(upstream.address), cache_scope=scope)
        door = RecordingDoor(Direction.INBOUND, answer)
        async with open_door(one_thread, door, TcpAddress("0.0.0.0", 0)) as address:
            assert isinstance(address, TcpAddress)
            for number, host in enumerate((*HOSTS, *HOSTS), start=1):
                stream = await Stream.connect(TcpAddress(host, address.port))
                (await upstream.accept()).close()
                stream.close()
                await door.ending(number)
    assert [each.local.host for each in door.arrivals] == [*HOSTS]  # type: ignore[union-attr]
    assert len(door.repeats) == 2


@pytest.mark.parametrize("scope", [frozenset(), frozenset(CacheScope)], ids=named)
async def test_the_python_engine_asks_about_every_arrival(scope: Scope) -> None:
    engine = PythonEngine()
    door = await arrive(engine, scope, tls=True)
    await engine.stop()
    assert (len(door.arrivals), given(door)) == (8, set())
