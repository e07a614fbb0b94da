"""A container of podman, as runc makes it: what runs in it is captured, by the cgroup it has."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.helpers.capture_world import HOST, HOST6, World
from uproxy.capture import places

ROOT = Path(__file__).parents[2]
BUSYBOX = Path("/bin/busybox")


class Podman:
    """Podman with runc, which makes cgroups itself; images and containers are in a folder of the
    test."""

    def __init__(self, folder: Path) -> None:
        self._argv = [
            "podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run"),
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc",
            "--events-backend", "none", "--log-level", "error",
        ]  # fmt: skip

    def __call__(self, *words: str, stdin: IO[bytes] | None = None) -> str:
        done = subprocess.run(
            [*self._argv, *words], stdin=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """Podman with the image `localhost/busybox`, which has nothing but that."""
    subprocess.run([".ci/packages", "busybox-static", "podman", "runc"], cwd=ROOT, check=True)
    # podman takes no path of more than 50 characters, which pytest's own have
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    made = Podman(folder)
    archive = folder / "root.tar"
    with tarfile.open(archive, "w") as root:
        root.add(BUSYBOX, "bin/busybox")
    with archive.open("rb") as stdin:
        made("import", "-", "localhost/busybox", stdin=stdin)
    yield made
    shutil.rmtree(folder)


@contextlib.contextmanager
def container(podman: Podman, world: World) -> Iterator[str]:
    """Run a container that waits, in the pod's network namespace; yield its first process."""
    podman("run", "--detach", "--name", world.name, f"--network=ns:/run/netns/{world.pod}",
           "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "localhost/busybox",
           "/bin/busybox", "sleep", "1000")  # fmt: skip
    try:
        yield podman("inspect", "--format={{.State.Pid}}", world.name)
    finally:
        podman("rm", "--force", "--time=0", world.name)


def cgroup_of(pid: str) -> Path:
    """Return the unified cgroup of a process."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            return places.cgroup_root() / path.lstrip("/")
    raise AssertionError(f"process {pid} has no unified cgroup")


@pytest.mark.timeout(300)
def test_a_container_is_captured_without_knowing(podman: Podman, either: World) -> None:
    def fetch(address: str) -> str:
        words = ["/bin/busybox", "sh", "-c", f"/bin/busybox nc -w 5 {address} 80 </dev/null"]
        return podman("exec", either.name, *words)

    with either.server(either.host, 80), container(podman, either) as pid:
        assert fetch(HOST) == "real"
        either.capture(
            "attach", "--cgroup", cgroup_of(pid), "--netns", f"/proc/{pid}/ns/net",
            "--proxy-cgroup", either.proxy_cgroup, "--bpffs", either.bpffs, "--mode", either.mode,
        )  # fmt: skip
        with either.proxy():
            for address in (HOST, HOST6):
                assert json.loads(fetch(address))["original"] == [address, 80]
            # what isn't in the container isn't captured
            assert either.connect(HOST, 80)["answer"] == "real"
        assert either.status()["state"] == "attached"
        either.detach()
        assert fetch(HOST) == "real"
