"""systemd's protocol, against a real datagram socket, real descriptors and real children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from uproxy.errors import UproxyError
from uproxy.lab.waiting import eventually
from uproxy.systemd import Notifier, PassedSockets, adopt_orphans, parse, reap, take, watch

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(10)
        yield bound


@pytest.fixture
def notifier(manager: socket.socket) -> Notifier:
    return Notifier(manager.getsockname())


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_nothing_is_offered_outside_systemd() -> None:
    offer = parse({}, 7)
    assert (offer.notify_socket, offer.watchdog_s, offer.descriptors) == (None, None, {})


def test_descriptors_come_by_their_names() -> None:
    environment = {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "api:metrics:api"}
    assert parse(environment, 7).descriptors == {"api": (3, 5), "metrics": (4,)}


def test_descriptors_without_names_are_unknown() -> None:
    assert parse({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, 7).descriptors == {"unknown": (3, 4)}


def test_descriptors_meant_for_a_parent_are_not_ours() -> None:
    assert parse({"LISTEN_PID": "6", "LISTEN_FDS": "1"}, 7).descriptors == {}
    assert parse({"LISTEN_FDS": "1"}, 7).descriptors == {}


def test_the_watchdog_counts_in_microseconds_and_for_its_process_only() -> None:
    assert parse({"WATCHDOG_USEC": "30000000"}, 7).watchdog_s == 30.0
    assert parse({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7).watchdog_s == 30.0
    assert parse({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "6"}, 7).watchdog_s is None
    assert parse({"WATCHDOG_USEC": "0"}, 7).watchdog_s is None


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "", "9" * 30, "\uff13"])
def test_a_variable_that_is_no_number_is_named(value: str) -> None:
    with pytest.raises(UproxyError, match="LISTEN_FDS = "):
        parse({"LISTEN_PID": "7", "LISTEN_FDS": value}, 7)


def test_what_is_taken_is_gone_from_the_environment() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1", "LISTEN_FDS": "0",
        "LISTEN_FDNAMES": "", "LISTEN_PID": str(os.getpid()), "PATH": "/bin",
    }  # fmt: skip
    assert take(environment).notify_socket == "/run/x"
    assert environment == {"PATH": "/bin"}


def test_a_socket_can_be_taken_again_after_its_door_was_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        listeners = PassedSockets({"api": (opened.fileno(),), "spare": (99,)})
        for _ in range(2):
            with listeners.take("api") as taken:
                assert taken.getsockname() == opened.getsockname()
                assert not taken.getblocking()
    assert listeners.unused == ("spare",)


def test_the_ports_of_all_sockets_are_known_whether_doors_use_them_or_not(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.socket(socket.AF_UNIX) as local,
        (tmp_path / "file").open("w") as file,
    ):
        local.bind(str(tmp_path / "socket"))
        local.listen()
        passed = {"api": (one.fileno(), local.fileno()), "spare": (file.fileno(), 999)}
        assert PassedSockets(passed).ports() == {one.getsockname()[1]}
        assert one.getsockname()[1]  # it is still open


def test_a_socket_that_systemd_did_not_pass_is_named() -> None:
    with pytest.raises(UproxyError, match=r"systemd:web was not passed .*there is api, spare"):
        PassedSockets({"api": (3,), "spare": (99,)}).take("web")


def test_two_sockets_of_one_name_are_refused() -> None:
    with pytest.raises(UproxyError, match="systemd:api means 2 sockets"):
        PassedSockets({"api": (3, 4)}).take("api")


def test_a_descriptor_that_is_no_listener_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        descriptor = os.dup(file.fileno())
        with pytest.raises(UproxyError, match="is no socket"):
            PassedSockets({"api": (descriptor,)}).take("api")
        os.close(descriptor)


def test_systemd_hears_readiness_and_status(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("3 doors,\nidentity\nspiffe://example.org/x")
    assert heard(manager) == ["READY=1", "STATUS=3 doors, identity spiffe://example.org/x"]
    notifier.status("idle")
    assert heard(manager) == ["STATUS=idle"]
    notifier.stopping("draining")
    assert heard(manager) == ["STOPPING=1", "STATUS=draining"]


def test_a_reload_carries_the_monotonic_time(manager: socket.socket, notifier: Notifier) -> None:
    earliest = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, stamp = heard(manager)
    assert reloading == "RELOADING=1"
    name, _, value = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert earliest <= int(value) <= time.monotonic_ns() // 1000


def test_an_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0uproxy-test-{os.getpid()}")
        Notifier(f"@uproxy-test-{os.getpid()}").alive()
        bound.settimeout(10)
        assert bound.recv(100) == b"WATCHDOG=1"


def test_without_a_manager_nothing_is_said() -> None:
    Notifier(None).ready("fine")


def test_a_manager_that_is_gone_is_logged_and_not_fatal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(str(tmp_path / "gone")).ready("fine")
    assert "systemd wasn't told READY=1" in caplog.text


async def test_the_watchdog_is_held_off_only_while_alive(
    manager: socket.socket, notifier: Notifier
) -> None:
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    alive = True
    asked = 0

    def liveness() -> bool:
        nonlocal asked
        asked += 1
        return alive

    task = asyncio.create_task(watch(notifier, 0.02, liveness))
    for _ in range(3):
        assert await asyncio.wait_for(loop.sock_recv(manager, 100), 10) == b"WATCHDOG=1"
    alive = False
    silent_from = asked
    with contextlib.suppress(BlockingIOError):  # what was said before
        while manager.recv(100):
            pass
    await eventually(lambda: asked > silent_from + 3, "liveness to be asked again")
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_ended_children_are_waited_for() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert reap() == 1
    assert reap() == 0


def test_pid_1_leaves_no_zombie(tmp_path: Path) -> None:
    """In a process namespace of its own, where this privilege is to be had."""
    unshare = ["unshare", "--fork", "--pid", "--mount-proc", "--user", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False).returncode
    ):
        pytest.skip("needs unshare(1) and user namespaces")
    script = tmp_path / "first.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, os, pathlib, sys
        import uvloop
        from uproxy.systemd import adopt_orphans

        def processes():
            return {int(p.name) for p in pathlib.Path("/proc").glob("[0-9]*")}

        async def main():
            assert adopt_orphans()
            # a child that leaves an orphan behind
            if os.fork() == 0:
                if os.fork() == 0:
                    os.execvp("sleep", ["sleep", "0.2"])
                os._exit(0)
            deadline = asyncio.get_running_loop().time() + 10
            while processes() != {1} and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
            print("left:", sorted(processes() - {1}))

        uvloop.run(main())
    """)
    )
    ran = subprocess.run(
        [*unshare, sys.executable, script],
        capture_output=True, text=True, timeout=30, check=True,
        env={**os.environ, "PYTHONPATH": str(UNITS.parent.parent)},
    )  # fmt: skip
    assert ran.stdout == "left: []\n"


def test_other_processes_leave_sigchld_alone() -> None:
    assert adopt_orphans() is False
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The shipped units as an administrator would install them, with a program that exists."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (package systemd)")
    for unit in sorted(UNITS.glob("uproxy@.*")):
        name = unit.name.replace("@.", "@orders.")
        text = unit.read_text().replace("/usr/local/bin/uproxy", "/bin/true")
        if _systemd_version() < 253:
            text = text.replace("Type=notify-reload", "Type=notify")  # as the unit tells one to
        (tmp_path / name).write_text(text)
    return sorted(tmp_path.glob("uproxy@orders.*"))


def _systemd_version() -> int:
    return int(analyze("--version").split()[1])


def analyze(*words: str | Path) -> str:
    ran = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_units_are_what_systemd_understands(units: list[Path]) -> None:
    assert [unit.suffix for unit in units] == [".service", ".socket"]
    complaints = [
        line
        for line in analyze("verify", "--man=no", "--recursive-errors=no", *units).splitlines()
        if "uproxy@" in line
    ]
    assert complaints == []


def test_the_unit_for_capture_and_its_drop_in_are_what_systemd_understands(
    units: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "captured"
    (folder / "orders.service.d").mkdir(parents=True)
    for unit in units:
        shutil.copy(unit, folder)
    capture = (UNITS / "uproxy-capture@.service").read_text()
    (folder / "uproxy-capture@orders.service").write_text(
        capture.replace("/usr/local/bin/uproxy", "/bin/true")
    )
    shutil.copy(UNITS / "captured.conf", folder / "orders.service.d")
    (folder / "orders.service").write_text("[Service]\nExecStart=/bin/true\n")
    follow = (UNITS / "uproxy-follow@.service").read_text()
    (folder / "uproxy-follow@orders.service").write_text(
        follow.replace("/usr/local/bin/uproxy", "/bin/true")
    )
    names = [
        folder / f"{name}.service"
        for name in ("orders", "uproxy-capture@orders", "uproxy-follow@orders")
    ]
    complaints = [
        line
        for line in analyze("verify", "--man=no", "--recursive-errors=no", *names).splitlines()
        if "uproxy-capture@" in line
        or "uproxy-follow@" in line
        or "captured" in line
        or "orders.service" in line
    ]
    assert complaints == []


def test_the_service_is_well_locked_in(units: list[Path]) -> None:
    report = analyze("security", "--offline=true", "--threshold=20", "--no-pager", units[0])
    assert "Overall exposure level" in report
