"""`deploy/container`: the image, on a base that is given, run as Kubernetes would run it.

As any user, with a root that is read-only, without a capability, as process 1.  And the pod's
manifest, as far as podman understands it: it makes the containers.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import traffic
from tests.helpers.pair import Pair
from tests.helpers.standalone import standalone
from uproxy.config import load

pytestmark = [pytest.mark.slow, pytest.mark.privileged, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deploy" / "container"
ANYBODY = "54321:54322"


class Podman:
    """Podman, with its images and containers in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.argv = ["unshare", "--mount", str(ROOT / "tests/helpers/podman.sh"), str(folder)]

    def __call__(self, *words: str | Path, stdin: Any = subprocess.DEVNULL) -> str:
        done = subprocess.run(
            [*self.argv, *words], stdin=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """Podman, with the image `localhost/uproxy`."""
    subprocess.run([".ci/packages", "podman", "crun", "mmdebstrap"], cwd=ROOT, check=True)
    # podman takes no path of more than 50 characters, which pytest's own have
    podman = Podman(Path(tempfile.mkdtemp(prefix="podman-")))
    base = ROOT / ".cache" / "root-container"
    if not (base / "etc").exists():
        subprocess.run([".ci/root", "bookworm", base], cwd=ROOT, check=True)
    with subprocess.Popen(["tar", "-c", "-C", base, "."], stdout=subprocess.PIPE) as archive:
        podman("import", "-", "localhost/base", stdin=archive.stdout)
    assert archive.returncode == 0
    podman("build", "--build-arg", "BASE=localhost/base", "-t", "localhost/uproxy",
           "-f", CONTAINER / "Containerfile", standalone())  # fmt: skip
    yield podman
    shutil.rmtree(podman.folder)  # a copy of the base for each layer


async def test_it_carries_bytes_and_sigterm_ends_it_with_0(podman: Podman, tmp_path: Path) -> None:
    async with traffic.serving(traffic.echo) as application:
        pair = Pair(tmp_path, {"echo": application})
        make_readable(tmp_path)
        pair.orders.argv[:3] = [
            *podman.argv, "run", "--rm", "--name=orders", "--network=host", "--cgroups=disabled",
            "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--read-only",
            "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges",
            f"--user={ANYBODY}", f"--volume={tmp_path}:{tmp_path}:ro", "localhost/uproxy",
        ]  # fmt: skip
        with pair:
            reader, writer = await asyncio.open_connection("127.0.0.1", pair.port("echo"))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()
            status = process_status(podman)
            assert status["NSpid"].split()[-1] == "1"
            assert status["Uid"].split() == ["54321"] * 4
            assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
            assert status["NoNewPrivs"] == "1"
            pair.orders.send(signal.SIGTERM)
            # beside the loop, on which the application closes its connection
            assert await asyncio.to_thread(pair.orders.wait, 30.0) == 0


def make_readable(folder: Path) -> None:
    """For anybody, as a volume of Kubernetes is for its pod."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def process_status(podman: Podman) -> dict[str, str]:
    """What the kernel says of the container's first process."""
    pid = podman("inspect", "--format={{.State.Pid}}", "orders").strip()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_pod_has_its_uproxy_as_a_native_sidecar_that_may_do_nothing(
    podman: Podman, tmp_path: Path
) -> None:
    podman("tag", "localhost/uproxy", "localhost/orders")
    text = (CONTAINER / "pod.yaml").read_text()
    config, pod = yaml.safe_load_all(text)
    (sidecar,) = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"  # what makes it a sidecar
    settings = load(config["data"]["uproxy.yaml"], environ={}, overrides=(), folder="/")
    assert pod["spec"]["terminationGracePeriodSeconds"] > settings.timeouts.drain
    # podman has no sidecars, no probes of init containers, and here no network to map ports in
    del sidecar["ports"]
    pod["spec"]["containers"] += pod["spec"].pop("initContainers")
    manifest = tmp_path / "pod.yaml"
    text = yaml.safe_dump_all([config, pod])
    manifest.write_text(text.replace("/run/spire/agent/public", str(tmp_path)))
    podman("kube", "play", "--start=false", "--network=host", manifest)
    (made,) = json.loads(podman("inspect", "orders-uproxy"))
    assert made["Config"]["User"] == "65532"
    assert made["HostConfig"]["ReadonlyRootfs"] is True
    assert made["EffectiveCaps"] in (None, [])
    assert {each["Destination"] for each in made["Mounts"]} >= {"/etc/uproxy"}
