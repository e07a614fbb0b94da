"""Capture on Debian's kernels, in virtual machines; `tests/helpers/capture_on_kernel.py` is what
runs there.

The system is Debian 12 each time, whose Python is new enough.  The tables of kernels in
docs/howto/capture.md and bpf_redirect/README.md are what is found here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import virtual_machine

pytestmark = [pytest.mark.slow, pytest.mark.privileged, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parents[2]
PROGRAMS = ("capture_on_kernel", "capture_world", "capture_proxy", "capture_app")

SCRIPT = """
tar -C /lib -xf /test/modules.tar
depmod
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
uname -r
cd /test
for mode in ebpf nft; do python3 -m tests.helpers.capture_on_kernel $mode || exit 1; done
"""

OLD_EBPF = {
    "mode": "ebpf",
    "refused": ["EPERM"],
    "takes a listener in another namespace": True,
    "in another namespace": "real",
    "from its caller's address": "inbound",
}
EBPF = {
    "mode": "ebpf",
    "refused": ["ECONNREFUSED"],
    "takes a listener in another namespace": False,
    "in another namespace": "ECONNREFUSED",
    "from its caller's address": "real",
}
NFT = {"mode": "nft", "refused": ["ECONNREFUSED"], "in another namespace": "real"}
NO_NFT = {"mode": "nft"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """uProxy's sources, and the programs that try it."""
    made = tmp_path / "test"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "_engine.c")
    shutil.copytree(ROOT / "uproxy", made / "uproxy", ignore=ignored)
    (made / "tests" / "helpers").mkdir(parents=True)
    for name in PROGRAMS:
        shutil.copy(ROOT / "tests" / "helpers" / f"{name}.py", made / "tests" / "helpers")
    return made


@pytest.mark.parametrize(
    ("suite", "release", "expected"),
    [
        ("bullseye", "5.10.", [OLD_EBPF, NO_NFT]),
        ("bookworm", "6.1.", [EBPF, NFT]),
        ("trixie", "6.12.", [EBPF, NFT]),
        ("sid", "7.", [EBPF, NFT]),
    ],
)
def test_it_does(suite: str, release: str, expected: list[dict[str, object]], folder: Path) -> None:
    system = virtual_machine.prepare("bookworm", "capture", "nftables", "python3", "python3-yaml")
    said, code = virtual_machine.run(suite, folder, SCRIPT, system)
    assert code == 0, said
    kernel, *found = [line for line in said.splitlines() if line.startswith(("{", release))]
    assert kernel.startswith(release), said
    shown = [json.loads(line) for line in found]
    refusals = [each.pop("said") for each in shown]
    assert shown == expected, said
    if NO_NFT in expected:
        assert "capture needs nftables 0.9.9 and Linux 5.13" in refusals[-1]
