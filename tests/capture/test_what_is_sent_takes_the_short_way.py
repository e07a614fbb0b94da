"""What a captured application sends skips TCP, and nothing else is different for it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.capture.test_a_uproxy_takes_what_capture_brings import APP, uproxy
from tests.helpers import capture_shortcut
from tests.helpers.capture_world import ELSEWHERE, ELSEWHERE6, HOST, OUT, POD, POD6, World
from uproxy.capture import rehearsal
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

SCRIPT = Path(capture_shortcut.__file__)
DESPITE = ",".join(rehearsal.Flaw)
SHORT = ("--short-circuit", DESPITE)
"""What this kernel gets wrong is what the self-test is for; here it's about all the rest."""


class Short:
    """A world in which a proxy runs and connections to it are short-circuited."""

    def __init__(self, world: World, log: Path) -> None:
        self.world = world
        self.log = log

    def do(self, task: str, *words: str | Path, to: str = ELSEWHERE) -> Any:
        """Let the application do something; return what it says."""
        done = subprocess.run(
            self.argv(task, to, "80", *words), capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def argv(self, *words: str | Path) -> list[str]:
        return self.world.inside(self.world.pod, self.world.app, sys.executable, SCRIPT, *words)

    @contextlib.contextmanager
    def holding(self) -> Iterator[subprocess.Popen[str]]:
        """An application with a connection, which is open."""
        argv = self.argv("hold", ELSEWHERE, "80")
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as app:
            assert app.stdout is not None
            assert app.stdout.readline() == "connected\n"
            yield app
            assert app.stdin is not None
            app.stdin.close()

    def ended(self, words: str) -> None:
        """Wait until the proxy has said that about a connection."""
        wait_until(lambda: words in self.log.read_text(), f"the proxy to say {words!r}")

    @property
    def handed_over(self) -> int:
        return int(self.world.status()["stats"]["handed_over"])

    @property
    def left_to_tcp(self) -> int:
        return int(self.world.status()["stats"]["left_to_tcp"])


@pytest.fixture
def proxied(world: World) -> Iterator[Short]:
    argv = world.inside(
        world.pod, world.proxy_cgroup, "env", f"PYTHONPATH={SCRIPT.parents[2]}", sys.executable,
        SCRIPT, "serve", str(OUT),
    )  # fmt: skip
    log = world.folder / "short-proxy.log"
    with Process(argv, log):
        wait_until(lambda: "ready" in log.read_text(), "the proxy to listen")
        yield Short(world, log)


@pytest.fixture
def short(proxied: Short) -> Short:
    proxied.world.attach(*SHORT)
    return proxied


def asked(app: subprocess.Popen[str], words: str) -> str:
    assert app.stdin is not None
    assert app.stdout is not None
    app.stdin.write(f"{words}\n")
    app.stdin.flush()
    return app.stdout.readline().strip()


@pytest.mark.parametrize("to", [ELSEWHERE, ELSEWHERE6, f"::ffff:{ELSEWHERE}"])
def test_big_transfers_arrive_whole(short: Short, to: str) -> None:
    assert short.do("big", to=to) is True
    assert short.handed_over > 0


def test_small_writes_arrive_in_order(short: Short) -> None:
    assert short.do("small") is True
    assert short.handed_over > 10
    assert short.handed_over + short.left_to_tcp > capture_shortcut.MANY


def test_what_was_sent_before_both_ends_were_known_stays_first(short: Short) -> None:
    assert short.do("early") is True
    assert short.handed_over > 0


def test_what_is_not_tcp_alone_stays_as_it_is(short: Short) -> None:
    assert short.do("several") is True  # MPTCP
    assert short.handed_over == 0


def test_what_it_is_sent_comes_by_tcp(short: Short) -> None:
    assert short.do("take") == [True, True]
    assert short.handed_over == 1


def test_a_writer_waits_for_a_slow_reader_and_nothing_is_lost(short: Short) -> None:
    fifo = short.world.folder / "go"
    os.mkfifo(fifo)
    taken, is_whole = short.do("slow", fifo)
    assert is_whole
    assert taken < capture_shortcut.SLOW
    assert short.handed_over > 0
    assert short.left_to_tcp > 0


def test_it_may_go_on_writing_when_the_proxy_has_ended(short: Short) -> None:
    said, wanted = short.do("left")
    assert said == "bye"
    short.ended(f"leave {wanted}")


def test_after_its_own_end_it_may_not_write(short: Short) -> None:
    assert short.do("late") == "EPIPE"


def test_resets_are_noticed_on_both_sides(short: Short) -> None:
    assert short.do("reset") == "ECONNRESET"
    assert short.do("resets") == "reset"
    short.ended("leave ECONNRESET")


def test_the_proxy_is_told_what_waits(short: Short) -> None:
    is_announced, _, count = short.do("counted").split()
    assert (is_announced, count) == ("True", "10")
    assert short.handed_over == 2


@pytest.mark.absent_kernel
def test_tls_in_the_kernel_is_not_skipped(short: Short) -> None:
    if short.do("layered") != "sent":
        pytest.skip("this kernel has no TLS")
    short.ended("raw 17")  # the type of a record: application data


def test_what_was_connected_before_stays_as_it_is(proxied: Short) -> None:
    proxied.world.attach()
    with proxied.holding() as app:
        proxied.world.attach(*SHORT)
        assert asked(app, "still here") == "still here"
        assert proxied.handed_over == 0
        assert proxied.do("small") is True
        assert proxied.handed_over > 0


def test_attached_again_it_goes_on(short: Short) -> None:
    with short.holding() as app:
        for number in range(5):
            short.world.attach(*SHORT)
            assert asked(app, f"round {number}") == f"round {number}"
        assert short.handed_over >= 5
        short.world.attach()
        before = short.handed_over
        assert asked(app, "by TCP") == "by TCP"
        assert short.do("big") is True
        assert short.handed_over == before
        assert short.world.status()["short_circuit"] is False
        short.world.attach(*SHORT)
        assert asked(app, "and back") == "and back"
        assert short.do("big") is True
        assert short.handed_over > before


def in_the_kernel() -> set[str]:
    """The programs of this name that the kernel has compiled, each with its address."""
    symbols = Path("/proc/kallsyms").read_text().splitlines()
    return {each for each in symbols if each.endswith("_carry\t[bpf]")}


def test_detach_resets_what_is_open_and_leaves_nothing(world: World, proxied: Short) -> None:
    before, programs = world.dump(), in_the_kernel()
    world.attach(*SHORT)
    with proxied.holding() as app:
        assert in_the_kernel() > programs
        assert asked(app, "hello") == "hello"
        world.capture("detach", "--drain", "0")
        assert asked(app, "gone") in ("ECONNABORTED", "ECONNRESET", "EPIPE")
    assert world.dump() == before
    wait_until(lambda: in_the_kernel() <= programs, "the maps to go, and their program")


def test_status_tells_of_it(short: Short) -> None:
    shown = short.world.status()
    assert shown["short_circuit"] is True
    assert shown["short_circuit_despite"] == DESPITE.split(",")
    assert shown["state"] == "attached"
    assert f"short-circuit despite {' and '.join(DESPITE.split(','))}" in (
        short.world.capture("status").stdout
    )


def test_its_programs_are_missed(short: Short) -> None:
    (short.world.bpffs / "uproxy" / short.world.name / "link_meet_workload").unlink()
    shown = short.world.status()
    assert shown["state"] == "stale"
    assert "meet_workload isn't attached" in shown["reasons"][0]


def test_what_this_kernel_gets_wrong_must_be_accepted(world: World) -> None:
    before = world.dump()
    done = world.attach("--short-circuit", check=False)
    if done.returncode == 0:  # a kernel without a fault
        assert world.status()["short_circuit_despite"] == []
        return
    [said] = done.stderr.splitlines()
    assert "fails the self-test" in said
    assert world.dump() == before
    assert not world.captured()
    world.attach("--short-circuit", said.rpartition(" ")[2])


@pytest.mark.timeout(300)
def test_killed_at_any_point_all_can_be_undone(world: World) -> None:
    before = world.dump()
    step, states = 1, set()
    while True:
        argv: list[str | Path] = [
            sys.executable, SCRIPT.parent / "capture_killed.py", str(step), "capture", "attach",
            "--name", world.name, "--cgroup", world.app, "--proxy-cgroup", world.proxy_cgroup,
            "--netns", world.pod, "--bpffs", world.bpffs, "--mode", "ebpf", *SHORT,
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if world.captured():
            states.add(world.status()["state"])
            world.detach()
        assert world.dump() == before, step
        if done.returncode == 0:
            break
        step += 5
    assert states == {"half-made", "attached"}


@pytest.mark.parametrize("to", [POD, POD6])
def test_the_application_is_not_reached_by_it_from_its_callers_address(
    world: World, to: str
) -> None:
    """The proxy's connection to the application has the mark of captured ones on both ends then."""
    world.attach(*SHORT, "--inbound", str(APP))
    log = world.folder / "application.log"
    serve = ("env", f"PYTHONPATH={SCRIPT.parents[2]}", sys.executable, SCRIPT, "serve", str(APP))
    argv = world.inside(world.host, world.cgroup / "..", sys.executable, SCRIPT, "small", to)
    with (
        Process(world.inside(world.pod, world.app, *serve), log),
        uproxy(world, "native", preserve_source=True),
    ):
        wait_until(lambda: "ready" in log.read_text(), "the application to listen")
        done = subprocess.run(
            [*argv, str(APP)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout == "true\n", done.stderr
        stats = world.status()["stats"]
        assert stats["inbound"] > 0
        assert (stats["handed_over"], stats["left_to_tcp"]) == (0, 0)


def test_nft_can_not_do_it(world: World) -> None:
    done = world.attach("--mode", "nft", *SHORT, check=False)
    assert done.stderr == "uproxy: error: --short-circuit needs --mode ebpf\n"


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_real_uproxy_relays_all_of_it(world: World, engine: str) -> None:
    log = world.folder / "served.log"
    argv = world.inside(
        world.host, world.cgroup / "..", "env", f"PYTHONPATH={SCRIPT.parents[2]}", sys.executable,
        SCRIPT, "serve", "80",
    )  # fmt: skip
    world.attach(*SHORT)
    with Process(argv, log), uproxy(world, engine):
        wait_until(lambda: "ready" in log.read_text(), "the server to listen")
        short = Short(world, log)
        for task in ("big", "small", "early"):
            assert short.do(task, to=HOST) is True
        said, wanted = short.do("left", to=HOST)
        assert said == "bye"
        short.ended(f"leave {wanted}")
        assert short.do("reset", to=HOST) == "ECONNRESET"
        assert short.handed_over > 0
