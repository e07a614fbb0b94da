"""The command ends, is killed or is refused: what is there is whole, or can be undone whole."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import capture_crowd, capture_killed
from tests.helpers.capture_world import HOST, HOST6, POD, POD6, SECOND, World, run
from uproxy.capture import record
from uproxy.lab.waiting import wait_until

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
        world.pod, "--bpffs", world.bpffs, "--mode", world.mode, *INBOUND,
    ]  # fmt: skip


def test_attach_and_detach_leave_nothing_behind(either: World) -> None:
    before = either.dump()
    for _ in range(2):
        either.attach(*INBOUND)
        either.attach(*INBOUND)  # again: nothing happens
        assert either.dump() != before
        either.detach()
        assert either.dump() == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_times_while_connections_are_made_all_the_time(either: World) -> None:
    """Each reaches the proxy or, when nothing is captured, whom it was made to."""
    before = either.dump()
    words = [sys.executable, capture_crowd.__file__, "dial", "1", f"{HOST},{SECOND},{HOST6}", "80"]
    argv = either.inside(either.pod, either.app, *words)
    pipe = subprocess.PIPE
    with (
        either.proxy(),
        either.server(either.host, 80),
        subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as crowd,
    ):
        for number in range(200):
            either.attach(*INBOUND)
            either.capture("detach", "--drain", "5")
            assert number % 20 or either.dump() == before
        account = json.loads(crowd.communicate("enough\n")[0])
    assert either.dump() == before
    assert set(account) == {"proxy", "real"}
    assert min(account.values()) > 200


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_while_it_is_attached_again_and_again_no_connection_goes_around_it(either: World) -> None:
    words = [sys.executable, capture_crowd.__file__, "dial", "1", f"{HOST},{SECOND},{HOST6}", "80"]
    argv = either.inside(either.pod, either.app, *words)
    pipe = subprocess.PIPE
    with either.proxy(), either.server(either.host, 80):
        either.attach()
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as crowd:
            for number in range(20):
                either.attach(*(INBOUND if number % 2 else ("--include", "10.99.0.0/24,fd99::/64")))
            account = json.loads(crowd.communicate("enough\n")[0])
    assert set(account) == {"proxy"}
    assert account["proxy"] > 200


@pytest.mark.timeout(300)
def test_while_it_gets_another_proxy_no_connection_goes_around_both(either: World) -> None:
    while_it_gets_another_proxy(either, "--inbound", "8080")


@pytest.mark.timeout(300)
def test_nor_where_it_may_when_there_is_no_proxy(world: World) -> None:
    while_it_gets_another_proxy(world, "--fail-open")


def while_it_gets_another_proxy(world: World, *options: str) -> None:
    """Two listen all along, at ports of their own."""
    words = [sys.executable, capture_crowd.__file__, "dial", "1", f"{HOST},{SECOND},{HOST6}", "80"]
    argv = world.inside(world.pod, world.app, *words)
    pipe = subprocess.PIPE
    others = ("--outbound-port", "15011", "--inbound-port", "15016")
    with world.proxy(), world.proxy(15011, 15016), world.server(world.host, 80):
        world.attach(*options)
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as crowd:
            for number in range(20):
                world.attach(*options, *(() if number % 2 else others))
            account = json.loads(crowd.communicate("enough\n")[0])
    assert set(account) == {"proxy"}
    assert account["proxy"] > 200


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
def test_killed_while_changing_a_policy_it_goes_on_capturing(either: World, every: int) -> None:
    before = either.dump()
    step = 1
    with either.proxy(), either.server(either.host, 80):
        either.attach()
        while killed(either, step, *attaching(either)):
            assert either.connect(HOST, 80)["answer"]["door"] == "outbound", step
            step += every
        assert step > (10 if either.mode == "ebpf" else 1)
        assert either.status()["state"] == "attached"
    either.detach()
    assert either.dump() == before


@pytest.mark.timeout(300)
def test_killed_while_detaching_the_next_detach_finishes(either: World) -> None:
    before = either.dump()
    step = 1
    while True:
        either.attach(*INBOUND)
        if not killed(either, step, "detach"):
            break
        either.detach()
        assert either.dump() == before, step
        step += 1
    assert step > (5 if either.mode == "ebpf" else 1)
    assert either.dump() == before


def test_a_policy_is_changed_while_a_connection_lives(either: World) -> None:
    either.attach()
    with either.proxy(), either.server(either.host, 81), talking(either, 80) as app:
        either.attach("--exclude", f"{HOST}/32")
        assert either.connect(HOST, 81)["answer"] == "real"
        assert asked(app, "still here") == "still here"
        either.attach("--include", "443", "--exclude", "10.0.0.0/8")
        assert asked(app, "and here") == "and here"


@contextlib.contextmanager
def talking(
    world: World, port: int, address: str = HOST, door: str = "outbound"
) -> Iterator[subprocess.Popen[str]]:
    """An application, or for the inbound door somebody on the host, with a captured connection,
    which is open."""
    here = (world.pod, world.app) if door == "outbound" else (world.host, world.cgroup / "..")
    program = SCRIPT.parent / "capture_app.py"
    argv = world.inside(*here, sys.executable, program, address, str(port), "hold")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        assert f'"door": "{door}"' in app.stdout.readline()
        yield app
        assert app.stdin is not None
        app.stdin.close()


def asked(app: subprocess.Popen[str], words: str) -> str:
    """What comes back on an application's connection, or the error."""
    assert app.stdin is not None
    assert app.stdout is not None
    app.stdin.write(f"{words}\n")
    app.stdin.flush()
    return app.stdout.readline().strip()


def sent(world: World) -> int:
    """The number of TCP segments that have reached the host, to which the application talks."""
    snmp = run("ip", "netns", "exec", world.host, "cat", "/proc/net/snmp").splitlines()
    names, values = (line.split() for line in snmp if line.startswith("Tcp:"))
    return int(values[names.index("InSegs")])


@pytest.mark.parametrize("drain", ["0", "0.3"])
@pytest.mark.parametrize("address", [HOST, HOST6])
@pytest.mark.parametrize("is_lost", [False, True], ids=["on-record", "lost"])
def test_detach_resets_what_it_cannot_let_go_on(
    either: World, drain: str, address: str, *, is_lost: bool
) -> None:
    """Without the route, or the table, an open connection's bytes would go out in clear."""
    before = either.dump()
    either.attach()
    with either.proxy(), talking(either, 80, address) as app:
        assert asked(app, "hello") == "hello"
        before_sent = sent(either)
        if is_lost:
            (record.FOLDER / f"{either.name}.json").unlink()
        either.capture("detach", "--drain", drain, "--bpffs", either.bpffs)
        assert asked(app, "secret") in ("ECONNABORTED", "ECONNRESET", "EPIPE")
        assert sent(either) == before_sent
    assert either.dump() == before


@pytest.mark.parametrize("address", [POD, POD6])
def test_detach_leaves_no_caller_waiting(either: World, address: str) -> None:
    """With eBPF the proxy goes on with whom it has accepted; nft's translation has gone."""
    either.attach("--inbound", "8080")
    with either.proxy(), talking(either, 8080, address, "inbound") as caller:
        assert asked(caller, "hello") == "hello"
        either.capture("detach", "--drain", "0")
        expected = {"ebpf": "on", "nft": "ECONNRESET"}[either.mode]
        assert asked(caller, "on") == expected


def test_after_a_detach_nobody_inherits_a_translation(either: World) -> None:
    """conntrack remembers a connection for minutes, whoever connects from its port then."""
    either.attach("--inbound", "8080")
    with either.proxy(), talking(either, 80) as app:
        assert either.call(POD6, 8080)["answer"]["door"] == "inbound"
        assert asked(app, "hello") == "hello"
        either.capture("detach", "--drain", "0")
    known = run("ip", "netns", "exec", either.pod, "cat", "/proc/net/nf_conntrack")
    assert [each for each in known.splitlines() if "port=1500" in each] == []


def test_detach_waits_for_what_is_about_to_end(either: World) -> None:
    either.attach()
    with either.proxy(), talking(either, 80) as app:
        argv = [sys.executable, "-m", "uproxy", "capture", "detach", "--name", either.name,
                "--drain", "20"]  # fmt: skip
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as detaching:
            wait_until(lambda: either.status()["state"] == "stale", "the hooks to be off")
            assert asked(app, "still here") == "still here"
            assert app.stdin is not None
            app.stdin.close()
            assert detaching.wait(10) == 0
