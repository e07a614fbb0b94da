"""Pods whose IPv6 is disabled, or comes and goes: the proxy gets what can be reached at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.helpers.capture_world import HOST, HOST6, POD, POD6, World, run

PORT = 8080
"""Captured on the way in."""


def inside(world: World, *words: str) -> None:
    run("ip", "netns", "exec", world.pod, *words)


def disable_ipv6(world: World) -> None:
    inside(world, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")


def enable_ipv6(world: World) -> None:
    inside(world, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
    inside(world, "ip", "addr", "add", f"{POD6}/64", "dev", "eth0", "nodad")
    inside(world, "ip", "route", "add", "default", "via", HOST6)


def attach(world: World) -> None:
    world.attach("--inbound", str(PORT))
    assert world.status()["state"] == "attached"


@contextlib.contextmanager
def populated(world: World) -> Iterator[None]:
    """Run a proxy, and the servers that are reached only around it."""
    with (
        world.proxy(),
        world.server(world.host, 80),
        world.server(world.pod, PORT, world.app),
    ):
        yield


def check_both_directions(world: World, remote: str, own: str) -> None:
    assert world.connect(remote, 80)["answer"]["original"] == [remote, 80]
    assert world.call(own, PORT)["answer"]["original"] == [own, PORT]


def test_ipv4_is_captured_without_ipv6(either: World) -> None:
    disable_ipv6(either)
    without_capture = either.connect(HOST6, 80)["error"]
    attach(either)
    with populated(either):
        check_both_directions(either, HOST, POD)
        assert either.connect(HOST6, 80)["error"] == without_capture


def test_ipv6_that_comes_later_leads_to_the_proxy_or_nowhere(either: World) -> None:
    disable_ipv6(either)
    attach(either)
    with populated(either):
        enable_ipv6(either)
        assert either.call(POD6, PORT)["answer"]["door"] == "inbound"
        if either.mode == "ebpf":
            assert either.connect(HOST6, 80)["error"] == "ENETUNREACH"
            reasons = "; ".join(either.status()["reasons"])
            assert "the IPv6 route in table 7570 isn't as it should be: attach again" in reasons
            attach(either)
        check_both_directions(either, HOST6, POD6)
        check_both_directions(either, HOST, POD)


def test_ipv6_that_goes_takes_ipv4_not_along(either: World) -> None:
    attach(either)
    with populated(either):
        disable_ipv6(either)
        check_both_directions(either, HOST, POD)
        attach(either)
        check_both_directions(either, HOST, POD)
    either.detach()
    left = either.dump()
    assert not [what for what in ("rules", "rules 6", "routes", "routes 6") if "75" in left[what]]
    assert left["nft"] == ""
