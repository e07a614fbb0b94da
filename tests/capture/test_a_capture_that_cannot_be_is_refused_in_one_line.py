"""What can't be captured is refused in one clear line, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.capture_world import World, existing, run
from tests.helpers.privileges import unprivileged
from uproxy.capture import bpf
from uproxy.capture.pins import Pins
from uproxy.capture.places import cgroup_root, opened


def refused(world: World, *options: str | Path, prefix: list[str] | None = None) -> tuple[int, str]:
    """The exit code and the line of an attach that is refused; what it left: nothing."""
    before = world.dump()
    words = [
        *(prefix or []), sys.executable, "-m", "uproxy", "capture", "attach", "--name", world.name,
    ]  # fmt: skip
    given = {
        "--cgroup": world.app, "--proxy-cgroup": world.proxy_cgroup, "--netns": world.pod,
        "--bpffs": world.bpffs, "--mode": world.mode,
    }  # fmt: skip
    given |= dict(zip(options[::2], options[1::2], strict=True))  # type: ignore[arg-type]  # names
    for option, value in given.items():
        words += [option, str(value)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert world.dump() == before
    assert not world.captured()
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("uproxy: error: ")
    return done.returncode, line.removeprefix("uproxy: error: ")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--cgroup", "/sys/fs/cgroup/none", "--cgroup '/sys/fs/cgroup/none': no such folder"),
        ("--cgroup", "/tmp", "--cgroup '/tmp': no cgroup"),
        ("--proxy-cgroup", "/proc", "--proxy-cgroup '/proc': no cgroup"),
        ("--netns", "none", "--netns 'none': no such file or directory"),
        ("--netns", "/proc/self/ns/mnt", "--netns '/proc/self/ns/mnt': another kind of namespace"),
        ("--inbound-port", "15001", "--outbound-port and --inbound-port must differ"),
    ],
)
def test_what_the_user_names_must_exist(either: World, option: str, value: str, said: str) -> None:
    code, line = refused(either, option, value)
    assert (code, line.startswith(said)) == (2, True), line


def test_the_proxy_must_not_be_captured_with_the_workload(either: World) -> None:
    code, line = refused(either, "--proxy-cgroup", either.app)
    assert (code, "the same as --cgroup" in line) == (2, True)
    (either.proxy_cgroup / "child").mkdir()
    code, line = refused(either, "--cgroup", either.cgroup)
    assert (code, "inside --cgroup it may have no cgroups of its own" in line) == (1, True)
    (either.proxy_cgroup / "child").rmdir()


def test_without_a_bpffs_it_says_how_to_mount_one(world: World, tmp_path: Path) -> None:
    for mode in ("ebpf", "auto"):
        code, line = refused(world, "--bpffs", tmp_path, "--mode", mode)
        assert (code, line) == (1, f"no bpffs at {tmp_path}: mount -t bpf bpf {tmp_path}")


@pytest.mark.parametrize("mode", ["ebpf", "nft", "auto"])
def test_without_privileges_it_names_the_one_that_is_missing(world: World, mode: str) -> None:
    code, line = refused(world, "--mode", mode, prefix=unprivileged())
    assert (code, "CAP_" in line) == (3, True), line


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("-sys_admin", "CAP_SYS_ADMIN"),
        ("-net_admin", "CAP_NET_ADMIN"),
    ],
)
def test_each_privilege_is_named_alone(world: World, missing: str, said: str) -> None:
    code, line = refused(world, prefix=without(missing))
    assert (code, said in line) == (3, True), line


def without(privilege: str) -> list[str]:
    return ["setpriv", f"--bounding-set={privilege}", f"--inh-caps={privilege}"]


def test_a_proxy_that_listens_is_not_overlooked_without_the_privilege_to_see_it(
    world: World,
) -> None:
    with world.proxy() as proxy:
        code, line = refused(world, prefix=without("-sys_ptrace"))
        assert (code, "CAP_SYS_PTRACE needed; or start the proxy after" in line) == (3, True), line
        named = f"/proc/{proxy.pid}/ns/net"
        code, line = refused(world, "--netns", named, prefix=without("-sys_ptrace"))
        assert (code, "we may not look into" in line) == (3, True), line


def test_who_has_cap_sys_admin_needs_no_cap_bpf(world: World) -> None:
    words = [sys.executable, "-m", "uproxy", "capture", "attach", "--name", world.name]
    words += ["--cgroup", str(world.app), "--proxy-cgroup", str(world.proxy_cgroup)]
    words += ["--netns", world.pod, "--bpffs", str(world.bpffs), "--mode", "ebpf"]
    run(*without("-bpf"), *words)
    assert world.status()["state"] == "attached"


WITHOUT_SK_LOOKUP = """
import errno, os, sys
from uproxy.capture import bpf
from uproxy.cli import main
SK_LOOKUP, load = 30, bpf.load_program
def load_program(name, kind, *rest):
    if kind[0] == SK_LOOKUP:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return load(name, kind, *rest)
bpf.load_program = load_program
sys.exit(main(sys.argv[4:]))
"""
"""Runs the command that follows as if on a kernel older than 5.9."""


def test_a_kernel_that_is_too_old_for_ebpf_is_left_alone(world: World) -> None:
    older = [sys.executable, "-c", WITHOUT_SK_LOOKUP]
    code, line = refused(world, prefix=older)
    assert code == 1
    assert "can't load program lookup: invalid argument" in line
    assert "eBPF capture needs Linux 5.9 or later: use --mode nft" in line
    words = ["capture", "attach", "--name", world.name, "--cgroup", str(world.app), "--netns"]
    done = run(*older, "python", "-m", "uproxy", *words, world.pod, "--mode", "auto", "--bpffs",
               world.bpffs)  # fmt: skip
    assert "mode nft (this kernel (" in done


@pytest.mark.parametrize("action", ["detach", "status"])
def test_without_privileges_nothing_is_undone_or_shown(either: World, action: str) -> None:
    either.attach()
    words = [*unprivileged(), sys.executable, "-m", "uproxy", "capture", action, "--name"]
    done = subprocess.run([*words, either.name], capture_output=True, text=True, check=False)
    [line] = done.stderr.splitlines()
    assert (done.returncode, "CAP_" in line) == (3, True), line
    assert either.status()["state"] == "attached"


def test_the_root_of_all_cgroups_has_no_neighbors_for_a_proxy(world: World) -> None:
    words = ["--cgroup", str(cgroup_root()), "--netns", world.pod, "--mode", "ebpf"]
    done = world.capture("attach", *words, check=False)
    assert (done.returncode, "name the proxy's, --proxy-cgroup" in done.stderr) == (2, True)


def test_a_mark_of_somebody_elses_is_not_taken(world: World) -> None:
    run("ip", "-n", world.pod, "rule", "add", "fwmark", "0x70/0xff", "lookup", "main", "pref", "90")
    code, line = refused(world)
    assert (code, "--mark 0x7570: an ip rule of somebody else's (priority 90)" in line) == (1, True)
    world.attach("--mark", "0x1234")
    assert world.status()["mark"] == 0x1234


def test_a_table_of_somebody_elses_is_not_taken(world: World) -> None:
    run("ip", "-n", world.pod, "route", "add", "192.0.2.0/24", "dev", "eth0", "table", "7570")
    code, line = refused(world)
    assert (code, "--table 7570: has a route of somebody else's" in line) == (1, True)
    world.attach("--table", "7571")


def test_a_namespace_without_loopback_says_so(world: World) -> None:
    run("ip", "-n", world.pod, "link", "set", "lo", "down")
    code, line = refused(world)
    assert (code, "ip link set lo up" in line) == (1, True), line


def test_a_second_ebpf_capture_of_a_namespace_is_refused(world: World, tmp_path: Path) -> None:
    with existing(World(tmp_path, world.bpffs)) as first:
        first.attach()
        code, line = refused(world, "--netns", first.pod)
        assert (code, f"capture {first.name} has this network namespace" in line) == (1, True)


def test_a_program_that_wants_the_cgroup_for_itself_is_left_there(world: World) -> None:
    """BPF_PROG_ATTACH without BPF_F_ALLOW_MULTI, as `bpftool cgroup attach` does."""
    nothing = bytes([0xB7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])  # r0 = 1; exit
    program = bpf.load_program("theirs", (18, 10), nothing, "GPL")
    with opened(world.app) as cgroup:
        bpf._bpf(8, "4I", cgroup, program, 10, 0)  # BPF_PROG_ATTACH
        code, line = refused(world)
        assert (code, "somebody else's program is attached there" in line) == (3, True), line
        bpf._bpf(9, "4I", cgroup, program, 10, 0)  # BPF_PROG_DETACH
    os.close(program)
    world.attach()


def test_a_change_that_is_refused_in_the_middle_leaves_everything_as_it_was(world: World) -> None:
    """guard and disown have moved to the other cgroup when connect4 can't, and are put back."""
    other = world.cgroup / "other"
    other.mkdir()
    nothing = bytes([0xB7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])
    program = bpf.load_program("theirs", (18, 10), nothing, "GPL")
    world.attach("--inbound", "8080")
    before, pinned = world.dump(), pins(world)
    with world.proxy(), opened(other) as cgroup:
        bpf._bpf(8, "4I", cgroup, program, 10, 0)  # BPF_PROG_ATTACH
        done = world.attach("--cgroup", other, "--exclude", "0.0.0.0/0", check=False)
        assert "somebody else's program is attached there" in done.stderr
        bpf._bpf(9, "4I", cgroup, program, 10, 0)  # BPF_PROG_DETACH
        assert (world.dump(), pins(world)) == (before, pinned)
        assert world.status()["cgroup"] == str(world.app)
        assert world.status()["state"] == "attached"
        assert world.connect("203.0.113.9", 80)["answer"]["door"] == "outbound"
        assert world.run_app(world.pod, other, "203.0.113.9", 80)["error"] == "timeout"
        # without that program it can: what is captured moves
        world.attach("--cgroup", other)
        assert world.status()["state"] == "attached"
        seen = world.run_app(world.pod, other, "203.0.113.9", 80)
        assert seen["answer"]["door"] == "outbound"
        assert world.connect("203.0.113.9", 80)["error"] == "timeout"
    os.close(program)
    world.detach()
    other.rmdir()


def pins(world: World) -> dict[str, tuple[int, int, int] | int]:
    """The links and the maps that are pinned: links with their programs and targets."""
    found: dict[str, tuple[int, int, int] | int] = {}
    there = Pins(world.bpffs, world.name)
    for name in there.names():
        with there.open(name) as descriptor:
            assert descriptor is not None
            info = bpf.link_info(descriptor)
            is_link = name.startswith("link_")
            found[name] = (
                (info.id, info.program_id, info.target) if is_link else bpf.map_id(descriptor)
            )
    return found


def test_a_table_is_not_left_behind_in_another_namespace(world: World) -> None:
    world.attach("--mode", "nft")
    before = world.dump()
    done = world.attach("--mode", "nft", "--netns", world.host, check=False)
    assert (done.returncode, "with another --netns: detach it first" in done.stderr) == (1, True)
    assert world.dump() == before
    assert world.status()["state"] == "attached"


def test_programs_of_others_that_share_are_no_hindrance(world: World) -> None:
    nothing = bytes([0xB7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])
    program = bpf.load_program("theirs", (18, 10), nothing, "GPL")
    with opened(world.app) as cgroup:
        link = bpf.create_link(program, cgroup, 10)
        world.attach()
        with world.proxy():
            assert world.connect("203.0.113.9", 80)["answer"]["door"] == "outbound"
        world.detach()
        assert bpf.link_info(link).target == world.app.stat().st_ino
    os.close(link)
    os.close(program)


def test_what_is_attached_changes_neither_mode_nor_namespace(either: World, tmp_path: Path) -> None:
    either.attach()
    other = {"ebpf": "nft", "nft": "ebpf"}[either.mode]
    done = either.attach("--mode", other, check=False)
    assert (done.returncode, "detach it first" in done.stderr) == (1, True)
    # chosen again, it is what it was
    assert f"mode {either.mode} (as before)" in either.attach("--mode", "auto").stdout


def test_in_the_machines_own_namespace_auto_takes_nft(world: World) -> None:
    done = world.attach("--netns", "/proc/self/ns/net", "--mode", "auto", "--include", "192.0.2.99")
    assert "mode nft (eBPF would change routes and settings of the whole machine)" in done.stdout
    world.detach()
    assert world.name not in run("nft", "list", "tables")
