"""What a CONNECT says of a caller, by `x-uproxy-caller` and `x-uproxy-proof`, reaches the door as
it was received, and a route from a cache never stands in for the door's judgement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers import engines
from tests.helpers.engines import open_door
from tests.helpers.streams import listening
from tests.helpers.tunnels import H2Peer, inbound_door, named
from uproxy.contract import SILENT, Arrival, CacheScope, Engine, Refusal, Route, Spoken
from uproxy.model import Outcome
from uproxy.transport.native import NativeEngine

engine = engines.tunnel_engine
one_thread = engines.one_thread

WEB = "spiffe://example.org/ns/web/sa/frontend"
SHOP = "spiffe://example.org/ns/shop/sa/cart"
TOKEN = "header.payload." + "s" * 1000


async def said(engine: Engine, *headers: tuple[str, str]) -> Spoken:
    """Return what a door is told of a CONNECT with such headers."""
    door = inbound_door()
    async with listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        stream = await peer.open(application.address, *headers)
        assert await peer.status(stream) == 200
    [arrival] = door.arrivals
    return arrival.spoken


async def test_nothing_is_said_by_other_headers(engine: Engine) -> None:
    assert await said(engine, ("baggage", "a=b"), ("x-uproxy-caller-id", WEB)) == SILENT


async def test_a_caller_and_its_proof_are_passed_on_as_they_came(engine: Engine) -> None:
    headers = (("x-uproxy-caller", WEB), ("x-uproxy-proof", TOKEN))
    assert await said(engine, *headers) == Spoken((WEB,), (TOKEN,))


@pytest.mark.parametrize("value", ["", "no id", "spiffe://ex\xe4mple.org/a", WEB + "," + SHOP])
async def test_what_is_said_is_not_judged_by_an_engine(engine: Engine, value: str) -> None:
    found = await said(engine, ("x-uproxy-caller", value))
    assert [each.encode("latin-1") for each in found.callers] == [value.encode()]


async def test_several_values_are_all_passed_on_in_their_order(engine: Engine) -> None:
    names = [("x-uproxy-caller", f"{WEB}/{number}") for number in range(100)]
    proofs = [("x-uproxy-proof", "one"), ("x-uproxy-proof", "two")]
    found = await said(engine, proofs[0], *names, proofs[1])
    assert found == Spoken(tuple(value for _, value in names), ("one", "two"))


async def test_an_indexed_header_is_passed_on_too(engine: Engine) -> None:
    """Envoy puts what it repeats in the table of the tunnel."""
    door = inbound_door()
    async with listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        for _ in range(3):
            stream = await peer.open(application.address, ("x-uproxy-caller", WEB))
            assert await peer.status(stream) == 200
    assert [each.spoken.callers for each in door.arrivals] == [(WEB,)] * 3


async def test_what_was_said_is_dropped_when_the_stream_is_open(engine: Engine) -> None:
    door = inbound_door()
    async with listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        stream = await peer.open(application.address, ("x-uproxy-proof", TOKEN))
        assert await peer.status(stream) == 200
        await peer.send(stream, b"x")
        assert await (await application.accept()).receive_exactly(1) == b"x"
        opened = await door.connection()
        assert door.arrivals[0].spoken == Spoken((), (TOKEN,))
        assert opened.arrival.spoken == SILENT


async def test_a_refused_stream_still_has_what_it_said(engine: Engine) -> None:
    no = Refusal(Outcome.DENIED, "not believed")
    door = inbound_door(lambda _arrival: no)
    async with listening() as application, open_door(engine, door) as address:
        peer = await H2Peer.connect(address)
        stream = await peer.open(application.address, ("x-uproxy-caller", WEB))
        assert await peer.status(stream) == 403
        await door.ending()
    [(connection, _ending)] = door.endings
    assert connection.arrival.spoken == Spoken((WEB,))


async def test_who_says_something_is_never_given_a_cached_route(one_thread: NativeEngine) -> None:
    def cacheable(arrival: Arrival) -> Route:
        answer = named(arrival)
        assert isinstance(answer, Route)
        return replace(answer, cache_scope=frozenset({CacheScope.PEER, CacheScope.TARGET}))

    door = inbound_door(cacheable)
    speaks = ("x-uproxy-caller", WEB)
    async with listening() as application, open_door(one_thread, door) as address:
        peer = await H2Peer.connect(address)
        for headers in ((speaks,), (), (speaks,), (("x-uproxy-proof", TOKEN),), ()):
            stream = await peer.open(application.address, *headers)
            assert await peer.status(stream) == 200
        await door.connection(5)
    assert [each.spoken for each in door.arrivals] == [
        Spoken((WEB,)), SILENT, Spoken((WEB,)), Spoken((), (TOKEN,)),
    ]  # fmt: skip
    assert [each.spoken for each, _route in door.repeats] == [SILENT]
