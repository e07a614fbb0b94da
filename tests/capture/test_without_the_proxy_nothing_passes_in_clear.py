"""The proxy is dead, or never was: connections are refused at once, in both directions."""

from __future__ import annotations

import signal

import pytest

from tests.helpers.capture_world import ELSEWHERE, HOST, HOST6, IN, POD, POD6, World, run

AT_ONCE_S = 1.0
"""No timeout is as short."""


@pytest.mark.parametrize("address", [HOST, HOST6, ELSEWHERE])
def test_outbound_connections_are_refused_at_once(either: World, address: str) -> None:
    either.attach()
    with either.server(either.host, 80):
        seen = either.connect(address, 80)
    assert seen["error"] == "ECONNREFUSED"
    assert seen["seconds"] < AT_ONCE_S


def test_a_proxy_that_dies_takes_nothing_along_and_one_that_comes_back_is_used(
    either: World,
) -> None:
    either.attach()
    with either.server(either.host, 80):
        for _ in range(2):
            with either.proxy() as proxy:
                assert either.connect(HOST, 80)["answer"]["original"] == [HOST, 80]
                proxy.stop(signal.SIGKILL)
            seen = either.connect(HOST, 80)
            assert (seen["error"], seen["seconds"] < AT_ONCE_S) == ("ECONNREFUSED", True)


def test_a_proxy_that_listens_already_is_found(either: World) -> None:
    with either.proxy():
        either.attach("--inbound", "8080")
        assert either.connect(HOST, 80)["answer"]["original"] == [HOST, 80]
        assert either.status()["listeners"] == {"outbound": True, "inbound": True}


def test_fail_open_lets_pass_what_there_is_no_proxy_for(world: World) -> None:
    world.attach("--fail-open", "--inbound", "8080")
    with world.server(world.host, 80), world.server(world.pod, 8080, world.app):
        assert world.connect(HOST, 80)["answer"] == "real"
        assert world.call(POD, 8080)["answer"] == "real"
        with world.proxy():
            assert world.connect(HOST, 80)["answer"]["door"] == "outbound"
            assert world.call(POD, 8080)["answer"]["door"] == "inbound"


@pytest.mark.parametrize("address", [POD, POD6])
def test_inbound_connections_reach_the_proxy_or_nobody(either: World, address: str) -> None:
    either.attach("--inbound", "8080")
    with either.server(either.pod, 8080, either.app), either.server(either.pod, 9090, either.app):
        seen = either.call(address, 8080)
        assert (seen["error"], seen["seconds"] < AT_ONCE_S) == ("ECONNREFUSED", True)
        with either.proxy():
            seen = either.call(address, 8080)
            assert seen["answer"] == {
                "door": "inbound", "original": [address, 8080], "peer": seen["sockname"]
            }  # fmt: skip
            assert either.call(address, 9090)["answer"] == "real"
            # the proxy itself reaches the application
            again = either.run_app(either.pod, either.proxy_cgroup, address, 8080)
            assert again["answer"] == "real"


def test_all_inbound_ports_but_some_are_captured(either: World) -> None:
    either.attach("--inbound", "all", "--exclude-inbound", "9090")
    with either.proxy(), either.server(either.pod, 9090, either.app):
        assert either.call(POD, 12345)["answer"]["original"] == [POD, 12345]
        assert either.call(POD, 9090)["answer"] == "real"
        # the door itself, dialled from outside, says that nobody redirected
        assert either.call(POD, IN)["answer"]["original"] == [POD, IN]


@pytest.mark.slow
def test_what_somebody_does_to_the_route_lets_nothing_out(world: World) -> None:
    world.attach()
    with world.proxy(), world.server(world.host, 80):
        run("ip", "-n", world.pod, "route", "flush", "table", "7570")
        assert world.connect(HOST, 80)["error"] == "ENETUNREACH"
        assert world.status()["state"] == "stale"
        for priority in ("75", "76"):
            run("ip", "-n", world.pod, "rule", "del", "pref", priority)
        assert world.connect(HOST, 80)["error"] == "timeout"
        assert world.status()["stats"]["leaks_stopped"] > 0
        world.attach()
        assert world.connect(HOST, 80)["answer"]["door"] == "outbound"
        assert world.status()["state"] == "attached"


def test_a_process_of_the_cgroup_in_another_namespace_is_refused(world: World) -> None:
    world.attach()
    with world.proxy(), world.server(world.host, 80):
        seen = world.run_app(world.host, world.app, HOST, 80)
    assert seen["error"] == "ECONNREFUSED"
    assert world.status()["stats"]["foreign_netns"] == 1
