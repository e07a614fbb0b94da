"""A reload is all or nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from uproxy.app.configuration import ConfigurationFile
from uproxy.app.reloading import LOOK_EVERY_S, Reloader
from uproxy.app.state import RunState
from uproxy.config import Settings
from uproxy.errors import UproxyError
from uproxy.metrics import Metrics

START = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = "identity: {files: {svid: a.pem, key: a.key, bundles: {example.org: b.pem}}}\n"


class World:
    """A reloader whose settings are in force at once, unless `refuse` says why not."""

    def __init__(self, path: Path) -> None:
        path.write_text(GOOD)
        self.path = path
        self.file = ConfigurationFile(path, (), {})
        self.settings = self.file.read()
        self.refuse: str | None = None
        self.state = RunState(START, START)
        self.metrics = Metrics()
        self.reloader = Reloader(
            self.file,
            self.state,
            self.metrics,
            lambda: self.settings,
            self.apply,
            self.file.fingerprint(),
        )

    async def apply(self, settings: Settings) -> None:
        if self.refuse is not None:
            raise UproxyError(self.refuse)
        self.settings = settings

    def sample(self, line: str) -> bool:
        return line in self.metrics.render()[1].decode().splitlines()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "uproxy.yaml")


async def test_a_good_file_is_put_in_force(world: World) -> None:
    world.path.write_text(GOOD + "timeouts: {idle: 1m}\n")
    assert await world.reloader.reload()
    assert world.settings.timeouts.idle == 60.0
    assert world.state.loaded_at > START
    assert world.sample('uproxy_config_reloads_total{result="applied"} 1.0')


async def test_a_broken_file_changes_nothing_and_is_shown(world: World) -> None:
    before = world.settings
    world.path.write_text("inbund: []\n")
    assert not await world.reloader.reload()
    assert world.settings is before
    assert "did you mean 'inbound'" in str(world.state.stale)
    assert world.state.notes == (f"config_stale: {world.state.stale}",)
    assert world.sample("uproxy_config_stale 1.0")


async def test_a_change_that_needs_a_restart_is_refused_whole(world: World) -> None:
    world.path.write_text(GOOD + "name: other\ntimeouts: {idle: 1m}\n")
    assert not await world.reloader.reload()
    assert world.settings.timeouts.idle == 3600.0
    assert "restart" in str(world.state.stale)


async def test_a_socket_that_cannot_be_had_leaves_what_ran_before(world: World) -> None:
    world.refuse = "127.0.0.1:1 is in use"
    world.path.write_text(GOOD + "timeouts: {idle: 1m}\n")
    assert not await world.reloader.reload()
    assert world.state.stale == "127.0.0.1:1 is in use"


async def test_a_good_file_ends_the_staleness(world: World) -> None:
    world.path.write_text("nonsense")
    await world.reloader.reload()
    world.path.write_text(GOOD)
    assert await world.reloader.reload()
    assert world.state.stale is None
    assert world.sample("uproxy_config_stale 0.0")


async def test_a_changed_file_is_noticed(world: World) -> None:
    # before anybody waits for it, as while uProxy starts
    world.path.write_text(GOOD + "timeouts: {idle: 2m}\n")
    await asyncio.wait_for(world.reloader.changed(), 10)


async def test_a_changed_file_that_was_read_already_is_no_news(world: World) -> None:
    changed = asyncio.create_task(world.reloader.changed())
    world.path.write_text(GOOD + "timeouts: {idle: 2m}\n")
    assert await world.reloader.reload()
    done, _ = await asyncio.wait({changed}, timeout=3 * LOOK_EVERY_S)
    assert not done
    world.path.write_text(GOOD + "timeouts: {idle: 20m}\n")
    await asyncio.wait_for(changed, 10)
