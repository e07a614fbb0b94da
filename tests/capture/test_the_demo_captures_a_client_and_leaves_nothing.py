"""`uproxy demo --capture`: what it shows, and that nothing is left however it ends."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.demos import Demo
from uproxy.capture import record
from uproxy.capture.control import DEFAULT_BPFFS
from uproxy.capture.pins import pinned
from uproxy.capture.places import cgroup_root
from uproxy.demo.capture_act import CaptureAct
from uproxy.demo.pods import ORDERS, Pods
from uproxy.demo.processes import ProgramCommand, output_of
from uproxy.demo.screen import Screen
from uproxy.demo.world import DemoWorld
from uproxy.errors import UproxyError
from uproxy.lab.waiting import wait_until

SERVICE = "http://10.75.0.3:8080/"
EXPECTED = (
    f"✓ before: curl gets {SERVICE} in clear",
    "the service saw 10.75.0.2, the client",
    "✓ capture is attached to the client's cgroup",
    "is attached, mode ebpf",
    f"✓ captured: the same curl gets {SERVICE} through the mesh",
    "original dest.  10.75.0.3:8080, say the access logs of both uProxies",
    "who called      spiffe://example.org/ns/web/sa/frontend",
    "who answered    spiffe://example.org/ns/db/sa/orders",
    "the service saw 10.75.0.3, its own uProxy",
    "✓ its uProxy has ended: the client is refused, and nothing goes around",
    "it saw          curl: (7) ",
    "✓ capture is detached, and nothing is left of it",
    f"✓ afterwards: curl gets {SERVICE} in clear",
)


def left(name: str = "uproxy-demo-") -> list[str]:
    """Return cgroups, records and pins of demonstrations."""
    names = [each.name for each in (*cgroup_root().iterdir(), *pinned(DEFAULT_BPFFS))]
    return [each for each in (*names, *record.names(record.FOLDER)) if each.startswith(name)]


def test_it_shows_what_it_says_and_nothing_is_left() -> None:
    with Demo("--once", "--capture") as demo:
        assert demo.wait() == 0, demo.output
        assert [line for line in EXPECTED if line not in demo.output] == []
        assert "9  Look around" in demo.output
        assert max(map(len, demo.output.splitlines())) <= 100
        assert demo.leftovers() == []
        assert left(f"uproxy-demo-{demo.process.pid}") == []


@pytest.mark.parametrize("is_mounted", [False, True])
def test_a_bpffs_is_mounted_for_as_long_as_it_runs_where_there_is_none(*, is_mounted: bool) -> None:
    demo = f"{sys.executable} -m uproxy demo --once --capture"
    script = f"""
    ! mountpoint -q {DEFAULT_BPFFS} || umount --lazy {DEFAULT_BPFFS}
    {f"mount -t bpf bpf {DEFAULT_BPFFS} || exit 77" if is_mounted else ""}
    {demo} || exit
    mountpoint -q {DEFAULT_BPFFS} && echo still mounted
    exit 0
    """
    argv = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("still mounted\n") == is_mounted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_a_signal_while_it_captures_leaves_nothing(number: signal.Signals) -> None:
    with Demo("--capture") as demo:
        demo.wait_for("is attached, mode ebpf")
        name = f"uproxy-demo-{demo.process.pid}"
        demo.process.send_signal(number)
        assert demo.wait() in (128 + number, -number)
        # who was killed can't wait until everything is taken down
        wait_until(lambda: left(name) == [], "nothing of it is left")
        if number is signal.SIGINT:
            assert demo.leftovers() == []


def test_who_may_make_no_namespaces_gets_one_line() -> None:
    argv = ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-m", "uproxy"]
    done = subprocess.run([*argv, "demo", "--capture"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"uproxy: error: demo --capture .* must be root.*\n", done.stderr)


class Leaky(CaptureAct):
    """The client's uProxy is still there when it should have ended."""

    async def _lose_proxy(self) -> None:
        self._proxy = self._proxy.pop_all()
        kept = self._proxy.pop_all()
        self._world.on_exit(kept.aclose)
        await super()._lose_proxy()


class Untidy(CaptureAct):
    """Somebody adds a rule to the pod meanwhile."""

    async def _lose_proxy(self) -> None:
        words = ("ip", "rule", "add", "fwmark", "7", "lookup", "77")
        command = ProgramCommand("ip", self._pods.frontend.command(*words))
        await output_of(command, self._world.folder)
        await super()._lose_proxy()


@pytest.mark.parametrize(
    ("act", "why"),
    [(Leaky, "without its uProxy the client got"), (Untidy, "detach left .*fwmark 0x7")],
)
async def test_what_is_not_so_ends_it(act: type[CaptureAct], why: str) -> None:
    async with DemoWorld() as world:
        await world.start_authority()
        with pytest.raises(UproxyError, match=why):
            await act(world, Screen(io.StringIO(), {})).tell()
    assert left(f"uproxy-demo-{os.getpid()}") == []


async def test_pods_that_are_there_already_are_told_in_one_line(tmp_path: Path) -> None:
    async with Pods(tmp_path) as pods:
        await pods.wait_until_ready()
        assert pods.cgroup(ORDERS).is_dir()
        async with Pods(tmp_path) as others:
            with pytest.raises(UproxyError, match=r"the pods can't be made: .* file exists"):
                await others.wait_until_ready()
