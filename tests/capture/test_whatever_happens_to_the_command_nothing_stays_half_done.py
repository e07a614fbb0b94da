"""The command ends, is killed or is refused: what is there is whole, or can be undone whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import capture_killed
from tests.helpers.capture_world import HOST, World, run

SCRIPT = Path(capture_killed.__file__)
INBOUND = ("--inbound", "8080", "--exclude", "192.0.2.0/24,9999")


def killed(world: World, step: int, *words: str | Path) -> bool:
    """Whether the command was killed before change number `step`; else it has succeeded."""
    argv = [sys.executable, SCRIPT, str(step), "capture", *words, "--name", world.name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def attaching(world: World) -> list[str | Path]:
    return [
        "attach", "--cgroup", world.app, "--proxy-cgroup", world.proxy_cgroup, "--netns",
        world.pod, "--bpffs", world.bpffs, *INBOUND,
    ]  # fmt: skip


def test_attach_and_detach_leave_nothing_behind(world: World) -> None:
    before = world.dump()
    for _ in range(2):
        world.attach(*INBOUND)
        world.attach(*INBOUND)  # again: nothing happens
        assert world.dump() != before
        world.detach()
        assert world.dump() == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_times(world: World) -> None:
    before = world.dump()
    for number in range(200):
        world.attach(*INBOUND)
        world.detach()
        assert number % 20 or world.dump() == before
    assert world.dump() == before


def test_settings_from_before_come_back(world: World) -> None:
    name = "net.ipv4.tcp_fwmark_accept"
    run("ip", "netns", "exec", world.pod, "sysctl", "-w", f"{name}=1")
    before = world.dump()
    world.attach()
    world.detach()
    assert world.dump() == before


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_killed_while_attaching_it_captures_all_or_nothing(world: World, every: int) -> None:
    before = world.dump()
    step, states = 1, set()
    with world.proxy(), world.server(world.host, 80):
        while killed(world, step, *attaching(world)):
            answer = world.connect(HOST, 80)["answer"]
            captured = answer != "real"
            # before the first change nothing is written down
            state = world.status()["state"] if world.captured() else "absent"
            assert captured == (state == "attached"), (step, state, answer)
            states.add(state)
            if step % 2:
                world.attach(*INBOUND)
                assert world.connect(HOST, 80)["answer"]["door"] == "outbound"
            if world.captured():
                world.detach()
            assert world.dump() == before, step
            step += every
    assert step > 10
    assert "half-made" in states


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_killed_while_changing_a_policy_it_goes_on_capturing(world: World, every: int) -> None:
    before = world.dump()
    step = 1
    with world.proxy(), world.server(world.host, 80):
        world.attach()
        while killed(world, step, *attaching(world)):
            assert world.connect(HOST, 80)["answer"]["door"] == "outbound", step
            step += every
        assert step > 10
        assert world.status()["state"] == "attached"
    world.detach()
    assert world.dump() == before


@pytest.mark.timeout(300)
def test_killed_while_detaching_the_next_detach_finishes(world: World) -> None:
    before = world.dump()
    step = 1
    while True:
        world.attach(*INBOUND)
        if not killed(world, step, "detach"):
            break
        world.detach()
        assert world.dump() == before, step
        step += 1
    assert step > 5
    assert world.dump() == before


def test_a_policy_is_changed_while_a_connection_lives(world: World) -> None:
    world.attach()
    with world.proxy(), world.server(world.host, 81):
        argv = world.inside(
            world.pod, world.app, sys.executable, SCRIPT.parent / "capture_app.py", HOST, "80",
            "hold",
        )  # fmt: skip
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as app:
            assert app.stdin is not None
            assert app.stdout is not None
            assert '"door": "outbound"' in app.stdout.readline()
            world.attach("--exclude", f"{HOST}/32")
            assert world.connect(HOST, 81)["answer"] == "real"
            app.stdin.write("still here\n")
            app.stdin.flush()
            assert app.stdout.readline() == "still here\n"
            world.attach("--include", "443", "--exclude", "10.0.0.0/8")
            app.stdin.close()
