"""A pod whose link belongs to a VRF: capture is attached, and what is bound to that is refused."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers.capture_world import HOST, HOST6, POD, POD6, World, run


def vrf(world: World) -> None:
    """Put the pod's link into one, and give it there what it loses so."""
    words = ["ip", "-n", world.pod, "link", "add", "red", "type", "vrf", "table", "10"]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs a kernel with VRF")
    run("ip", "-n", world.pod, "link", "set", "red", "up")
    run("ip", "-n", world.pod, "link", "set", "eth0", "master", "red")
    run("ip", "-n", world.pod, "addr", "replace", f"{POD6}/64", "dev", "eth0", "nodad")
    for gateway in (HOST, HOST6):
        run("ip", "-n", world.pod, "route", "add", "default", "via", gateway, "vrf", "red")


@pytest.mark.parametrize(("remote", "own"), [(HOST, POD), (HOST6, POD6)])
def test_a_vrf_lets_nothing_pass(either: World, remote: str, own: str) -> None:
    vrf(either)
    either.attach("--inbound", "8080")
    assert either.status()["state"] == "attached"
    error = "ECONNREFUSED" if either.mode == "ebpf" else "timeout"
    with (
        either.proxy(),
        either.server(either.host, 80),
        either.server(either.pod, 8080, either.app),
    ):
        assert either.connect(remote, 80, "device=red")["error"] == error
        assert either.connect(remote, 80)["error"] == "ENETUNREACH"
        assert either.call(own, 8080).get("answer") != "real"
        accept = ["sysctl", "-qw", "net.ipv4.tcp_l3mdev_accept=1"]
        run("ip", "netns", "exec", either.pod, *accept)
        seen = either.call(own, 8080)
        if either.mode == "ebpf":
            assert seen["answer"]["original"] == [own, 8080]
        else:
            assert seen["error"] == "timeout"
