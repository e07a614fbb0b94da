"""Everything at once: what no step alone gets wrong, and threads together might.

Callers come, talk, half-close, reset and babble through two doors of one engine, while the loop
cuts connections, replaces plans, routes and doors, opens and closes others, changes limits and
asks for new answers.  In the end every arrival has had one ending, and nothing is left.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, plan, route, verifier
from tests.helpers.streams import Stream, Upstream, listening
from uproxy import sockets
from uproxy.contract import Connection, Engine, Refusal
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import ENDINGS, State
from uproxy.model import Direction, Limits, Outcome, Role, TcpAddress, Timeouts
from uproxy.proxy.services import PER_PEER, PER_PEER_AND_SOURCE

engine = engines.engine

SECONDS = 4.0
CALLERS = 12
OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEERS = [OURS.issue(f"/ns/web/sa/frontend{number}") for number in range(4)]
TIMEOUT_S = Timeouts(handshake=2.0, connect=2.0, idle=5.0, half_close=2.0)
CUT = Refusal(Outcome.POLICY_CHANGED, "no rule allows it any more")
SCOPES = (None, PER_PEER, PER_PEER_AND_SOURCE)


@dataclass
class World:
    """Caller → outbound door ⇢ mutual TLS ⇢ inbound door → application, all in one engine."""

    engine: Engine
    chance: random.Random
    application: Upstream
    inbound: list[RecordingDoor] = field(default_factory=list)
    outbound: list[RecordingDoor] = field(default_factory=list)
    calls: int = 0
    answers: int = 0
    over: bool = False

    def inbound_door(self) -> RecordingDoor:
        there = replace(
            route(self.application.address, timeouts=TIMEOUT_S),
            cache_scope=self.chance.choice(SCOPES),
        )
        ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
        self.inbound.append(RecordingDoor(Direction.INBOUND, there, ours, TIMEOUT_S))
        return self.inbound[-1]

    def outbound_door(self, peer: TcpAddress) -> RecordingDoor:
        shows = self.chance.choice(PEERS)
        tls = plan(Role.CLIENT, shows, verifier(Role.SERVER, OURS))
        there = replace(
            route(peer, tls=tls, timeouts=TIMEOUT_S), cache_scope=self.chance.choice(SCOPES)
        )
        self.outbound.append(RecordingDoor(Direction.OUTBOUND, there, None, TIMEOUT_S))
        return self.outbound[-1]

    @property
    def endings(self) -> list[tuple[Connection, Outcome, State]]:
        doors = (*self.inbound, *self.outbound)
        return [(c, e.outcome, e.state) for door in doors for c, e in door.endings]

    def some_connection(self) -> Connection | None:
        """One that is open, or has just ended."""
        opened = self.chance.choice((*self.inbound[-3:], *self.outbound[-3:])).opened_[-20:]
        alive = [each for each in opened if each.state is not State.CLOSED]
        return self.chance.choice(alive or opened) if opened else None


async def caller(world: World, address: TcpAddress) -> None:
    chance = world.chance
    while not world.over:
        stream = await Stream.connect(address)
        world.calls += 1
        data = os.urandom(chance.choice((1, 100, 20_000, 200_000)))
        saying = asyncio.create_task(stream.send(data))
        with suppress(OSError):
            if chance.random() < 0.7 and await stream.receive_exactly(len(data)) == data:
                world.answers += 1
            if chance.random() < 0.3:
                stream.finish()
                await stream.receive()
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)
        chance.choice((stream.close, stream.reset))()


async def babbler(world: World, address: TcpAddress) -> None:
    """Straight to the inbound door, with anything but a handshake."""
    while not world.over:
        stream = await Stream.connect(address)
        with suppress(OSError):
            await stream.send(
                world.chance.choice((b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP"))
            )
            await asyncio.sleep(world.chance.random() / 20)
        world.chance.choice((stream.close, stream.reset))()


async def serve(world: World) -> None:
    """The application: echoes, and now and then hangs up in one way or another."""
    serving: set[asyncio.Task[None]] = set()

    async def echo(stream: Stream) -> None:
        with suppress(OSError, TimeoutError):
            while (data := await stream.receive()) and world.chance.random() < 0.97:
                await stream.send(data)
        world.chance.choice((stream.close, stream.reset, stream.close))()

    while True:
        with suppress(TimeoutError):
            task = asyncio.create_task(echo(await world.application.accept()))
            serving.add(task)
            task.add_done_callback(serving.discard)


async def now_and_then(world: World, act: Callable[[], object], each: float) -> None:
    while not world.over:
        act()
        await asyncio.sleep(world.chance.random() * 2 * each)


async def passing_doors(world: World) -> None:
    """Doors that open, get a caller or two, and close."""
    while not world.over:
        listener = sockets.listen(TcpAddress("127.0.0.1", 0))
        address = TcpAddress(*listener.getsockname())
        opened = world.engine.open(listener, world.inbound_door())
        for _ in range(3):
            stream = await Stream.connect(address)
            with suppress(OSError):
                await stream.send(b"\x16\x03\x01")
            world.chance.choice((stream.close, stream.reset))()
        await opened.close()


def sockets_open() -> int:
    """How many this process has; a sanitizer's log doesn't count."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the folder's own
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


async def test_everything_at_once_ends_with_every_count_even(engine: Engine) -> None:
    before = sockets_open()
    async with listening() as application:
        world = World(engine, random.Random(6), application)  # noqa: S311  no secrets
        await storm(world)
        await eventually(lambda: world.calls == sum(len(d.endings) for d in world.outbound), "ends")
        opened = {id(c) for door in (*world.inbound, *world.outbound) for c in door.opened_}
        await eventually(lambda: opened <= {id(c) for c, _, _ in world.endings}, "all endings")
    ids = Counter(connection.arrival.id for connection, _, _ in world.endings)
    assert set(ids.values()) == {1}
    assert all(outcome in ENDINGS[state] for _, outcome, state in world.endings)
    assert world.answers > 20
    assert {CUT.outcome, Outcome.CLOSED, Outcome.RESET} <= {what for _, what, _ in world.endings}
    assert engine.responsive()
    world.inbound.clear()
    world.outbound.clear()
    await eventually(lambda: sockets_open() <= before, "its sockets")


async def storm(world: World) -> None:
    listener_in = sockets.listen(TcpAddress("127.0.0.1", 0))
    listener_out = sockets.listen(TcpAddress("127.0.0.1", 0))
    inner, outer = (TcpAddress(*each.getsockname()) for each in (listener_in, listener_out))
    door_in = world.engine.open(listener_in, world.inbound_door())
    door_out = world.engine.open(listener_out, world.outbound_door(inner))

    def cut() -> None:
        if (connection := world.some_connection()) is not None:
            connection.close(CUT)

    def limit() -> None:
        most = world.chance.choice((3, 512, 512))
        world.engine.set_limits(Limits(handshakes_in_flight=most))

    chaos: list[Awaitable[None]] = [
        now_and_then(world, cut, 0.01),
        now_and_then(world, limit, 0.1),
        now_and_then(world, lambda: door_in.replace(world.inbound_door()), 0.02),
        now_and_then(world, lambda: door_out.replace(world.outbound_door(inner)), 0.02),
        passing_doors(world),
        babbler(world, inner),
        *(caller(world, outer) for _ in range(CALLERS)),
    ]
    serving = asyncio.create_task(serve(world))
    asyncio.get_running_loop().call_later(SECONDS, setattr, world, "over", True)
    await asyncio.gather(*chaos)
    await asyncio.gather(door_in.close(), door_out.close())
    await eventually(lambda: all_ended(world), "the end of every connection", 30)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def all_ended(world: World) -> bool:
    doors = (*world.inbound, *world.outbound)
    return all(len(door.opened_) <= len(door.endings) for door in doors)
