"""Tokens are at hand before they are needed, and nobody sees their text who needn't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta

import pytest

from uproxy.errors import UntrustedError
from uproxy.identity import tokens as module
from uproxy.identity.source import SourceBase
from uproxy.identity.tokens import AT_A_TIME, SHORTEST_REST_S, TokenKeeper, TokenStatus, read_token
from uproxy.identity.workload_api.endings import SLOW_RETRY_S
from uproxy.identity.workload_api.framing import Status
from uproxy.identity.workload_api.grpc import Ended
from uproxy.identity.workload_api.jwt_fetch import NoTokenError
from uproxy.lab.pki import Authority
from uproxy.lab.tokens import TokenAuthority
from uproxy.lab.waiting import eventually

SIGNER = TokenAuthority("example.org")
NOW = SIGNER.now
ROOTS = Authority("example.org", now=NOW)
WEB, OTHER = "spiffe://example.org/web", "spiffe://example.org/other"
DB, CACHE = ("spiffe://example.org/db",), ("spiffe://example.org/a", "spiffe://example.org/b")


class Source(SourceBase):
    """A source whose identity a test sets."""

    async def start(self) -> None: ...

    def want_jwt_bundles(self, wanted: bool) -> None: ...

    def become(self, path: str | None) -> None:
        svid = None if path is None else ROOTS.issue(path).svid
        self._replace(svid, "revoked", {})


class Agent:
    """Gives tokens, or fails as told; `asked` is what it was asked for."""

    def __init__(self) -> None:
        self.now = NOW
        self.asked: list[tuple[tuple[str, ...], str]] = []
        self.life = 300.0
        self.failure: NoTokenError | None = None
        self.token: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def clock(self) -> datetime:
        return self.now

    async def fetch(self, audience: tuple[str, ...], spiffe_id: str) -> str:
        self.asked.append((audience, spiffe_id))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if self.token is not None:
            return self.token
        signer_now, SIGNER.now = SIGNER.now, self.now
        try:
            path = spiffe_id.removeprefix("spiffe://example.org")
            return SIGNER.token(path, *audience, claims={"n": len(self.asked)}, life=self.life)
        finally:
            SIGNER.now = signer_now


class World:
    """A keeper with its source and agent."""

    def __init__(self) -> None:
        self.agent = Agent()
        self.source = Source("test", "nothing yet", clock=self.agent.clock)
        self.told: list[Mapping[str, str]] = []
        self.keeper = TokenKeeper(
            self.source,
            self.agent.fetch,
            self.told.append,
            clock=self.agent.clock,
            jitter=lambda: 0.0,
        )

    async def until(self, *names: str) -> Mapping[str, str]:
        await eventually(lambda: sorted(self.keeper.tokens) == sorted(names), f"tokens {names}")
        return self.keeper.tokens

    async def until_error(self, words: str, name: str = "db") -> None:
        await eventually(lambda: words in str(self.keeper.status[name].error), words)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.keeper.stop()
    await made.source.stop()


def unavailable(words: str = "later", status: Status = Status.UNAVAILABLE) -> NoTokenError:
    return NoTokenError(words, Ended(words, status))


async def test_each_destination_has_a_token_for_its_identities(world: World) -> None:
    world.source.become("/web")
    world.keeper.follow({"db": DB, "cache": CACHE, "cache2": CACHE})
    found = await world.until("db", "cache", "cache2")
    assert found["cache"] == found["cache2"] != found["db"]
    assert sorted(world.agent.asked) == sorted([(DB, WEB), (CACHE, WEB)])
    assert world.told[-1] == found
    expires = NOW.replace(microsecond=0) + timedelta(seconds=300)
    assert world.keeper.status["db"].audience == DB
    assert abs((world.keeper.status["db"].expires or NOW) - expires) <= timedelta(seconds=1)
    assert world.keeper.status["db"].error is None


async def test_nothing_is_asked_for_before_there_is_an_identity(world: World) -> None:
    world.keeper.follow({"db": DB})
    await world.until_error("there is no identity")
    assert world.agent.asked == []
    world.source.become("/web")
    await world.until("db")


async def test_a_token_is_of_the_identity_that_we_have(world: World) -> None:
    world.source.become("/web")
    world.keeper.follow({"db": DB})
    first = await world.until("db")
    world.source.become("/other")
    await eventually(lambda: world.keeper.tokens not in ({}, first), "another token")
    assert world.agent.asked[-1] == (DB, OTHER)
    assert {} in world.told


async def test_a_token_that_comes_when_the_identity_has_changed_is_not_used(world: World) -> None:
    world.source.become("/web")
    world.agent.gate.clear()
    world.keeper.follow({"db": DB})
    await eventually(lambda: world.agent.asked, "the first fetch")
    world.source.become("/other")
    world.agent.gate.set()
    await world.until("db")
    assert world.agent.asked == [(DB, WEB), (DB, OTHER)]
    assert len(world.told) == 1


async def test_an_identity_that_is_gone_for_a_moment_costs_no_token(world: World) -> None:
    world.source.become("/web")
    world.keeper.follow({"db": DB})
    first = await world.until("db")
    world.source.become(None)
    await world.until_error("there is no identity")
    assert world.keeper.tokens == first
    world.source.become("/web")
    await eventually(lambda: len(world.agent.asked) == 2, "a new one")


async def test_tokens_of_destinations_that_went_are_kept_no_longer(world: World) -> None:
    world.source.become("/web")
    world.keeper.follow({"db": DB, "cache": CACHE})
    found = await world.until("db", "cache")
    world.keeper.follow({"db2": DB})
    assert world.keeper.tokens == {"db2": found["db"]}
    assert world.told[-1] == {"db2": found["db"]}
    world.keeper.follow({"db2": DB})
    assert world.told.count({"db2": found["db"]}) == 1
    world.keeper.follow({})
    assert (world.keeper.tokens, world.told[-1]) == ({}, {})


async def test_a_token_is_renewed_at_half_its_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_NAP_S", 0.01)
    world.source.become("/web")
    world.keeper.follow({"db": DB})
    first = await world.until("db")
    world.agent.now += timedelta(seconds=148)
    await eventually_idle()
    assert world.keeper.tokens == first
    world.agent.now += timedelta(seconds=3)
    await eventually(lambda: world.keeper.tokens != first, "a new token")
    assert world.keeper.tokens
    assert {} not in world.told


async def eventually_idle() -> None:
    """Give the keeper some naps."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.05
    await eventually(lambda: loop.time() > until, "some naps")


async def test_the_last_good_token_stays_until_it_expires(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LONGEST_NAP_S", 0.01)
    world.source.become("/web")
    world.keeper.follow({"db": DB})
    first = await world.until("db")
    world.agent.failure = unavailable()
    world.agent.now += timedelta(seconds=200)
    await world.until_error("later")
    assert world.keeper.tokens == first
    assert world.keeper.status["db"].expires is not None
    world.agent.now += timedelta(seconds=101)
    await world.until()
    assert world.keeper.status["db"] == TokenStatus(DB, None, "later")
    world.agent.failure = None
    await world.until("db")
    told = [each for each in caplog.messages if "JWT-SVID" in each]
    assert told == [
        "no newer JWT-SVID for db: later",
        "the JWT-SVID for db can't be used any more",
    ]


async def test_a_failure_is_followed_by_backoff_and_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.source.become("/web")
    world.agent.failure = unavailable()
    world.keeper.follow({"db": DB})
    await eventually(lambda: len(world.agent.asked) >= 3, "further attempts")
    assert caplog.messages.count("no JWT-SVID for db: later") == 1
    world.agent.failure = None
    await world.until("db")


async def test_an_agent_that_has_no_tokens_is_asked_slowly(world: World) -> None:
    rests: list[float] = []

    async def rest(_kept: object, seconds: float) -> None:
        rests.append(seconds)
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module._Kept, "_rest", rest)
        world.source.become("/web")
        world.agent.failure = unavailable("no", Status.UNIMPLEMENTED)
        world.keeper.follow({"db": DB})
        await eventually(lambda: rests, "the rest")
    assert rests == [SLOW_RETRY_S / 2]
    assert world.keeper.status["db"].error == "no"


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("nonsense", "JW-1"),
        (SIGNER.token("/other", *DB), f"it is of {OTHER} for {DB[0]}"),
        (SIGNER.token("/web", "you"), f"it is of {WEB} for you"),
        (SIGNER.token("/web", *DB, life=0), "expired"),
    ],
)
async def test_what_is_no_token_of_ours_is_not_used(world: World, token: str, why: str) -> None:
    world.source.become("/web")
    world.agent.token = token
    world.keeper.follow({"db": DB})
    await world.until_error(why)
    assert world.keeper.tokens == {}
    assert token not in str(world.keeper.status)


def test_the_whole_audience_must_be_in_the_token() -> None:
    assert read_token(SIGNER.token("/web", "x", *CACHE), CACHE, WEB, NOW)
    with pytest.raises(UntrustedError):
        read_token(SIGNER.token("/web", CACHE[0]), CACHE, WEB, NOW)


def test_a_short_life_makes_no_haste() -> None:
    assert read_token(SIGNER.token("/web", *DB, life=1.9), DB, WEB, NOW).rest_s == SHORTEST_REST_S
    assert 149 <= read_token(SIGNER.token("/web", *DB), DB, WEB, NOW).rest_s <= 150


async def test_no_text_of_a_token_is_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world.source.become("/web")
    world.keeper.follow({"db": DB})
    text = (await world.until("db"))["db"]
    shown = repr(world.keeper._kept[DB].token) + repr(world.keeper.status) + caplog.text
    assert text not in shown
    assert text.rpartition(".")[2] not in shown


async def test_a_token_is_awaited_until_the_agent_has_answered(world: World) -> None:
    world.keeper.follow({"db": DB, "cache": CACHE})
    await world.until_error("there is no identity")
    assert world.keeper.awaited == {"db", "cache"}
    gone = "agent socket /run/agent.sock does not exist"
    world.agent.failure = NoTokenError(gone, Ended(gone))
    world.source.become("/web")
    await world.until_error("does not exist")
    assert world.keeper.awaited == {"db", "cache"}
    world.agent.failure = unavailable("no", Status.UNIMPLEMENTED)
    await eventually(lambda: not world.keeper.awaited, "the answer")
    assert world.keeper.tokens == {}


async def test_a_token_that_came_is_awaited_no_longer(world: World) -> None:
    world.source.become("/web")
    world.keeper.follow({"db": DB})
    assert world.keeper.awaited == {"db"}
    await world.until("db")
    assert world.keeper.awaited == frozenset()


async def test_a_few_are_fetched_at_a_time(world: World) -> None:
    world.source.become("/web")
    world.agent.gate.clear()
    many = {f"d{n}": (f"spiffe://example.org/{n}",) for n in range(3 * AT_A_TIME)}
    world.keeper.follow(many)
    await eventually(lambda: len(world.agent.asked) == AT_A_TIME, "the first fetches")
    await eventually_idle()
    assert len(world.agent.asked) == AT_A_TIME
    world.agent.gate.set()
    await world.until(*many)


async def test_after_stop_nothing_is_fetched(world: World) -> None:
    world.source.become("/web")
    world.keeper.follow({"db": DB})
    await world.until("db")
    await world.keeper.stop()
    world.source.become("/other")
    await eventually_idle()
    assert len(world.agent.asked) == 1
