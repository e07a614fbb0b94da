"""Programs, sockets and connections that were there before the capture: each is as documented."""

from __future__ import annotations

import pytest

from tests.helpers.capture_talk import app
from tests.helpers.capture_world import HOST, HOST6, POD, POD6, World

ADDRESSES = pytest.mark.parametrize("version", [4, 6])


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
