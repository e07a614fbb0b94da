"""While strangers come, a verdict that takes long holds nobody up but those who shake hands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route
from tests.helpers.streams import Stream, Upstream, listening
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import PeerSvid
from uproxy.errors import UntrustedError
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Address, Alert, Direction, Limits, Outcome, Role, Timeouts
from uproxy.transport.native import NativeEngine

engine = engines.one_thread

OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")


class SlowJudge:
    """Judges all alike, each when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.asked = 0
        self.refusing = False

    def __call__(self, chain: tuple[bytes, ...]) -> PeerSvid:
        self.asked += 1
        assert self.may.wait(10)
        if self.refusing:
            raise UntrustedError("X5-1", "not any more", Alert.UNKNOWN_CA)
        return PeerSvid("spiffe://example.org/x", chain, datetime.now(UTC) + timedelta(hours=1))


class Place:
    """A door with a slow judge, and a friend whose bytes pass."""

    def __init__(self, upstream: Upstream, address: Address, door: RecordingDoor, judge: SlowJudge):
        self.upstream = upstream
        self.address = address
        self.door = door
        self.judge = judge

    async def call(self, shows: Issued | None = None) -> TlsStream:
        """From somebody whose leaf nobody has seen, unless one is given."""
        leaf = shows or OURS.issue("/ns/web/sa/frontend")
        caller = TlsStream(await Stream.connect(self.address), leaf)
        await caller.handshake()
        return caller

    async def befriend(self, shows: Issued | None = None) -> tuple[TlsStream, Stream]:
        """The first stranger, by whom the engine learns that some come; and the application."""
        friend = await self.call(shows)
        await self.door.connection()
        return friend, await self.upstream.accept()

    async def judged_slowly(self) -> TlsStream:
        """A stranger, whose verdict is being thought about."""
        self.judge.may.clear()
        asked = self.judge.asked
        stranger = await self.call()
        await eventually(lambda: self.judge.asked == asked + 1, "the judge is asked")
        return stranger


@asynccontextmanager
async def place(engine: NativeEngine, **timeouts: float) -> AsyncIterator[Place]:
    judge = SlowJudge()
    async with listening() as upstream:
        ours = plan(Role.SERVER, US, judge)
        door = RecordingDoor(Direction.INBOUND, route(upstream.address), ours, Timeouts(**timeouts))
        async with open_door(engine, door) as address:
            try:
                yield Place(upstream, address, door, judge)
            finally:
                judge.may.set()


async def test_bytes_pass_while_a_stranger_is_judged(engine: NativeEngine) -> None:
    async with place(engine) as there:
        friend, application = await there.befriend()
        stranger = await there.judged_slowly()
        for _ in range(3):
            await friend.send(b"a question")
            assert await application.receive() == b"a question"
            await application.send(b"an answer")
            assert await friend.receive() == b"an answer"
        there.judge.may.set()
        await stranger.send(b"at last")
        assert await (await there.upstream.accept()).receive() == b"at last"


async def test_a_known_caller_is_let_in_while_strangers_are_judged(engine: NativeEngine) -> None:
    known = OURS.issue("/ns/web/sa/known")
    async with place(engine) as there:
        await there.befriend(known)
        await there.judged_slowly()
        for _ in range(3):
            await there.call()
        for number in range(3):
            caller = await there.call(known)
            await there.door.connection(2 + number)
            await caller.send(b"a question")
            assert await (await there.upstream.accept()).receive() == b"a question"
        assert there.judge.asked == 2
        there.judge.may.set()
        await there.door.connection(1 + 4 + 3)


async def test_strangers_wait_for_each_other(engine: NativeEngine) -> None:
    async with place(engine) as there:
        await there.befriend()
        strangers = [await there.judged_slowly(), await there.call(), await there.call()]
        assert there.judge.asked == 2
        there.judge.may.set()
        await there.door.connection(1 + len(strangers))
        assert there.judge.asked == 1 + len(strangers)


async def test_who_is_being_judged_makes_room_for_nobody(engine: NativeEngine) -> None:
    """Though nothing more comes of it, as of those whose handshakes have stalled."""
    engine.set_limits(Limits(handshakes_in_flight=1))
    async with place(engine) as there:
        await there.befriend()
        stranger = await there.judged_slowly()
        late = TlsStream(await Stream.connect(there.address), US)
        with pytest.raises(ConnectionResetError):
            await late.handshake()
        assert (await there.door.ending()).reason == (
            "1 handshakes are in flight (limits.handshakes_in_flight)"
        )
        there.judge.may.set()
        await there.door.connection(2)
        await stranger.send(b"at last")
        assert await (await there.upstream.accept()).receive() == b"at last"


async def test_a_stranger_is_refused_with_the_alert_of_the_verdict(engine: NativeEngine) -> None:
    async with place(engine) as there:
        await there.befriend()
        stranger = await there.judged_slowly()
        there.judge.refusing = True
        there.judge.may.set()
        with pytest.raises(SSL.Error, match="unknown ca"):
            await stranger.receive()
        ending = await there.door.ending()
    assert (ending.outcome, ending.state) == (Outcome.PEER_UNTRUSTED, State.HANDSHAKING_DOWNSTREAM)


async def test_a_verdict_that_comes_after_the_deadline_comes_too_late(
    engine: NativeEngine,
) -> None:
    async with place(engine, handshake=0.3) as there:
        await there.befriend()
        await there.judged_slowly()
        silent = await Stream.connect(there.address)  # later, so its deadline is too
        assert (await there.door.ending()).outcome is Outcome.TIMED_OUT
        there.judge.may.set()
        ending = await there.door.ending(2)
        silent.close()
    assert (ending.outcome, ending.state) == (Outcome.TIMED_OUT, State.HANDSHAKING_DOWNSTREAM)
    assert len(there.door.arrivals) == 1


async def test_an_engine_that_stops_waits_for_the_verdict_and_lets_nobody_in(
    engine: NativeEngine,
) -> None:
    async with place(engine) as there:
        await there.befriend()
        stranger = await there.judged_slowly()
        stopping = asyncio.create_task(engine.stop())
        await there.door.ending(1)  # the friend's
        there.judge.may.set()
        await stopping
        await there.door.ending(2)
        with pytest.raises((SSL.SysCallError, ConnectionResetError)):
            await stranger.receive()
    assert len(there.door.arrivals) == 1


async def test_a_caller_that_gives_up_while_it_is_judged_leaves_nothing(
    engine: NativeEngine,
) -> None:
    async with place(engine) as there:
        await there.befriend()
        stranger = await there.judged_slowly()
        stranger.stream.reset()
        there.judge.may.set()
        await there.door.ending()
        await eventually(lambda: engine.state.core.alive() == 1, "only the friend is left")
