"""How many processors a container leaves us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uproxy import processors


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").write_text("1:name=systemd:/elsewhere\n0::/pod/app\n")
    return tmp_path / "own"


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    (tmp_path / "groups" / "pod" / "app").mkdir(parents=True)
    return tmp_path / "groups"


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def test_without_a_quota_the_affinity_decides(groups: Path, own: Path) -> None:
    (groups / "pod" / "app" / "cpu.max").write_text("max 100000\n")
    assert processors.allowed(groups, own) == 8
    assert processors.allowed(groups / "nowhere", own / "nowhere") == 8


@pytest.mark.parametrize(("quota", "count"), [(200_000, 2), (150_000, 2), (10_000, 1)])
def test_a_quota_counts_and_a_part_of_a_processor_is_one(
    groups: Path, own: Path, quota: int, count: int
) -> None:
    (groups / "pod" / "app" / "cpu.max").write_text(f"{quota} 100000\n")
    assert processors.allowed(groups, own) == count


def test_the_narrowest_quota_on_the_way_up_binds(groups: Path, own: Path) -> None:
    (groups / "pod" / "app" / "cpu.max").write_text("400000 100000\n")
    (groups / "pod" / "cpu.max").write_text("300000 100000\n")
    assert processors.allowed(groups, own) == 3


def test_the_first_version_of_cgroups_counts_too(groups: Path, own: Path) -> None:
    (groups / "cpu").mkdir()
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, count in (("-1", 8), ("250000", 3)):
        (groups / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert processors.allowed(groups, own) == count
