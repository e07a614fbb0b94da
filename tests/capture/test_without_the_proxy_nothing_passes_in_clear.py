"""The proxy is dead, or never was: connections are refused at once, in both directions."""

from __future__ import annotations

import signal

import pytest

from tests.helpers.capture_world import ELSEWHERE, HOST, HOST6, IN, POD, POD6, World, run

AT_ONCE_S = 1.0
"""No timeout is as short."""


@pytest.mark.parametrize("address", [HOST, HOST6, ELSEWHERE])
def test_outbound_connections_are_refused_at_once(world: World, address: str) -> None:
    world.attach()
    with world.server(world.host, 80):
        seen = world.connect(address, 80)
    assert seen["error"] == "ECONNREFUSED"
    assert seen["seconds"] < AT_ONCE_S


def test_a_proxy_that_dies_takes_nothing_along_and_one_that_comes_back_is_used(
    world: World,
) -> None:
    world.attach()
    with world.server(world.host, 80):
        for _ in range(2):
            with world.proxy() as proxy:
                assert world.connect(HOST, 80)["answer"]["original"] == [HOST, 80]
                proxy.stop(signal.SIGKILL)
            seen = world.connect(HOST, 80)
            assert (seen["error"], seen["seconds"] < AT_ONCE_S) == ("ECONNREFUSED", True)


def test_a_proxy_that_listens_already_is_found(world: World) -> None:
    with world.proxy():
        world.attach("--inbound", "8080")
        assert world.connect(HOST, 80)["answer"]["original"] == [HOST, 80]
        assert world.status()["listeners"] == {"outbound": True, "inbound": True}


def test_fail_open_lets_pass_what_there_is_no_proxy_for(world: World) -> None:
    world.attach("--fail-open", "--inbound", "8080")
    with world.server(world.host, 80), world.server(world.pod, 8080, world.app):
        assert world.connect(HOST, 80)["answer"] == "real"
        assert world.call(POD, 8080)["answer"] == "real"
        with world.proxy():
            assert world.connect(HOST, 80)["answer"]["door"] == "outbound"
            assert world.call(POD, 8080)["answer"]["door"] == "inbound"


@pytest.mark.parametrize("address", [POD, POD6])
def test_inbound_connections_reach_the_proxy_or_nobody(world: World, address: str) -> None:
    world.attach("--inbound", "8080")
    with world.server(world.pod, 8080, world.app), world.server(world.pod, 9090, world.app):
        seen = world.call(address, 8080)
        assert (seen["error"], seen["seconds"] < AT_ONCE_S) == ("ECONNREFUSED", True)
        with world.proxy():
            seen = world.call(address, 8080)
            assert seen["answer"] == {
                "door": "inbound", "original": [address, 8080], "peer": seen["sockname"]
            }  # fmt: skip
            assert world.call(address, 9090)["answer"] == "real"
            # the proxy itself reaches the application
            again = world.run_app(world.pod, world.proxy_cgroup, address, 8080)
            assert again["answer"] == "real"


def test_all_inbound_ports_but_some_are_captured(world: World) -> None:
    world.attach("--inbound", "all", "--exclude-inbound", "9090")
    with world.proxy(), world.server(world.pod, 9090, world.app):
        assert world.call(POD, 12345)["answer"]["original"] == [POD, 12345]
        assert world.call(POD, 9090)["answer"] == "real"
        # the door itself, dialled from outside, says that nobody redirected
        assert world.call(POD, IN)["answer"]["original"] == [POD, IN]


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
