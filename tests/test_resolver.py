from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from uproxy.lab.waiting import eventually
from uproxy.model import TcpAddress
from uproxy.resolver import Resolver

DB = TcpAddress("db.internal", 5432)
CACHE = TcpAddress("cache.internal", 6379)
A, B = (TcpAddress(f"10.0.0.{n}", 5432) for n in (1, 2))


class Names:
    """A DNS made of a dictionary; a missing name fails, an exception is raised."""

    def __init__(self) -> None:
        self.records: dict[TcpAddress, tuple[TcpAddress, ...] | Exception] = {}
        self.asked: list[TcpAddress] = []
        self.slow: dict[TcpAddress, asyncio.Event] = {}

    async def __call__(self, name: TcpAddress) -> tuple[TcpAddress, ...]:
        self.asked.append(name)
        if name in self.slow:
            await self.slow[name].wait()
        found = self.records.get(name, OSError(-2, "name or service not known"))
        if isinstance(found, Exception):
            raise found
        return found


@dataclass
class Wanted:
    """Who wants names looked up, and what was answered last."""

    names: frozenset[TcpAddress]
    records: dict[TcpAddress, tuple[TcpAddress, ...]] = field(default_factory=dict)

    def resolved(self, name: TcpAddress, records: tuple[TcpAddress, ...]) -> None:
        self.records[name] = records

    @property
    def listed(self) -> set[TcpAddress]:
        return {address for name in self.names for address in self.records.get(name, ())}


@asynccontextmanager
async def resolving(
    names: Names, *wanted: TcpAddress, interval_s: float = 3600
) -> AsyncIterator[tuple[Resolver, Wanted]]:
    wants = Wanted(frozenset(wanted))
    resolver = Resolver(wants, lookup=names, interval_s=interval_s)
    resolver.start()
    try:
        yield resolver, wants
    finally:
        await resolver.stop()


async def test_every_name_is_looked_up_at_start() -> None:
    names = Names()
    names.records = {DB: (A, B)}
    async with resolving(names, DB) as (_, db):
        await eventually(lambda: db.listed == {A, B}, "every record")


async def test_records_are_replaced_at_every_interval() -> None:
    names = Names()
    names.records = {DB: (A,)}
    async with resolving(names, DB, interval_s=0.001) as (_, db):
        await eventually(lambda: db.listed == {A}, "the first record")
        names.records = {DB: (B,)}
        await eventually(lambda: db.listed == {B}, "the second record")


async def test_a_name_that_fails_keeps_its_last_good_records_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "uproxy.resolver")
    names = Names()
    names.records = {DB: (A,)}
    async with resolving(names, DB, interval_s=0.001) as (resolver, db):
        await eventually(lambda: db.listed == {A}, "the first record")
        for failure in (OSError(-2, "name or service not known"), TimeoutError(), ()):
            names.records = {DB: failure}
            names.asked.clear()
            await eventually(lambda: len(names.asked) > 3, "three more failing look-ups")
        assert resolver.failing == {DB}
        assert db.listed == {A}
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "db.internal:5432 can't be resolved: name or service not known" in caplog.text
        names.records = {DB: (B,)}
        await eventually(lambda: db.listed == {B}, "the second record")
        await eventually(lambda: not resolver.failing, "the name to work again")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_names_do_not_wait_for_each_other_nor_the_start_for_a_slow_one() -> None:
    names = Names()
    names.slow = {CACHE: asyncio.Event()}
    names.records = {DB: (A,)}
    async with resolving(names, CACHE, DB) as (_, db):
        await eventually(lambda: db.listed == {A}, "the first record")


async def test_a_name_without_an_answer_does_not_delay_the_next_turn_of_others() -> None:
    names = Names()
    names.slow = {CACHE: asyncio.Event()}
    names.records = {DB: (A,)}
    async with resolving(names, CACHE, DB, interval_s=0.05):
        await eventually(lambda: names.asked.count(DB) > 4, "the other name's turns")
        # each turn of the silent one has taken as long as an interval
        assert names.asked.count(CACHE) <= names.asked.count(DB)


async def test_a_reload_asks_for_new_names_and_waits_for_their_first_answers() -> None:
    names = Names()
    names.records = {DB: (A,), CACHE: ()}
    async with resolving(names) as (resolver, db):
        assert await resolver.ask({DB}) == {DB: (A,)}
        assert await resolver.ask({DB, CACHE, TcpAddress("none.internal", 1)}) == {DB: (A,)}
        assert await resolver.ask(()) == {}
        assert not db.records  # nothing is in force yet


async def test_a_reload_waits_for_a_silent_name_only_so_long() -> None:
    names = Names()
    names.slow = {CACHE: asyncio.Event()}
    names.records = {DB: (A,)}
    async with resolving(names) as (resolver, _):
        assert await resolver.ask({CACHE, DB}, limit_s=0.05) == {DB: (A,)}
        asking = asyncio.create_task(resolver.ask({CACHE}))
        await asyncio.sleep(0)
        asking.cancel()  # as draining does
        await asyncio.wait({asking})
        assert asking.cancelled()


async def test_a_reload_looks_new_names_up_at_once() -> None:
    names = Names()
    names.records = {DB: (A,), CACHE: (B,)}
    async with resolving(names, DB) as (resolver, db):
        await eventually(lambda: db.listed == {A}, "the first record")
        db.names = frozenset({CACHE})
        resolver.refresh()
        await eventually(lambda: db.listed == {B}, "the second record")


async def test_a_name_without_an_answer_is_given_up_before_its_next_turn() -> None:
    names = Names()
    names.slow = {CACHE: asyncio.Event()}
    names.records = {DB: (A,)}
    async with resolving(names, CACHE, DB, interval_s=0.01) as (resolver, db):
        await eventually(lambda: CACHE in resolver.failing, "the silent name to fail")
        names.records = {DB: (B,)}
        await eventually(lambda: db.listed == {B}, "the other name's new record")


@pytest.mark.parametrize("turns", range(4))
async def test_stopping_in_the_moment_of_a_reload_stops(turns: int) -> None:
    async with resolving(Names(), DB) as (resolver, _):
        await eventually(lambda: resolver.failing, "the first look-up")
        resolver.refresh()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await resolver.stop()
