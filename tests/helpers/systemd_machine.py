"""A real systemd as process 1, in namespaces of its own: a few seconds, and nothing of it stays.

`with booted(folder) as machine` boots it; `machine.run("systemctl", …)` runs a program inside;
`machine.root` is its root directory, as seen from here.  Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

PROJECT = Path(__file__).parents[2]
_SCRIPT = Path(__file__).with_suffix(".sh")

_UPROXY = """\
#!/bin/sh
export PYTHONPATH=/opt/uproxy/project:/opt/uproxy/venv/lib/{python}/site-packages
export PYTHONDONTWRITEBYTECODE=1
exec /opt/uproxy/python/bin/{python} -m uproxy "$@"
"""
"""What `pip install` would put there."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A systemd that runs."""

    pid: int
    """Of its process 1, out here."""

    @property
    def root(self) -> Path:
        """Its root directory."""
        return Path(f"/proc/{self.pid}/root")

    def run(self, *argv: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program inside; its output is in `stdout`."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--ipc", "--net", "--uts",
                  "--cgroup", "--root", "--wd=/"]  # fmt: skip
        return subprocess.run(
            [*inside, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=timeout, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip

    def systemctl(self, *words: str, timeout: float = 60.0) -> str:
        """What `systemctl` says, which must succeed."""
        ran = self.run("systemctl", *words, timeout=timeout)
        journal = "" if ran.returncode == 0 else self.run("journalctl", "--no-pager").stdout
        assert ran.returncode == 0, f"systemctl {words}: {ran.stdout}\n{journal}"
        return ran.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def version(self) -> int:
        """Of systemd."""
        return int(self.systemctl("--version").split()[1])


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Boot, with `uproxy` as /usr/local/bin/uproxy."""
    if not _is_possible():
        pytest.skip("needs root, systemd, and unshare and nsenter of util-linux")
    folder.mkdir()
    argv: list[str | Path] = [
        "unshare", "--mount", _SCRIPT, folder, sys.base_prefix, sys.prefix, PROJECT,
    ]  # fmt: skip
    with Process(argv, folder.with_suffix(".log")) as process:
        pid = wait_until(lambda: _first_process(process), "systemd to be process 1", 30.0) or 0
        machine = Machine(pid)
        program = machine.root / "usr/local/bin/uproxy"
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        program.write_text(_UPROXY.format(python=python))
        program.chmod(0o755)
        wait_until(lambda: _is_up(machine), "systemd to have booted", 60.0)
        try:
            yield machine
        finally:
            os.kill(pid, signal.SIGKILL)  # and everything in its namespace goes
            process.wait(30.0)


def _is_possible() -> bool:
    if None in (shutil.which("unshare"), shutil.which("nsenter")):
        return False
    there = Path("/usr/lib/systemd/systemd").exists()
    return there and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


def _is_up(machine: Machine) -> bool:
    return machine.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")


def _first_process(process: Process) -> int | None:
    """The process that is 1 in a namespace below `process`, once it is systemd."""
    assert process.running, process.output
    pids = [process.pid]
    while pids:
        pid = pids.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            if numbers.split()[-1] == "1" and Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                return pid
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return None
