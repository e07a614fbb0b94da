"""uproxy.lab.pods: a pod and its host reach each other, and nothing of them stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from uproxy.lab.pods import HOST, HOST6, SECOND, Pod, existing, run

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and cgroups need root"),
]


def test_a_pod_reaches_its_host_until_both_are_removed(tmp_path: Path) -> None:
    with existing(Pod(tmp_path, tmp_path)) as pod:
        for address in (HOST, HOST6, SECOND):
            route = run("ip", "-n", pod.pod, "route", "get", address)
            assert "dev eth0" in route
        words = pod.inside(pod.pod, pod.app, "sh", "-c", "cat /proc/self/cgroup; ip netns identify")
        said = run(*words)
        assert f"{pod.cgroup.name}/app" in said
        assert said.splitlines()[-1] == pod.pod
        assert not pod.captured()
    assert not pod.cgroup.exists()
    names = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert {pod.pod, pod.host} & {line.split()[0] for line in names.splitlines()} == set()
