"""What is captured: by `--include` and `--exclude`, by workload, and by whose the addresses are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.capture_world import (
    HOST,
    HOST6,
    POD,
    POD6,
    SECOND,
    SECOND6,
    World,
    existing,
    run,
)


@pytest.mark.parametrize(
    ("options", "captured"),
    [
        ((), {(HOST, 80), (HOST, 81), (SECOND, 80), (HOST6, 80), (SECOND6, 80)}),
        (("--exclude", f"{HOST}/32,{SECOND6}"), {(SECOND, 80), (HOST6, 80)}),
        (("--exclude", "0.0.0.0/0", "--include", f"{HOST}/32"), {(HOST, 80), (HOST, 81)}),
        (("--include", "10.0.0.0/8", "--exclude", "10.99.0.0/24"), set()),
        (("--exclude", "10.0.0.0/8", "--include", "10.99.0.0/24,::/0,80"),
         {(HOST, 80), (SECOND, 80), (HOST6, 80), (SECOND6, 80)}),
        (("--exclude", "::/0"), {(HOST, 80), (HOST, 81), (SECOND, 80)}),
        (("--include", "::/0"), {(HOST6, 80), (SECOND6, 80)}),
        (("--exclude", "::ffff:10.99.0.0/120"), {(HOST6, 80), (SECOND6, 80)}),
        (("--exclude", "80"), {(HOST, 81)}),
        (("--include", "81-82"), {(HOST, 81)}),
    ],
)  # fmt: skip
def test_the_longest_prefix_and_the_port_must_agree(
    either: World, options: tuple[str, ...], captured: set[tuple[str, int]]
) -> None:
    either.attach(*options)
    tried = [(HOST, 80), (HOST, 81), (SECOND, 80), (HOST6, 80), (SECOND6, 80)]
    with either.proxy(), either.server(either.host, 80), either.server(either.host, 81):
        answers = {each: either.connect(*each)["answer"] for each in tried}
    assert {each for each, answer in answers.items() if answer != "real"} == captured


def test_each_workload_has_its_own_policy(either: World, tmp_path: Path) -> None:
    other = World(tmp_path, either.bpffs, either.mode)
    with existing(other):
        either.attach("--exclude", HOST)
        other.attach("--include", HOST)
        with either.proxy(), other.proxy():
            for world, outside in ((either, "real"), (other, "outbound")):
                with world.server(world.host, 80):
                    answer = world.connect(HOST, 80)["answer"]
                    assert outside == (answer if answer == "real" else answer["door"])
        other.detach()
        assert either.status()["state"] == "attached"


def test_a_proxy_inside_the_workloads_cgroup_is_not_captured(either: World) -> None:
    """As in a pod whose cgroup is captured as a whole, before its containers have one."""
    either.capture(
        "attach", "--cgroup", either.cgroup, "--proxy-cgroup", either.proxy_cgroup, "--netns",
        either.pod, "--bpffs", either.bpffs, "--mode", either.mode,
    )  # fmt: skip
    with either.proxy(), either.server(either.host, 80):
        assert either.connect(HOST, 80)["answer"]["door"] == "outbound"
        seen = either.run_app(either.pod, either.proxy_cgroup, HOST, 80)
        assert seen["answer"] == "real"


def test_a_proxy_in_another_cgroup_takes_the_place_of_the_first(world: World) -> None:
    world.attach()
    other = world.cgroup / "other"
    other.mkdir()
    try:
        with world.proxy(), world.server(world.host, 80):
            assert world.connect(HOST, 80)["answer"]["door"] == "outbound"
            world.attach("--proxy-cgroup", other)
            assert world.connect(HOST, 80)["error"] == "ECONNREFUSED"
            assert world.status()["listeners"] == {"outbound": False, "inbound": False}
    finally:
        other.rmdir()


def test_an_address_is_not_own_because_marked_packets_would_stay_here(either: World) -> None:
    for family in ("-4", "-6"):  # as TPROXY wants it
        ip = "ip", "-n", either.pod, family
        run(*ip, "rule", "add", "fwmark", "0x539", "lookup", "133")
        run(*ip, "route", "add", "local", "default", "dev", "lo", "table", "133")
    either.attach("--inbound", "8080")
    with either.proxy(), either.server(either.pod, 8080, either.app):
        for destination, address in ((HOST, POD), (HOST6, POD6)):
            assert either.connect(destination, 80)["answer"]["door"] == "outbound"
            assert either.call(address, 8080)["answer"]["door"] == "inbound"


def test_a_neighbor_does_not_come_in_around_the_proxy_by_its_link_local_address(
    either: World,
) -> None:
    here, neighbor = "fe80::2", "fe80::1"
    for namespace, address in ((either.pod, here), (either.host, neighbor)):
        run("ip", "-n", namespace, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    either.attach("--inbound", "8080")
    with either.server(either.pod, 8080, either.app):
        assert either.call(f"{here}%eth0", 8080)["error"] == "ECONNREFUSED"
        with either.proxy():
            seen = either.call(f"{here}%eth0", 8080)
            assert (seen["answer"]["door"], seen["answer"]["peer"][0]) == ("inbound", neighbor)
            # itself, by the same addresses, is no business of capture
            assert either.connect(f"{here}%eth0", 8080)["answer"] == "real"
