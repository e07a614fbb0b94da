"""Doors are replaced all or nothing, and equal addresses keep their socket."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.helpers.world import settings
from uproxy import originals, sockets
from uproxy.app.doors import Doors, SocketPlan, inherit, socket_plans
from uproxy.config.settings import InboundSettings, OutboundSettings
from uproxy.contract import Door, OnTunnelEnded
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually
from uproxy.model import (
    Address,
    Direction,
    Limits,
    ListenAddress,
    SystemdAddress,
    TcpAddress,
    Transport,
)
from uproxy.systemd import PassedSockets

PLAN = SocketPlan(mode=None, owner=None, exposed=True)


@dataclass
class OpenRecord:
    """A `Listener` that only remembers."""

    listener: socket.socket
    door: object
    closed: bool = False
    decided: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.decided.set()

    def replace(self, door: Door | None) -> None:
        self.door = door

    async def close(self) -> None:
        self.closed = True
        self.listener.close()
        await self.decided.wait()


@dataclass
class RecordingEngine:
    """An engine that accepts nothing."""

    opened: list[OpenRecord] = field(default_factory=list)

    def open(self, listener: socket.socket, door: Door) -> OpenRecord:
        self.opened.append(OpenRecord(listener, door))
        return self.opened[-1]

    def set_limits(self, limits: Limits) -> None: ...

    def refused(self) -> dict[str, int]:
        return {}

    def pooled_tunnels(self) -> int:
        return 0

    def watch_tunnels(self, on_ended: OnTunnelEnded) -> None: ...

    def responsive(self) -> bool:
        return True

    async def stop(self) -> None: ...


@dataclass
class FakeDoor:
    """Knows its direction only."""

    direction: Direction


def doors_of(engine: RecordingEngine, listeners: PassedSockets | None = None) -> Doors:
    return Doors(engine, listeners or PassedSockets({}))


async def put(doors: Doors, wanted: dict[ListenAddress, FakeDoor]) -> None:
    fresh = doors.open_new(dict.fromkeys(wanted, PLAN))
    doors.replace(wanted, fresh)  # type: ignore[arg-type]  # only the direction is asked for
    await asyncio.sleep(0)  # what goes is closed in the loop's next turn


def loopback() -> TcpAddress:
    return TcpAddress("127.0.0.1", free_port())


async def test_an_equal_address_keeps_its_socket_and_meets_the_new_door() -> None:
    engine, address = RecordingEngine(), loopback()
    doors = doors_of(engine)
    first, second = FakeDoor(Direction.INBOUND), FakeDoor(Direction.INBOUND)
    await put(doors, {address: first})
    await put(doors, {address: second})
    assert [each.door for each in engine.opened] == [second]
    await doors.close(Direction.INBOUND)


async def test_an_address_that_is_gone_is_closed() -> None:
    engine, gone, stays = RecordingEngine(), loopback(), loopback()
    doors = doors_of(engine)
    door = FakeDoor(Direction.INBOUND)
    await put(doors, {gone: door, stays: door})
    await put(doors, {stays: door})
    assert [each.closed for each in engine.opened] == [True, False]
    assert [each.door for each in engine.opened] == [None, door]
    assert doors.listening == {stays}
    await doors.close(Direction.INBOUND)


async def test_one_address_that_cannot_be_had_opens_none() -> None:
    engine, free = RecordingEngine(), loopback()
    doors = doors_of(engine)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = TcpAddress("127.0.0.1", other.getsockname()[1])
        with pytest.raises(UproxyError, match="is in use"):
            doors.open_new({free: PLAN, taken: PLAN})
    with socket.create_server((free.host, free.port)):
        assert doors.listening == frozenset()


async def test_a_reload_meets_the_same_guard_as_a_start() -> None:
    """An inbound socket of systemd's may be reachable; kept for an outbound door it may not,
    unless that says so."""
    with socket.create_server(("0.0.0.0", 0)) as wide:
        doors = doors_of(RecordingEngine(), PassedSockets({"web": (wide.fileno(),)}))
        there = SystemdAddress("web")
        await put(doors, {there: FakeDoor(Direction.INBOUND)})
        other = TcpAddress("127.0.0.1", free_port())
        hidden = SocketPlan(mode=None, owner=None, exposed=False)
        with pytest.raises(UproxyError, match=r"systemd:web: .* or say expose: true"):
            doors.open_new({other: PLAN, there: hidden})
        assert doors.open_new({there: PLAN}) == {}
        sockets.listen(other).close()  # nothing was left open there
        await doors.close(Direction.INBOUND)


async def test_what_nobody_thought_of_leaves_no_socket_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doors, one = doors_of(RecordingEngine()), TcpAddress("127.0.0.1", free_port())
    listen = sockets.listen

    def broken(address: Address, *how: Any) -> socket.socket:
        if address != one:
            raise MemoryError
        return listen(address, *how)

    monkeypatch.setattr(sockets, "listen", broken)
    with pytest.raises(MemoryError):
        doors.open_new({one: PLAN, TcpAddress("127.0.0.1", free_port()): PLAN})
    listen(one).close()


async def test_one_direction_closes_and_the_other_stays() -> None:
    engine = RecordingEngine()
    doors = doors_of(engine)
    inbound, outbound = loopback(), loopback()
    await put(doors, {inbound: FakeDoor(Direction.INBOUND), outbound: FakeDoor(Direction.OUTBOUND)})
    await doors.close(Direction.INBOUND)
    assert doors.listening == {outbound}
    assert not doors.has(Direction.INBOUND)
    assert doors.has(Direction.OUTBOUND)
    await doors.close(Direction.OUTBOUND)


async def test_what_is_still_arriving_holds_neither_a_reload_nor_the_other_doors() -> None:
    engine = RecordingEngine()
    doors = doors_of(engine)
    addresses = [TcpAddress("127.0.0.1", free_port()) for _ in range(3)]
    for_each = {address: FakeDoor(Direction.INBOUND) for address in addresses}
    fresh = doors.open_new(dict.fromkeys(addresses, PLAN))
    doors.replace(for_each, fresh)  # type: ignore[arg-type]  # stand-ins
    for opened in engine.opened:
        opened.decided.clear()
    doors.replace(dict([*for_each.items()][1:]), {})  # type: ignore[arg-type]  # stand-ins
    await asyncio.sleep(0)
    assert [opened.closed for opened in engine.opened] == [True, False, False]
    closing = asyncio.create_task(doors.close(Direction.INBOUND))
    await eventually(lambda: all(opened.closed for opened in engine.opened), "all are closed")
    assert not closing.done()
    for opened in engine.opened:
        opened.decided.set()
    await closing


def test_a_socket_of_systemd_beyond_loopback_must_be_exposed() -> None:
    with socket.create_server(("0.0.0.0", 0)) as wide:
        listeners = PassedSockets({"api": (wide.fileno(),)})
        with pytest.raises(UproxyError, match="say expose: true"):
            inherit(SystemdAddress("api"), listeners, exposed=False)
        inherit(SystemdAddress("api"), listeners, exposed=True).close()


async def test_what_is_being_closed_is_decided_by_the_doors_in_force_all_the_same() -> None:
    engine, address = RecordingEngine(), loopback()
    doors = doors_of(engine)
    await put(doors, {address: FakeDoor(Direction.INBOUND)})
    await doors.close(Direction.INBOUND)
    newer = FakeDoor(Direction.INBOUND)
    doors.renew({address: newer})  # type: ignore[dict-item]  # a stand-in
    assert [each.door for each in engine.opened] == [newer]


@pytest.mark.parametrize("permitted", [True, False])
async def test_a_socket_for_capture_that_is_not_transparent_is_known(
    permitted: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(originals, "make_transparent", lambda _listener: permitted)
    caplog.set_level("INFO")
    address, doors = TcpAddress("::", free_port()), doors_of(RecordingEngine())
    plan = replace(PLAN, captured=True, transparent=True)
    door: Any = FakeDoor(Direction.OUTBOUND)
    doors.replace({address: door}, doors.open_new({address: plan}))
    assert doors.opaque == (frozenset() if permitted else {address})
    assert ("isn't transparent" in caplog.text) is not permitted
    await doors.close(Direction.OUTBOUND)
    assert doors.opaque == frozenset()


async def test_without_ipv6_a_door_for_capture_listens_for_ipv4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "has_ipv6", lambda: False)
    engine, address = RecordingEngine(), TcpAddress("::", free_port())
    doors = doors_of(engine)
    door: Any = FakeDoor(Direction.INBOUND)
    doors.replace({address: door}, doors.open_new({address: replace(PLAN, captured=True)}))
    [opened] = engine.opened
    assert opened.listener.getsockname() == ("0.0.0.0", address.port)
    await doors.close(Direction.INBOUND)


def test_doors_for_capture_are_opened_so() -> None:
    outbound = OutboundSettings(TcpAddress("::", 15001), captured=True)
    inbound = InboundSettings(
        "in", TcpAddress("::", 15006), Transport.PLAINTEXT, ports={80: Transport.PLAINTEXT},
        captured=True,
    )  # fmt: skip
    plans = socket_plans(settings(inbound=(inbound,), outbound=(outbound,)))
    assert plans == {
        outbound.listen: SocketPlan(None, None, exposed=True, captured=True, transparent=True),
        inbound.listen: SocketPlan(None, None, exposed=True, captured=True),
    }
