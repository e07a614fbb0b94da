"""The shutdown order."""

from __future__ import annotations

import asyncio

from uproxy.app.draining import drain
from uproxy.contract import Refusal
from uproxy.model import Direction, Outcome, Timeouts


class FakeConnections:
    """Open connections of each direction, until told that they ended."""

    def __init__(self) -> None:
        self.ended = {direction: asyncio.Event() for direction in Direction}
        self.cut: list[Refusal] = []
        self.waited: list[tuple[Direction, float]] = []
        self.asked = asyncio.Event()

    async def wait_until_idle(self, direction: Direction, *, for_seconds: float) -> None:
        self.waited.append((direction, for_seconds))
        self.asked.set()
        await self.ended[direction].wait()

    def close_all(self, refusal: Refusal) -> int:
        self.cut.append(refusal)
        return sum(not event.is_set() for event in self.ended.values())


class FakeDoors:
    """Remembers the order of closing."""

    def __init__(self) -> None:
        self.open = set(Direction)
        self.closed: list[Direction] = []

    def has(self, direction: Direction) -> bool:
        return direction in self.open

    async def close(self, direction: Direction) -> None:
        self.open.discard(direction)
        self.closed.append(direction)


async def run_drain(connections: FakeConnections, doors: FakeDoors, timeouts: Timeouts) -> int:
    return await drain(connections, doors, timeouts)  # type: ignore[arg-type]  # stand-ins


async def test_inbound_ends_before_outbound_closes() -> None:
    connections, doors = FakeConnections(), FakeDoors()
    task = asyncio.create_task(run_drain(connections, doors, Timeouts(drain_delay=0, drain=30)))
    await connections.asked.wait()
    assert doors.closed == [Direction.INBOUND]
    connections.ended[Direction.INBOUND].set()
    connections.ended[Direction.OUTBOUND].set()
    assert await task == 0
    assert doors.closed == [Direction.INBOUND, Direction.OUTBOUND]
    assert connections.waited == [
        (Direction.INBOUND, 0),
        (Direction.OUTBOUND, 2.0),
        (Direction.OUTBOUND, 0),
    ]


async def test_what_is_open_when_the_time_is_over_is_cut_as_drained() -> None:
    connections, doors = FakeConnections(), FakeDoors()
    assert await run_drain(connections, doors, Timeouts(drain_delay=0, drain=0.05)) == 2
    assert connections.cut[0].outcome is Outcome.DRAINED
    assert doors.closed == [Direction.INBOUND, Direction.OUTBOUND]


async def test_arrivals_that_decide_nothing_hold_nobody_beyond_the_drain_time() -> None:
    class Undecided(FakeDoors):
        async def close(self, direction: Direction) -> None:
            await super().close(direction)
            await asyncio.Event().wait()

    connections, doors = FakeConnections(), Undecided()
    await run_drain(connections, doors, Timeouts(drain_delay=0, drain=0.05))
    assert doors.closed == [Direction.INBOUND, Direction.OUTBOUND]


async def test_doors_stay_open_during_the_delay() -> None:
    connections, doors = FakeConnections(), FakeDoors()
    task = asyncio.create_task(run_drain(connections, doors, Timeouts(drain_delay=20, drain=25)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert doors.closed == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_without_outbound_doors_nobody_waits_for_them() -> None:
    connections, doors = FakeConnections(), FakeDoors()
    doors.open = {Direction.INBOUND}
    connections.ended[Direction.INBOUND].set()
    await run_drain(connections, doors, Timeouts(drain_delay=0, drain=30))
    assert connections.waited == [(Direction.INBOUND, 0)]


async def test_without_a_limit_it_waits_for_the_last_connection() -> None:
    connections, doors = FakeConnections(), FakeDoors()
    task = asyncio.create_task(run_drain(connections, doors, Timeouts(drain_delay=0, drain=0)))
    await connections.asked.wait()
    assert not connections.cut
    connections.ended[Direction.INBOUND].set()
    connections.ended[Direction.OUTBOUND].set()
    assert await task == 0
