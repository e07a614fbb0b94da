"""A captured connection arrives with the address that it was made to, in both engines.

This file runs itself in a namespace where nft redirects (`redirect`: conntrack knows the address),
or where the kernel gives the listener connections to other addresses (`tproxy`: the socket has it,
as with eBPF).
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import pytest

from tests.helpers.captured import REDIRECT, TRANSPARENTLY, inside, network
from tests.helpers.engines import RecordingDoor, route
from tests.helpers.streams import Stream, close_all, listening
from uproxy import originals, sockets
from uproxy.app.engines import make_engine
from uproxy.contract import CacheScope
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, TcpAddress

V4, V6 = TcpAddress("198.51.100.7", 80), TcpAddress("2001:db8:1::7", 443)
LISTENER = TcpAddress("::", 15001)


@pytest.mark.parametrize("how", ["redirect", "tproxy"])
@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_captured_connection_has_its_original_destination(engine: str, how: str) -> None:
    told = inside(__name__, engine, how)
    itself = ["127.0.0.1:15001", "[::1]:15001"]
    assert told.split("\n")[0] == f"targets {' '.join(map(str, (V4, V6, *itself)))}"


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_route_is_given_again_to_the_same_original_destination_alone(engine: str) -> None:
    told = inside(__name__, engine, "redirect")
    # the Python engine asks each time
    repeats = f"repeats {V4} {V6}" if engine == "native" else "repeats"
    assert told.split("\n")[1].rstrip() == repeats


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_listener_of_a_door_that_is_not_for_capture_asks_nothing(engine: str) -> None:
    assert inside(__name__, engine, "plain").split("\n")[0] == "targets None None None None"


async def _main(name: str, how: str) -> None:
    rules = TRANSPARENTLY if how == "tproxy" else REDIRECT
    network(rules, is_local=how == "tproxy")
    engine = make_engine(name, 1)
    async with listening() as upstream:
        scope = frozenset({CacheScope.PEER, CacheScope.TARGET})
        answer = route(upstream.address)
        door = RecordingDoor(
            Direction.OUTBOUND, replace(answer, cache_scope=scope), captured=how != "plain"
        )
        listener = sockets.listen(LISTENER)
        assert originals.make_transparent(listener)
        opened = engine.open(listener, door)
        targets = (V4, V6, TcpAddress("127.0.0.1", 15001), TcpAddress("::1", 15001))
        for number, target in enumerate(targets, start=1):
            await Stream.connect(target)
            await door.connection(number)
        print("targets", *(each.arrival.target for each in door.opened_))  # noqa: T201
        for number, target in enumerate((V4, V6), start=5):
            await Stream.connect(target)
            await door.connection(number)
        await eventually(lambda: len(door.opened_) == 6, "all are open")
        print("repeats", *(each.target for each, _route in door.repeats))  # noqa: T201
        opened.replace(None)
        close_all()
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
