"""The cgroup, the network namespace, the addresses: what becomes of a capture without them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.capture_world import HOST, POD, World, existing, run
from uproxy.capture import record
from uproxy.lab.waiting import wait_until

NEW, NEW6 = "10.99.0.77", "fd99::77"
OTHER = "10.98.0.77"
"""Of another network, so that it outlives the pod's first address."""


def state(world: World) -> tuple[int, str, str]:
    """The exit code of `status`, its word, and its reasons."""
    code = world.capture("status", check=False).returncode
    shown = world.status()
    return code, shown["state"], "; ".join(shown["reasons"])


def test_a_cgroup_that_was_made_again_is_not_captured_and_status_says_so(either: World) -> None:
    either.attach()
    with either.proxy(), either.server(either.host, 80):
        assert state(either) == (0, "attached", "")
        either.app.rmdir()
        code, word, reasons = state(either)
        assert (code, word, f"the cgroup {either.app} was removed" in reasons) == (5, "stale", True)
        either.app.mkdir()
        assert either.connect(HOST, 80)["answer"] == "real"
        code, word, reasons = state(either)
        assert (code, word, "was removed and made again: attach again" in reasons) == (
            5, "stale", True
        )  # fmt: skip
        either.attach()
        assert either.connect(HOST, 80)["answer"]["door"] == "outbound"
        assert state(either) == (0, "attached", "")


def test_a_namespace_is_not_kept_alive_and_what_is_left_is_removed(either: World) -> None:
    before = either.dump()["pins"]
    either.attach()
    run("ip", "netns", "del", either.pod)
    # the kernel takes its time
    wait_until(
        lambda: "nothing leads to the network namespace" in state(either)[2],
        "the namespace to be gone",
    )
    assert state(either)[:2] == (5, "stale")
    either.detach()
    assert "\n".join(sorted(map(str, either.bpffs.rglob("*")))) == before


def test_a_namespace_that_has_the_inode_of_one_that_died_is_another(either: World) -> None:
    """A capture that nobody detached is in no other's way, and undoes nothing of it later."""
    either.attach()
    first, app = either.name, either.app
    name = Path("/run/netns", either.pod)
    inode = name.stat().st_ino
    run("ip", "netns", "del", either.pod)

    def made_again() -> bool:
        run("ip", "netns", "add", either.pod)
        if name.stat().st_ino == inode:
            return True
        run("ip", "netns", "del", either.pod)
        return False

    # a namespace of another test may have the number until that has ended
    wait_until(made_again, "a namespace with the same inode", timeout=60)
    assert "nothing leads to the network namespace" in state(either)[2]
    either.name, either.app = f"{first}-2", either.cgroup / "other"
    either.app.mkdir()
    try:
        either.attach()
        either.name = first
        either.detach()
        either.name = f"{first}-2"
        assert state(either) == (0, "attached", "")
        either.detach()
    finally:
        either.app.rmdir()
        either.app = app


def test_a_namespace_whose_name_has_gone_is_found_by_a_process_in_it(world: World) -> None:
    world.attach()
    with world.proxy(), world.server(world.host, 80):
        run("umount", f"/run/netns/{world.pod}")
        assert state(world) == (0, "attached", "")
        world.detach()


@contextmanager
def following(world: World) -> Iterator[None]:
    argv = [sys.executable, "-m", "uproxy", "capture", "follow", "--name", world.name]
    with subprocess.Popen(argv) as process:
        try:
            yield
        finally:
            process.terminate()
        assert process.wait(10) == 0


def own(world: World) -> bool:
    return "addresses of the network namespace have changed" not in state(world)[2]


@pytest.mark.parametrize("address", [NEW, NEW6])
def test_a_new_address_lets_nobody_in_by_it(world: World, address: str) -> None:
    world.attach("--inbound", "8080")
    with world.server(world.pod, 8080, world.app):
        run("ip", "-n", world.pod, "addr", "add", address, "dev", "eth0",
            *(["nodad"] if ":" in address else []))  # fmt: skip
        assert not own(world)
        assert world.call(address, 8080)["error"] == "ECONNREFUSED"
        # the workload reaches itself by it
        assert world.run_app(world.pod, world.proxy_cgroup, address, 8080)["answer"] == "real"


def test_addresses_are_followed(world: World) -> None:
    world.attach()
    with world.proxy(), world.server(world.pod, 8080, world.app), following(world):
        run("ip", "-n", world.pod, "addr", "add", f"{OTHER}/24", "dev", "eth0")
        wait_until(lambda: own(world), "the new address to be known")
        assert world.connect(OTHER, 8080)["answer"] == "real"
        # our route names this address, and the kernel leaves it so
        run("ip", "-n", world.pod, "addr", "del", f"{POD}/24", "dev", "eth0")
        wait_until(lambda: state(world) == (0, "attached", ""), "the route to be made again")
        seen = world.connect("203.0.113.7", 80)
        assert (seen["answer"]["door"], seen["sockname"][0]) == ("outbound", OTHER)


def test_following_ends_with_the_capture(world: World) -> None:
    world.attach()
    argv = [sys.executable, "-m", "uproxy", "capture", "follow", "--name", world.name]
    with subprocess.Popen(argv) as process:
        run("ip", "-n", world.pod, "addr", "add", f"{NEW}/24", "dev", "eth0")
        wait_until(lambda: own(world), "it to follow")
        world.detach()
        assert process.wait(10) == 0


def test_following_what_has_lost_its_record_ends_with_an_error(world: World) -> None:
    """It still captures, and nobody brings its list of own addresses up to date."""
    world.attach()
    argv = [sys.executable, "-m", "uproxy", "capture", "follow", "--name", world.name]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        run("ip", "-n", world.pod, "addr", "add", f"{NEW}/24", "dev", "eth0")
        wait_until(lambda: own(world), "it to follow")
        (record.FOLDER / f"{world.name}.json").unlink()
        _, said = process.communicate(timeout=10)
        assert (process.returncode, "still acts, but its record is lost" in said) == (1, True)
    world.attach()


def test_nft_needs_nobody_who_follows(either: World) -> None:
    if either.mode == "ebpf":
        return
    either.attach()
    done = either.capture("follow", check=False)
    assert (done.returncode, "nft asks the kernel itself" in done.stderr) == (2, True)


def test_rules_that_somebody_removed_from_the_nft_table_are_missed(
    tmp_path: Path, bpffs: Path
) -> None:
    with existing(World(tmp_path, bpffs, "nft")) as world:
        world.attach("--include", "10.99.0.0/24,80-81")
        with world.proxy(), world.server(world.host, 80):
            assert world.connect(HOST, 80)["answer"]["door"] == "outbound"
            assert state(world) == (0, "attached", "")
            table = f"uproxy-{world.name}"
            run("ip", "netns", "exec", world.pod, "nft", "flush", "chain", "inet", table, "decide")
            assert state(world) == (
                5, "stale", f"the nft table {table} was changed: attach again"
            )  # fmt: skip
            world.attach("--include", "10.99.0.0/24,80-81")
            assert world.connect(HOST, 80)["answer"]["door"] == "outbound"
            assert state(world) == (0, "attached", "")
