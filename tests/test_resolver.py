from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from uproxy.config.settings import DestinationSettings, IdentitySettings, Settings
from uproxy.destinations import Destination, Destinations
from uproxy.lab.waiting import eventually
from uproxy.model import Address, Direction, TcpAddress, Transport
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


def configured(*addresses: Address) -> Settings:
    db = DestinationSettings("db", addresses, Transport.MTLS)
    return Settings(identity=IdentitySettings(), destinations={"db": db})


def listed(destination: Destination) -> set[Address]:
    return {candidate.addresses[0] for candidate in destination.candidates(0.0)}


@asynccontextmanager
async def resolving(
    names: Names,
    *addresses: Address,
    interval_s: float = 3600,
    changed: Callable[[Destination], None] = lambda _db: None,
) -> AsyncIterator[tuple[Resolver, Destinations, Destination]]:
    destinations = Destinations()
    destinations.configure(configured(*addresses))
    db = destinations[Direction.OUTBOUND, "db"]
    resolver = Resolver(
        destinations, changed=lambda: changed(db), lookup=names, interval_s=interval_s
    )
    await resolver.start()
    try:
        yield resolver, destinations, db
    finally:
        await resolver.stop()


async def test_every_name_is_looked_up_at_start() -> None:
    names = Names()
    names.records = {DB: (A, B)}
    async with resolving(names, DB) as (_, _, db):
        assert listed(db) == {A, B}


async def test_literal_addresses_are_never_looked_up() -> None:
    names = Names()
    async with resolving(names, A, DB) as (_, _, db):
        assert listed(db) == {A}
        await eventually(lambda: names.asked == [DB], "the look-up of the name alone")


async def test_records_are_replaced_at_every_interval() -> None:
    names = Names()
    names.records = {DB: (A,)}
    async with resolving(names, DB, interval_s=0.001) as (_, _, db):
        await eventually(lambda: listed(db) == {A}, "the first record")
        names.records = {DB: (B,)}
        await eventually(lambda: listed(db) == {B}, "the second record")


async def test_only_records_that_differ_are_told_and_when_they_are_in_force() -> None:
    names, told = Names(), list[set[Address]]()
    names.records = {DB: (A,)}
    async with resolving(
        names, DB, interval_s=0.001, changed=lambda db: told.append(listed(db))
    ) as (_, _, db):
        await eventually(lambda: len(names.asked) > 3, "the same answer several times")
        names.records = {DB: OSError(-2, "name or service not known")}
        names.asked.clear()
        await eventually(lambda: len(names.asked) > 3, "several failures")
        names.records = {DB: (B,)}
        await eventually(lambda: listed(db) == {B}, "the second record")
    assert told == [{A}, {B}]


async def test_a_name_that_fails_keeps_its_last_good_records_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "uproxy.resolver")
    names = Names()
    names.records = {DB: (A,)}
    async with resolving(names, DB, interval_s=0.001) as (resolver, _, db):
        await eventually(lambda: listed(db) == {A}, "the first record")
        for failure in (OSError(-2, "name or service not known"), TimeoutError(), ()):
            names.records = {DB: failure}
            names.asked.clear()
            await eventually(lambda: len(names.asked) > 3, "three more failing look-ups")
        assert resolver.failing == {DB}
        assert listed(db) == {A}
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "db.internal:5432 can't be resolved: name or service not known" in caplog.text
        names.records = {DB: (B,)}
        await eventually(lambda: listed(db) == {B}, "the second record")
        await eventually(lambda: not resolver.failing, "the name to work again")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_names_do_not_wait_for_each_other_nor_the_start_for_a_slow_one() -> None:
    names = Names()
    names.slow = {CACHE: asyncio.Event()}
    names.records = {DB: (A,)}
    async with resolving(names, CACHE, DB) as (_, _, db):
        await eventually(lambda: listed(db) == {A}, "the first record")


async def test_a_reload_looks_new_names_up_at_once() -> None:
    names = Names()
    names.records = {DB: (A,), CACHE: (B,)}
    async with resolving(names, DB) as (resolver, destinations, db):
        await eventually(lambda: listed(db) == {A}, "the first record")
        destinations.configure(configured(CACHE))
        resolver.refresh()
        await eventually(lambda: listed(db) == {B}, "the second record")


async def test_a_name_without_an_answer_is_given_up_before_its_next_turn() -> None:
    names = Names()
    names.slow = {CACHE: asyncio.Event()}
    names.records = {DB: (A,)}
    async with resolving(names, CACHE, DB, interval_s=0.01) as (resolver, _, db):
        await eventually(lambda: CACHE in resolver.failing, "the silent name to fail")
        names.records = {DB: (B,)}
        await eventually(lambda: listed(db) == {B}, "the other name's new record")


@pytest.mark.parametrize("turns", range(4))
async def test_stopping_in_the_moment_of_a_reload_stops(turns: int) -> None:
    async with resolving(Names(), DB) as (resolver, _, _):
        await eventually(lambda: resolver.failing, "the first look-up")
        resolver.refresh()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await resolver.stop()
