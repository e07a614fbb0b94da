"""Every test here makes network namespaces and cgroups, and attaches to them: as root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.capture_world import World, existing

ALWAYS = (
    "test_an_application_reaches_the_proxy_and_sees_the_truth",
    "test_without_the_proxy_nothing_passes_in_clear",
    "test_a_uproxy_takes_what_is_captured",
)
"""The files whose tests are in every run, by eBPF; the others are slow, and what nft does too."""
BOTH = ("test_a_stranger_reaches_a_service_through_two_uproxies",)
"""The files whose tests are in every run, by nft too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests; skip them where they can't run."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.privileged)
            is_both = item.path.stem in BOTH
            is_for_all = is_both or (item.path.stem in ALWAYS and "[nft" not in item.name)
            if not is_for_all or "python" in item.name:
                item.add_marker(pytest.mark.slow)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="namespaces and eBPF need root"))


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of the tests' own."""
    folder = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def world(tmp_path: Path, bpffs: Path) -> Iterator[World]:
    """A pod and a host, nothing captured; for eBPF."""
    with existing(World(tmp_path, bpffs)) as made:
        yield made


@pytest.fixture(params=["ebpf", "nft"])
def either(tmp_path: Path, bpffs: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """The same, for what both modes promise."""
    with existing(World(tmp_path, bpffs, request.param)) as made:
        yield made
