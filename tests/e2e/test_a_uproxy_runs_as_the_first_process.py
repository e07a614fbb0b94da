"""`uproxy run` as PID 1 of a process namespace, as in a container without an init."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers.pair import Pair

CONTAINER = [
    "unshare", "--fork", "--pid", "--kill-child", "--mount-proc", "--user", "--map-root-user",
]  # fmt: skip


def test_it_becomes_ready_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run([*CONTAINER, "true"], check=False).returncode
    ):
        pytest.skip("needs unshare(1) and user namespaces")
    uproxy = Pair(tmp_path, {"app": 1}).orders
    uproxy.argv[:0] = CONTAINER
    with uproxy:
        uproxy.wait_until_ready()
        children = Path(f"/proc/{uproxy.pid}/task/{uproxy.pid}/children").read_text().split()
        assert f"NSpid:\t{children[0]}\t1\n" in Path(f"/proc/{children[0]}/status").read_text()
        os.kill(int(children[0]), signal.SIGTERM)
        assert uproxy.wait() == 0
