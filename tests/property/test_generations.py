"""One snapshot decides: whatever is replaced at whatever step of an arrival's life, what comes of
it is what the last snapshot before its first byte would have done with it alone, or a refusal
where the handshake that it had made isn't the one that the new door asks for.

Real engines, real doors, real sockets; a step is held open by a peer that waits, or taken in the
very moment in which a door has answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.helpers.streams import Stream, Upstream, close_all
from tests.helpers.tls_streams import TlsStream
from tests.helpers.world import ANYBODY, World, credentials
from tests.helpers.world import settings as configured
from uproxy import sockets
from uproxy.config.settings import (
    DestinationSettings,
    InboundSettings,
    OutboundSettings,
    RuleFrom,
    RuleSettings,
    Settings,
)
from uproxy.contract import Arrival, Door, Engine, Listener, Refusal, Route
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, TcpAddress, Transport
from uproxy.transport.native import NativeEngine
from uproxy.transport.python import PythonEngine

CA = Authority("example.org")
OURS, PEER = CA.issue("/ns/shop/sa/orders"), CA.issue("/ns/web/sa/peer")
LISTEN = TcpAddress("127.0.0.1", 0)
NOBODY = RuleSettings("nobody", "deny", RuleFrom(any=True))
CLEAR = RuleSettings("clear", "allow", RuleFrom(unauthenticated=True))
ENGINES: dict[str, Callable[[], Engine]] = {"native": NativeEngine, "python": PythonEngine}


@dataclass(frozen=True)
class Moment:
    """What one snapshot says: where to, how, and whether at all."""

    to: int
    mtls: bool = True
    allowed: bool = True
    """Inbound: by the rules; outbound: the peer is one of the identities expected."""
    there: bool = True
    """Whether anybody listens."""


FIRST = Moment(0)
moments = st.builds(
    Moment,
    to=st.integers(0, 1),
    mtls=st.sampled_from((True, True, False)),
    allowed=st.sampled_from((True, True, False)),
    there=st.sampled_from((True, True, True, False)),
)
changes = st.lists(st.none() | moments, min_size=3, max_size=3)
"""One for each step of a life; None changes nothing."""


@dataclass
class Meddling:
    """A door that is replaced in the moment in which it has said yes."""

    door: Door
    after: Callable[[], None]

    def admit(self, arrival: Arrival) -> Route | Refusal:
        answer = self.door.admit(arrival)
        if isinstance(answer, Route):  # a refusal is the end of it
            self.after()
        return answer

    def __getattr__(self, name: str) -> object:
        return getattr(self.door, name)


@dataclass
class Stage:
    """One uProxy, with two places where its connections may go."""

    direction: Direction
    engine: Engine
    places: tuple[Upstream, Upstream]
    here: World = field(init=False)
    opened: Listener = field(init=False)
    address: TcpAddress = field(init=False)
    last: Moment = FIRST
    passed: list[Moment] = field(default_factory=list)
    heard: list[tuple[int, bool, bytes]] = field(default_factory=list)
    """Place, whether under TLS, the first bytes."""
    on_admitted: Moment | None = None
    reached: bool = False
    """Somebody was dialled: a yes from here on is the last look, and bytes pass at once."""

    def __post_init__(self) -> None:
        self.here = World(self._settings(FIRST), credentials(OURS, CA))
        listener = sockets.listen(LISTEN)
        self.address = TcpAddress(*listener.getsockname())
        self.opened = self.engine.open(listener, self._door())

    def _settings(self, moment: Moment) -> Settings:
        to = self.places[moment.to].address
        way = Transport.MTLS if moment.mtls else Transport.PLAINTEXT
        if self.direction is Direction.INBOUND:
            door = InboundSettings("api", LISTEN, way, to)
            rules = (ANYBODY, CLEAR) if moment.allowed else (NOBODY,)
            return configured(*rules, inbound=(door,), on_policy_change="keep")
        wanted = PEER.spiffe_id if moment.allowed else "spiffe://example.org/somebody/else"
        there = DestinationSettings("d", (to,), way, (wanted,) if moment.mtls else ())
        doors = (OutboundSettings(LISTEN, "d"),)
        return configured(outbound=doors, destinations={"d": there}, on_policy_change="keep")

    def _door(self) -> Door:
        made: Door = Meddling(self.here.door(), self._admitted)  # type: ignore[assignment]  # all of it
        return made

    def _admitted(self) -> None:
        change, self.on_admitted = self.on_admitted, None
        if not self.reached:
            self.change(change)

    def change(self, moment: Moment | None) -> None:
        """Put another snapshot in force."""
        if moment is None or not self.last.there:  # a listener that is gone doesn't come back
            return
        self.passed.append(self.last)
        self.last = moment
        self.here.configure(self._settings(moment))
        self.opened.replace(self._door() if moment.there else None)

    async def serve(self, place: int, before: Callable[[], None]) -> None:
        """Accept at one place, and note what comes first."""
        while True:
            stream = await self.places[place].accept()
            self.reached = True
            before()
            with suppress(OSError, SSL.Error, EOFError, TimeoutError):
                await self._meet(place, stream)
            stream.close()

    async def _meet(self, place: int, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        peeked = await loop.run_in_executor(None, peek, stream)
        if peeked[:1] == b"\x16":
            inner = TlsStream(stream, PEER, server=True)
            await inner.handshake()
            self.heard.append((place, True, await inner.receive()))
        elif peeked:
            self.heard.append((place, False, await stream.receive()))


def peek(stream: Stream) -> bytes:
    """The first byte, left where it is; b"": the end."""
    import select
    import socket

    select.select([stream.socket], [], [], 5)
    try:
        return stream.socket.recv(1, socket.MSG_PEEK)
    except OSError:
        return b""


async def outbound(stage: Stage, steps: list[Moment | None], warm: bool) -> None:
    """The application dials; its bytes wait in uProxy until both sides are ready."""
    on_admitted, dialled, _ = steps
    coming: list[Moment | None] = []
    serving = [
        asyncio.create_task(
            stage.serve(place, lambda: stage.change(coming.pop() if coming else None))
        )
        for place in range(2)
    ]
    if warm:  # its route is kept for the next one
        first = await Stream.connect(stage.address)
        await first.send(b"first")
        await eventually(lambda: stage.heard, "the first one's bytes")
        stage.heard.clear()
        stage.reached = False
    stage.on_admitted, coming = on_admitted, [dialled]
    downstream = await Stream.connect(stage.address)
    with suppress(OSError):
        await downstream.send(b"secret")
    lost = asyncio.create_task(refused(downstream))
    await eventually(lambda: stage.heard or lost.done(), "bytes there, or a refusal")
    await finish([lost, *serving])
    last = stage.last
    if not last.there or (last.mtls and not last.allowed):
        assert stage.heard == [], (stage.passed, last)
    else:
        assert stage.heard == [(last.to, last.mtls, b"secret")], (stage.passed, last)


async def inbound(stage: Stage, steps: list[Moment | None], warm: bool) -> None:
    """A peer calls, and holds its last flight back."""
    begun, shaken, on_admitted = steps
    serving = [asyncio.create_task(stage.serve(place, lambda: None)) for place in range(2)]
    if warm:
        first = TlsStream(await Stream.connect(stage.address), PEER)
        await first.handshake()
        await first.send(b"first")
        await eventually(lambda: stage.heard, "the first one's bytes")
        stage.heard.clear()
        stage.reached = False
    stage.on_admitted = on_admitted
    caller = TlsStream(await Stream.connect(stage.address), PEER)
    # it may not have been accepted yet, and its hello would be a door in clear's first bytes
    stage.change(begun and replace(begun, mtls=True))
    with suppress(OSError, SSL.Error, EOFError):
        await hold(caller)
        stage.change(shaken)
        await caller.flush()
        await caller.send(b"secret")
    lost = asyncio.create_task(is_over(caller))
    await eventually(lambda: stage.heard or lost.done(), "bytes there, or a refusal")
    await finish([lost, *serving])
    last = stage.last
    if last.there and last.mtls and last.allowed:
        assert stage.heard == [(last.to, False, b"secret")], (stage.passed, last)
    else:
        assert stage.heard == [], (stage.passed, last)


async def refused(downstream: Stream) -> None:
    await downstream.is_reset()


async def hold(caller: TlsStream) -> None:
    """Shake hands up to, without, the last flight."""
    while True:
        try:
            caller.tls.do_handshake()
        except SSL.WantReadError:
            await caller.flush()
            caller.tls.bio_write(await caller.stream.receive() or _gone())
        else:
            return


def _gone() -> bytes:
    raise EOFError


async def is_over(caller: TlsStream) -> None:
    with suppress(OSError, SSL.Error, EOFError):
        while await caller.receive():
            continue


async def finish(tasks: Sequence[asyncio.Task[None]]) -> None:
    # a second time, or at another place, nothing may come
    for _ in range(5):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", sorted(ENGINES))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=changes, warm=st.booleans())
def test_one_snapshot_decides_whatever_is_replaced_and_when(
    name: str, direction: Direction, steps: list[Moment | None], warm: bool
) -> None:
    async def live() -> None:
        engine = ENGINES[name]()
        places = Upstream(), Upstream()
        try:
            stage = Stage(direction, engine, places)
            await (inbound if direction is Direction.INBOUND else outbound)(stage, steps, warm)
        finally:
            await engine.stop()
            for place in places:
                place.close()
            close_all()

    asyncio.run(live())
