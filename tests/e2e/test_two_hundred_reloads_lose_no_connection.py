"""Reloads under load, good and bad: no connection is lost, no door refuses, no lie is told.

The file lies as Kubernetes lays a ConfigMap: behind two symbolic links, of which one is swapped.
Both uProxies of a pair are reloaded in turn, while traffic goes through them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.endings import metric
from tests.helpers.load import Load
from tests.helpers.pair import Config, Pair, inbound
from uproxy.lab.ports import free_port, is_taken
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import eventually

RELOADS = 200
BY_WATCHING = 8
"""Reloads nobody asks for: the swapped link is noticed, which takes a second each."""


@dataclass
class ConfigMap:
    """A uProxy's file, published as kubelet does."""

    uproxy: Uproxy
    published: int = 0
    last: Path | None = field(default=None)

    def __post_init__(self) -> None:
        text = self.uproxy.config_file.read_text()
        self.uproxy.config_file.unlink()
        self.publish(text)
        self.uproxy.config_file.symlink_to(Path("..data") / self.uproxy.config_file.name)

    def publish(self, text: str) -> None:
        """All of it in a new folder, then one link is moved."""
        folder = self.uproxy.config_file.parent
        self.published += 1
        fresh = folder / f"..{self.published}"
        fresh.mkdir()
        (fresh / self.uproxy.config_file.name).write_text(text)
        link = folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.replace(folder / "..data")
        if self.last is not None:
            (self.last / self.uproxy.config_file.name).unlink()
            self.last.rmdir()
        self.last = fresh


@dataclass(frozen=True)
class Bad:
    """A way to spoil a configuration, and a word of the refusal."""

    spoil: Callable[[Config], str]
    word: str


def dumped(config: Config) -> str:
    return yaml.safe_dump(config)


def changed(**keys: Any) -> Callable[[Config], str]:
    return lambda config: dumped({**config, **keys})


def _taken(config: Config) -> str:
    """One more door, where somebody listens."""
    config["inbound"] = [*config.get("inbound", []), inbound("taken", _busy_port(), 1)]
    return dumped(config)


def _busy_port() -> int:
    return int(_busy.getsockname()[1])


_busy = socket.socket()


@pytest.fixture(scope="module", autouse=True)
def _somebody_listens() -> Iterator[None]:
    with _busy:
        _busy.bind(("127.0.0.1", free_port()))
        _busy.listen()
        yield


BAD = [
    Bad(lambda config: dumped(config)[:-7] + ": [", "is not YAML"),
    Bad(changed(timeuots={"idle": "1h"}), "timeuots"),
    Bad(lambda config: "", "the file is empty"),
    Bad(changed(name="renamed"), "needs a restart"),
    Bad(_taken, "in use"),
    Bad(changed(limits={"connections": "many"}), "limits.connections"),
]


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with background(traffic.echo) as port:
        yield port


def whole(uproxy: Uproxy, config: Config) -> Config:
    """With the admin listener that it was started with."""
    admin = {"listen": f"127.0.0.1:{uproxy.admin_port}", "metrics": None, "ready": None}
    return {"admin": admin, **deepcopy(config)}


def idle_in_force(uproxy: Uproxy) -> float:
    dump = json.loads(uproxy.request("/config_dump")[1])
    return float(dump["settings"]["timeouts"]["idle"])


def stale(uproxy: Uproxy) -> str:
    """What /readyz says of it; empty when there is nothing to say."""
    status, text = uproxy.request("/readyz")
    assert status == 200, "a mistake in the file must not make it unready"
    return next((line for line in text.splitlines() if line.startswith("config_stale")), "")


_ANYBODY_AT_EXTRA = {
    "name": "extra",
    "action": "allow",
    "from": {"unauthenticated": True},
    "to": {"inbound": ["extra"]},
}
"""The door that comes and goes is in clear."""


class Reloader:
    """Reloads one uProxy again and again, and looks each time at what came of it."""

    def __init__(self, uproxy: Uproxy, config: Config, echo: int) -> None:
        self.uproxy = uproxy
        self.config = whole(uproxy, config)
        self.file = ConfigMap(uproxy)
        self.echo = echo
        self.extra = free_port()
        """A door that comes and goes."""

    async def reload(self, number: int, *, ask: bool) -> None:
        config = deepcopy(self.config)
        if number % 5 == 4:
            await self._reload_bad(BAD[number // 5 % len(BAD)], config, ask=ask)
        else:
            await self._reload_good(number, config, ask=ask)

    async def _reload_good(self, number: int, config: Config, *, ask: bool) -> None:
        with_door = number % 3 == 0
        config["timeouts"] = {**config["timeouts"], "idle": f"{4000 + number}s"}
        if with_door:
            config["inbound"] = [*config.get("inbound", []), self._door()]
            config["authorization"] = [*config.get("authorization", []), _ANYBODY_AT_EXTRA]
        self._publish(dumped(config), ask=ask)
        await eventually(
            lambda: idle_in_force(self.uproxy) == 4000 + number, f"reload {number} of {self.name}"
        )
        assert stale(self.uproxy) == ""
        assert metric(self.uproxy, "uproxy_config_stale") == 0
        assert is_taken(self.extra) == with_door
        if with_door:
            await traffic.exchange(self.extra, 5000, seed=number)

    async def _reload_bad(self, bad: Bad, config: Config, *, ask: bool) -> None:
        before = idle_in_force(self.uproxy)
        self._publish(bad.spoil(config), ask=ask)
        await eventually(lambda: bad.word in stale(self.uproxy), f"{bad.word!r} of {self.name}")
        assert metric(self.uproxy, "uproxy_config_stale") == 1
        assert idle_in_force(self.uproxy) == before

    def _publish(self, text: str, *, ask: bool) -> None:
        self.file.publish(text)
        if ask:
            self.uproxy.send(signal.SIGHUP)

    def _door(self) -> Config:
        return {"name": "extra", "listen": f"127.0.0.1:{self.extra}", "transport": "plaintext",
                "to": f"127.0.0.1:{self.echo}"}  # fmt: skip

    @property
    def name(self) -> str:
        return str(self.config["name"])


async def talk_until(done: asyncio.Event, port: int) -> int:
    """One connection all the time: a word and its echo, an orderly end.  How many words."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    words = 0
    try:
        while not done.is_set():
            word = b"%08d" % words
            writer.write(word)
            assert await reader.readexactly(8) == word
            words += 1
            await asyncio.sleep(0.02)
        writer.write_eof()
        assert await reader.read() == b""
    finally:
        await traffic.close(writer)
    return words


@pytest.fixture
def pair(tmp_path: Path, echo: int) -> Iterator[Pair]:
    with Pair(tmp_path, {"app": echo}) as pair:
        yield pair


async def test_two_hundred_reloads_under_load_lose_no_connection(pair: Pair, echo: int) -> None:
    reloaders = [
        Reloader(pair.orders, pair.orders_config, echo),
        Reloader(pair.frontend, pair.frontend_config, echo),
    ]
    done, port = asyncio.Event(), pair.port("app")
    async with Load(port, workers=3) as load, asyncio.TaskGroup() as group:
        long_ones = [group.create_task(talk_until(done, port)) for _ in range(4)]
        for number in range(RELOADS):
            watched = number % (RELOADS // BY_WATCHING) == 0
            await reloaders[number // 10 % 2].reload(number, ask=not watched)
        done.set()
    assert min(task.result() for task in long_ones) > RELOADS // 4
    assert load.failures == []
    assert len(load.attempts) > RELOADS
    for uproxy in (pair.orders, pair.frontend):
        assert {line["outcome"] for line in uproxy.accesses} == {"closed"}
        applied = metric(uproxy, "uproxy_config_reloads_total", result="applied")
        refused = metric(uproxy, "uproxy_config_reloads_total", result="refused")
        assert applied >= RELOADS * 0.4
        assert refused >= RELOADS * 0.1


async def test_a_file_that_is_mended_is_not_stale_any_more(pair: Pair) -> None:
    orders = pair.orders
    orders.write_config({**pair.orders_config, "naame": "orders"})
    await eventually(lambda: "did you mean 'name'" in stale(orders), "the mistake")
    assert metric(orders, "uproxy_config_stale") == 1
    orders.write_config(pair.orders_config)
    await eventually(lambda: stale(orders) == "", "the mended file")
    assert metric(orders, "uproxy_config_stale") == 0
