"""A virtual machine with a Debian release, its own kernel and systemd, which runs one script.

`run("bullseye", folder, script)` boots it with `folder` mounted at /test, runs the script in bash
as root, and returns what it printed and its exit code.  Nothing stays: its disk is a copy in
memory.  The processor is emulated, so nothing in it says how fast anything is.  Needs root, to
make the disk the first time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 1500.0


def prepare(suite: str, name: str, *packages: str) -> Path:
    """Return the folder of a machine with that release and packages, made unless it is there."""
    machine = ROOT / ".cache" / "vm" / name
    environ = {**os.environ, "UPROXY_OLD_MIRROR": "1"}
    subprocess.run([".ci/vm", suite, name, *packages], cwd=ROOT, env=environ, check=True)
    return machine


def run(suite: str, folder: Path, script: str, system: Path | None = None) -> tuple[str, int]:
    """Run a script in the machine; return what the console showed from there, and its exit code.

    With `system`, a folder from `prepare`, the disk is that machine's and only the kernel is the
    release's: its modules are in /test/modules.tar.

    Raises:
        AssertionError: the machine ended, or was ended, without an exit code.
    """
    machine = prepare(suite, suite)
    if system is not None:
        shutil.copy(machine / "modules.tar", folder)
    (folder / "run").write_text(f"echo uproxy-test-begins\n{script}")
    root, disk = (system or machine) / "disk", folder.with_suffix(".disk")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, disk, "300M"], check=True)
    console = folder.with_suffix(".console")
    with console.open("wb") as written, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max",
             "-m", "1024", "-nographic", "-no-reboot", "-snapshot", "-kernel", machine / "vmlinuz",
             "-initrd", machine / "initrd", "-drive", f"file={root},format=raw,if=virtio",
             "-drive", f"file={disk},format=raw,if=virtio", "-nic", "none", "-append",
             "root=/dev/vda rw console=ttyS0 quiet panic=-1 systemd.unit=test.target "
             "systemd.mask=serial-getty@ttyS0.service"],
            stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    all_of_it = console.read_text(errors="replace")
    _, begun, shown = all_of_it.partition("uproxy-test-begins")
    text, ended, code = shown.rpartition("exit:")
    assert begun, f"it didn't boot: {all_of_it[-2000:]}"
    assert ended, f"the script didn't end: {shown[-2000:]}"
    return text, int(code.split()[0])
