"""/run is emptied while a capture acts: `status` shows it, `detach` and `attach` go on."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.capture_world import HOST, World, run
from uproxy.capture import record


def lose_record(world: World) -> None:
    (record.FOLDER / f"{world.name}.json").unlink()


def shown(world: World) -> dict[str, Any]:
    """Return what `status` of everything shows of this world's capture."""
    words = ("capture", "status", "--json", "--bpffs", str(world.bpffs))
    done = subprocess.run(
        [sys.executable, "-m", "uproxy", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    [found] = [each for each in json.loads(done.stdout) if each["name"] == world.name]
    assert isinstance(found, dict)
    return found


def test_detach_puts_everything_back(either: World) -> None:
    # a value that isn't the default: it must be there afterwards
    run("ip", "netns", "exec", either.pod, "sysctl", "-q", "net.ipv4.tcp_fwmark_accept=1")
    before = either.dump()
    either.attach()
    lose_record(either)
    found = shown(either)
    assert (found["state"], found["mode"]) == ("orphaned", either.mode)
    either.capture("detach", "--bpffs", either.bpffs)
    assert either.dump() == before
    done = either.capture("status", "--bpffs", either.bpffs, check=False)
    assert (done.returncode, "no capture" in done.stderr) == (2, True)


def test_attach_takes_it_over_with_the_settings_from_before(either: World) -> None:
    before = either.dump()
    either.attach()
    lose_record(either)
    either.attach()
    assert either.status()["state"] == "attached"
    either.detach()
    assert either.dump() == before


def test_it_acts_until_then(either: World) -> None:
    with either.server(either.host, 8080), either.proxy():
        either.attach()
        lose_record(either)
        assert either.connect(HOST, 8080)["answer"]["original"] == [HOST, 8080]
        either.capture("detach", "--bpffs", either.bpffs)
        assert either.connect(HOST, 8080)["answer"] == "real"


@contextlib.contextmanager
def another_path(world: World) -> Iterator[Path]:
    """Have the bpffs at another path too, for a while: as a container has the host's."""
    path = world.folder / "bpf-of-the-host"
    path.mkdir()
    run("mount", "--bind", world.bpffs, path)
    try:
        yield path
    finally:
        run("umount", path)


def test_who_attached_may_have_had_its_bpffs_at_another_path(world: World) -> None:
    before = world.dump()
    with another_path(world) as path:
        world.attach("--bpffs", path)
    lose_record(world)
    assert shown(world)["state"] == "orphaned"
    world.capture("detach", "--bpffs", world.bpffs)
    assert world.dump() == before


def test_attach_takes_it_over_from_another_path_with_its_connections(world: World) -> None:
    with world.server(world.host, 8080), world.proxy():
        with another_path(world) as path:
            world.attach("--bpffs", path)
        assert world.connect(HOST, 8080)["answer"]["original"] == [HOST, 8080]
        lose_record(world)
        world.attach()
        # a capture that is made anew counts from the beginning
        assert world.status()["stats"]["captured"] == 1


def test_pins_without_anything_that_acts_are_removed(world: World) -> None:
    before = world.dump()
    (world.bpffs / "uproxy" / world.name).mkdir(parents=True)
    assert shown(world)["state"] == "orphaned"
    world.capture("detach", "--bpffs", world.bpffs)
    assert world.dump() == before


def test_ebpf_does_not_come_beside_a_lost_table(world: World) -> None:
    world.attach("--mode", "nft")
    lose_record(world)
    done = world.attach("--mode", "ebpf", check=False)
    assert done.returncode == 1
    assert "is attached with --mode nft, and its record is lost: detach it first" in done.stderr
    world.capture("detach", "--bpffs", world.bpffs)


def test_another_capture_does_not_come_into_a_namespace_that_a_lost_one_has(world: World) -> None:
    world.attach()
    lose_record(world)
    done = world.attach("--name", f"{world.name}-other", check=False)
    assert (done.returncode, "has this network namespace" in done.stderr) == (1, True)
    world.capture("detach", "--bpffs", world.bpffs)
