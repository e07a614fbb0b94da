"""As a node's agent does it: by the pod's first process, before the application has one, and
without naming the proxy's cgroup, which is another after each restart."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.helpers.capture_world import HOST, POD, World, removed
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until


def test_a_proxy_that_is_restarted_elsewhere_is_used_at_once(either: World) -> None:
    pods = either.proxy_cgroup
    pause = either.inside(either.pod, pods, "sleep", "600")
    with (
        Process(pause, either.folder / "pause.log") as first,
        either.server(either.host, 80),
    ):
        assert not (either.app / "cgroup.procs").read_text()
        program = Path(f"/proc/{first.pid}/comm")
        wait_until(lambda: program.read_text() == "sleep\n", "the pod's first process")
        either.capture(
            "attach", "--cgroup", str(either.app), "--netns", f"/proc/{first.pid}/ns/net",
            "--bpffs", str(either.bpffs), "--mode", either.mode, "--inbound", "8080",
        )  # fmt: skip
        assert either.connect(HOST, 80)["error"] == "ECONNREFUSED"
        for name in ("container-1", "container-2"):
            either.proxy_cgroup = either.cgroup / name
            either.proxy_cgroup.mkdir()
            with either.proxy():
                assert either.connect(HOST, 80)["answer"]["original"] == [HOST, 80]
                assert either.call(POD, 8080)["answer"]["original"] == [POD, 8080]
            wait_until(partial(removed, either.proxy_cgroup), "the container to be gone")
            assert either.connect(HOST, 80)["error"] == "ECONNREFUSED"
        assert either.status()["state"] == "attached"
        either.proxy_cgroup = pods
