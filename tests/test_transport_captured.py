"""A captured connection arrives with the address that it was made to, in both engines.

This file runs itself in a namespace where nft redirects (`redirect`: conntrack knows the address),
or where the kernel gives the listener connections to other addresses (`tproxy`: the socket has it,
as with eBPF).
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from functools import partial

import pytest

from tests.helpers.captured import (
    OURS,
    REDIRECT,
    TRANSPARENTLY,
    bring_marked_home,
    inside,
    network,
)
from tests.helpers.engines import RecordingDoor, route
from tests.helpers.streams import Stream, close_all, listening
from uproxy import originals, sockets
from uproxy.app.engines import make_engine
from uproxy.contract import CacheScope
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, TcpAddress

V4, V6 = TcpAddress("198.51.100.7", 80), TcpAddress("2001:db8:1::7", 443)
LISTENER = TcpAddress("::", 15001)
HERE4, HERE6 = (TcpAddress(host, 15001) for host in OURS)


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


@pytest.mark.parametrize("engine", ["native", "python"])
def test_our_own_dial_from_a_callers_address_is_meant_for_nothing_where_callers_come_in(
    engine: str,
) -> None:
    """Before Linux 5.17 eBPF brings it back to the inbound door, which would dial itself again."""
    told = inside(__name__, engine, "marked").split("\n")
    addresses = "192.0.2.1:15001 [2001:db8::1]:15001"
    assert told[0] == f"inbound None None {addresses}"
    # every captured connection has the mark there
    assert told[1] == f"outbound {addresses} {addresses}"


async def _dial_ourselves(name: str) -> None:
    network()
    bring_marked_home()
    engine = make_engine(name, 1)
    async with listening() as upstream:
        for direction in Direction:
            ports = frozenset({1}) if direction is Direction.INBOUND else None
            door = RecordingDoor(direction, route(upstream.address), captured=True, tls_ports=ports)
            opened = engine.open(sockets.listen(LISTENER), door)
            for number, (target, caller) in enumerate(((HERE4, V4), (HERE6, V6)), start=1):
                use_source = partial(originals.use_source, source=caller)
                Stream(sockets.start_connecting(target, use_source)[0])
                await door.connection(number)
            for number, target in enumerate((HERE4, HERE6), start=3):
                await Stream.connect(target)
                await door.connection(number)
            print(direction, *(each.arrival.target for each in door.opened_))  # noqa: T201
            await opened.close()
        close_all()
    await engine.stop()


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
    name, how = sys.argv[1:]
    asyncio.run(_dial_ourselves(name) if how == "marked" else _main(name, how))
