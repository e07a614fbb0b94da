"""The engines under test, and a door that records how it was called.

A test module says `engine = engines.engine`; its tests that take `engine` then run once with each
engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from tests.helpers.streams import Stream, close_all
from uproxy import sockets
from uproxy.contract import (
    PLAIN,
    Arrival,
    Candidate,
    Connection,
    Ending,
    Engine,
    Listener,
    OnClosed,
    PeerSvid,
    Refusal,
    Route,
    Tls,
    TlsPlan,
    VerifyPeer,
)
from uproxy.identity.credentials import Credentials
from uproxy.identity.verifier import Verifier
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import ENDINGS
from uproxy.model import (
    Address,
    Direction,
    Role,
    TcpAddress,
    Timeouts,
    TlsSettings,
    TunnelSettings,
    UnixAddress,
)
from uproxy.transport.native import NativeEngine
from uproxy.transport.python import PythonEngine

_ENGINES: dict[str, Callable[[], Engine]] = {
    "python": PythonEngine,
    "native": NativeEngine,
}


@pytest.fixture(params=sorted(_ENGINES))
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """Yield a new engine; stop it, and close the test's streams, at the end."""
    made = _ENGINES[request.param]()
    yield made
    await made.stop()
    close_all()


@pytest.fixture(params=sorted(_ENGINES))
async def tunnel_engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """As `engine`; the compiled one with one thread, because each thread has a pool of tunnels."""
    made = NativeEngine(threads=1) if request.param == "native" else _ENGINES[request.param]()
    yield made
    await made.stop()
    close_all()


@pytest.fixture
async def one_thread() -> AsyncIterator[NativeEngine]:
    """Yield the compiled engine with one thread, on which connections share everything and can
    delay each other."""
    made = NativeEngine(threads=1)
    yield made
    await made.stop()
    close_all()


@pytest.fixture(params=sorted(_ENGINES))
async def engine_in_order(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """Yield a new engine that does one thing after another: who has an answer isn't being worked
    on any more when the next one comes."""
    made = NativeEngine(threads=1) if request.param == "native" else _ENGINES[request.param]()
    yield made
    await made.stop()
    close_all()


def verifier(role: Role, *trusted: Authority) -> VerifyPeer:
    """Return what verifies a peer in `role` as uProxy does, with the bundles of `trusted`."""
    bundles = {authority.trust_domain: authority.bundle for authority in trusted}
    judge = Verifier(Credentials(None, "", bundles, 1))

    def verify(chain: tuple[bytes, ...]) -> PeerSvid:
        return judge.verify(chain, role, datetime.now(UTC))

    return verify


def plan(
    role: Role,
    shows: Issued,
    verify: VerifyPeer,
    *,
    settings: TlsSettings = TlsSettings(),
    alpn: tuple[str, ...] = (),
) -> TlsPlan:
    """Return our side's parameters of a handshake; `role` is ours."""
    return TlsPlan(role, shows.own, shows.key, settings, verify, alpn)


@dataclass
class RecordingDoor:
    """A door that gives the answers it was made with, and records all calls."""

    direction: Direction
    answer: Route | Refusal | Callable[[Arrival], Route | Refusal]
    downstream_tls: TlsPlan | Refusal | None = None
    timeouts: Timeouts = Timeouts()
    name: str = "door"
    on_opened: Callable[[Connection], None] | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    repeats: list[tuple[Arrival, Route]] = field(default_factory=list)
    attempts: list[tuple[str, Refusal | None]] = field(default_factory=list)
    opened_: list[Connection] = field(default_factory=list)
    carrying_: list[Connection] = field(default_factory=list)
    ended_tunnels: list[tuple[Connection, Ending]] = field(default_factory=list)
    endings: list[tuple[Connection, Ending]] = field(default_factory=list)
    stranded: list[tuple[Connection, Ending]] = field(default_factory=list)
    """Of connections that go on by another way."""
    listener: Listener | None = None
    """Where it listens, once it is open."""
    tunnels: TunnelSettings | None = None
    captured: bool = False
    tls_ports: frozenset[int] | None = None
    migrating_ports: frozenset[int] = frozenset()

    def ask_again(self) -> None:
        """What it answers has changed: no plan or cached route of its is given any more."""
        assert self.listener is not None
        self.listener.replace(self)

    def tls(self) -> TlsPlan | Refusal | None:
        return self.downstream_tls

    def admit(self, arrival: Arrival) -> Route | Refusal:
        self.arrivals.append(arrival)
        return self.answer(arrival) if callable(self.answer) else self.answer

    def admitted_from_cache(self, arrival: Arrival, route: Route) -> None:
        self.repeats.append((arrival, route))

    def attempted(self, route: Route, candidate: Candidate, failure: Refusal | None) -> None:
        self.attempts.append((candidate.endpoint, failure))

    def opened(self, connection: Connection) -> OnClosed:
        self.opened_.append(connection)
        if self.on_opened is not None:
            self.on_opened(connection)
        return self.closed

    def carrying(self, connection: Connection) -> OnClosed:
        self.carrying_.append(connection)
        record = self.ended_tunnels.append  # the engine keeps this, and nothing of the door
        return lambda ended, ending: record((ended, ending))

    def closed(self, connection: Connection, ending: Ending) -> None:
        (self.stranded if ending.goes_on else self.endings).append((connection, ending))

    async def ending(self, count: int = 1) -> Ending:
        """Wait for exactly `count` endings, each allowed by ENDINGS; return the last one."""
        await eventually(lambda: len(self.endings) >= count, f"{count} endings")
        assert len(self.endings) == count
        for _connection, ending in self.endings:
            assert ending.outcome in ENDINGS[ending.state], ending
        return self.endings[-1][1]

    async def connection(self, count: int = 1) -> Connection:
        """Wait for `count` opened connections; return the last one."""
        await eventually(lambda: len(self.opened_) >= count, f"{count} openings")
        return self.opened_[-1]


def route(
    *addresses: Address,
    tls: TlsPlan | None = None,
    timeouts: Timeouts = Timeouts(),
    preface: bytes = b"",
) -> Route:
    """Return a route with one candidate for each address, in order."""
    candidates = tuple(Candidate(str(address), (address,)) for address in addresses)
    upstream = PLAIN if tls is None else Tls(tls)
    return Route("there", candidates, upstream, timeouts, rule="the rule", preface=preface)


@asynccontextmanager
async def open_door(
    engine: Engine, door: RecordingDoor, listen: Address = TcpAddress("127.0.0.1", 0)
) -> AsyncIterator[Address]:
    """Open a door for the block; yield its address.  Arrivals that it hasn't decided stay open."""
    listener = sockets.listen(listen)
    address = sockets.address_of(
        listener.getsockname(), listen if isinstance(listen, UnixAddress) else UnixAddress("")
    )
    opened = door.listener = engine.open(listener, door)
    try:
        yield address
    finally:
        closing = asyncio.create_task(opened.close())
        await eventually(lambda: listener.fileno() == -1, "the listener is closed")
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)


async def dial(address: Address) -> Stream:
    """Connect to a door."""
    return await Stream.connect(address)
