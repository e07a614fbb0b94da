"""A virtual machine with a Debian release, its own kernel and systemd, which runs one script.

`run("bullseye", folder, script)` boots it with `folder` mounted at /test, runs the script in bash
as root, and returns what it printed and its exit code.  Nothing stays: its disk is a copy in
memory.  The processor is emulated, so nothing in it says how fast anything is.  Needs root, to
make the disk the first time.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900.0


def run(suite: str, folder: Path, script: str) -> tuple[str, int]:
    """Run a script in the machine; return what the console showed from there, and its exit code.

    Raises:
        AssertionError: the machine ended, or was ended, without an exit code.
    """
    machine = ROOT / ".cache" / "vm" / suite
    if not (machine / "disk").exists():
        subprocess.run([".ci/vm", suite], cwd=ROOT, check=True)
    (folder / "run").write_text(f"echo uproxy-test-begins\n{script}")
    disk = folder.with_suffix(".disk")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, disk, "300M"], check=True)
    qemu = subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max",
         "-m", "1024", "-nographic", "-no-reboot", "-snapshot", "-kernel", machine / "vmlinuz",
         "-initrd", machine / "initrd", "-drive", f"file={machine}/disk,format=raw,if=virtio",
         "-drive", f"file={disk},format=raw,if=virtio", "-nic", "none", "-append",
         "root=/dev/vda rw console=ttyS0 quiet panic=-1 systemd.unit=test.target "
         "systemd.mask=serial-getty@ttyS0.service"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    _, begun, shown = qemu.stdout.partition("uproxy-test-begins")
    text, ended, code = shown.rpartition("exit:")
    assert begun, f"it didn't boot: {qemu.stdout[-2000:]}"
    assert ended, f"the script didn't end: {shown[-2000:]}"
    return text, int(code.split()[0])
