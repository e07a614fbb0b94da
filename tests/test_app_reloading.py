"""A reload is all or nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from uproxy.app import configuration, reloading
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
        self.refuse: str | Exception | None = None
        self.state = RunState(START, START, str(path))
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
        if isinstance(self.refuse, Exception):
            raise self.refuse
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


async def test_nothing_that_takes_long_is_done_in_the_event_loops_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, threading.Thread] = {}

    def noting(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def noted(*args: Any, **options: Any) -> Any:
            threads[name] = threading.current_thread()
            return real(*args, **options)

        monkeypatch.setattr(module, name, noted)

    noting(configuration, "read_text")
    noting(configuration, "load")
    noting(reloading, "changes")
    assert await world.reloader.reload()
    assert threads.keys() == {"read_text", "load", "changes"}
    assert threading.current_thread() not in threads.values()


async def test_the_log_names_a_few_of_many_changed_keys(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uproxy.app.reloading")
    each = "addresses: ['10.0.0.1:1'], transport: plaintext"
    many = "".join(f"  d{n}: {{{each}}}\n" for n in range(50))
    world.path.write_text(f"{GOOD}destinations:\n{many}")
    assert await world.reloader.reload()
    assert caplog.text.rstrip().endswith("destinations.d19 and 30 more")


async def test_a_broken_file_changes_nothing_and_is_shown(world: World) -> None:
    before = world.settings
    world.path.write_text("inbund: []\n")
    assert not await world.reloader.reload()
    assert world.settings is before
    assert "did you mean 'inbound'" in str(world.state.stale)
    assert world.state.notes == (f"config_stale: {world.state.stale}",)
    assert world.sample("uproxy_config_stale 1.0")


async def test_a_file_is_stale_since_the_first_bad_contents(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute, text in enumerate(("inbund: []\nnaem: x\n", "nonsense", "also: nonsense\n")):
        monkeypatch.setattr(reloading, "now", lambda minute=minute: START.replace(minute=minute))
        world.path.write_text(text)
        assert not await world.reloader.reload()
    assert world.state.stale is not None
    assert world.state.stale.since == START
    told = [mistake.split()[1] for mistake in world.state.stale.mistakes]
    assert told == ["also:", "identity:"]
    world.path.write_text(GOOD)
    assert await world.reloader.reload()
    world.path.write_text("nonsense")
    assert not await world.reloader.reload()
    assert world.state.stale.since == START.replace(minute=2)


async def test_a_change_that_needs_a_restart_is_refused_whole(world: World) -> None:
    world.path.write_text(GOOD + "name: other\ntimeouts: {idle: 1m}\n")
    assert not await world.reloader.reload()
    assert world.settings.timeouts.idle == 3600.0
    place = f"{world.path}:2:7: name: "
    assert str(world.state.stale).startswith(f"{place}needs a restart: it names default sockets")


async def test_a_socket_that_cannot_be_had_leaves_what_ran_before(world: World) -> None:
    world.refuse = "127.0.0.1:1 is in use"
    world.path.write_text(GOOD + "timeouts: {idle: 1m}\n")
    assert not await world.reloader.reload()
    assert str(world.state.stale) == "127.0.0.1:1 is in use"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(24, "Too many open files"), "too many open files: is this machine short of"),
        (MemoryError(), "no memory left"),
        (RecursionError("too deep"), "RecursionError: too deep; this is a defect of uProxy"),
        (ValueError("what"), "ValueError: what"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), "UnicodeDecodeError: "),
        (OSError("without a number"), "OSError: without a number"),
    ],
)
async def test_an_error_that_nobody_thought_of_refuses_the_reload_and_nothing_else(
    world: World, error: Exception, words: str
) -> None:
    world.refuse = error
    world.path.write_text(GOOD + "timeouts: {idle: 1m}\n")
    assert not await world.reloader.reload()
    assert str(world.state.stale).startswith(words)
    assert world.sample("uproxy_config_stale 1.0")
    world.refuse = None
    assert await world.reloader.reload()


async def test_an_error_in_the_parser_refuses_the_reload_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise RecursionError("in the parser")

    monkeypatch.setattr("uproxy.app.configuration.load", broken)
    assert not await world.reloader.reload()
    assert "RecursionError: in the parser" in str(world.state.stale)


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
