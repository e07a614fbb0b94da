"""Programs, sockets and connections that were there before the capture: each is as documented."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import capture_app
from tests.helpers.capture_world import HOST, HOST6, POD, POD6, World

ADDRESSES = pytest.mark.parametrize("version", [4, 6])


class App:
    """tests/helpers/capture_app.py, with which one can talk."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.pid = popen.pid
        assert popen.stdin is not None
        assert popen.stdout is not None
        self._in, self._out = popen.stdin, popen.stdout

    def say(self, words: str = "go") -> None:
        self._in.write(f"{words}\n")
        self._in.flush()

    def hear(self) -> str:
        return self._out.readline().strip()

    def seen(self) -> dict[str, Any]:
        value = json.loads(self.hear())
        assert isinstance(value, dict)
        return value


@contextlib.contextmanager
def app(
    world: World, namespace: str, cgroup: Path, address: str, port: int, *options: str
) -> Iterator[App]:
    words = [sys.executable, capture_app.__file__, address, str(port), *options]
    argv = world.inside(namespace, cgroup, *words)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as popen:
        yield App(popen)
        assert popen.stdin is not None
        popen.stdin.close()


@ADDRESSES
@pytest.mark.parametrize("again", [False, True], ids=["", "attached again"])
def test_connections_that_are_open_stay_as_they_are(
    either: World, version: int, again: bool
) -> None:
    """They were silent until then, so conntrack knows nothing of them."""
    address = HOST if version == 4 else HOST6
    with (
        either.service(either.host, 80),
        app(either, either.pod, either.app, address, 80, "hold") as client,
    ):
        assert client.seen()["answer"]["reached"] == [address, 80]
        either.attach()
        if again:
            either.attach("--exclude", "192.0.2.0/24")
        with either.proxy():
            client.say("still there")
            assert client.hear() == "still there"
            assert either.connect(address, 80)["answer"]["door"] == "outbound"
            client.say("and there")
            assert client.hear() == "and there"


@ADDRESSES
def test_callers_that_are_connected_stay_as_they_are(either: World, version: int) -> None:
    address = POD if version == 4 else POD6
    outside = either.cgroup / ".."
    with (
        either.service(either.pod, 8080, either.app),
        app(either, either.host, outside, address, 8080, "hold") as client,
    ):
        assert client.seen()["answer"]["reached"] == [address, 8080]
        either.attach("--inbound", "8080")
        with either.proxy():
            client.say("still there")
            assert client.hear() == "still there"
            assert either.call(address, 8080)["answer"]["door"] == "inbound"
            client.say("and there")
            assert client.hear() == "and there"


@ADDRESSES
def test_a_socket_that_was_made_before_is_captured_when_it_connects(
    either: World, version: int
) -> None:
    address = HOST if version == 4 else HOST6
    with app(either, either.pod, either.app, address, 80, "wait") as client:
        assert client.hear() == "made"
        either.attach()
        with either.proxy():
            client.say()
            assert client.seen()["answer"]["original"] == [address, 80]


def test_a_socket_that_was_made_before_its_process_came_into_the_cgroup_is_not_captured(
    either: World,
) -> None:
    either.attach()
    outside = either.cgroup / ".."
    with (
        either.proxy(),
        either.service(either.host, 80),
        app(either, either.pod, outside, HOST, 80, "wait") as client,
    ):
        assert client.hear() == "made"
        (either.app / "cgroup.procs").write_text(str(client.pid))
        client.say()
        assert client.seen()["answer"]["reached"] == [HOST, 80]
