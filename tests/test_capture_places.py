"""Cgroups and namespaces that a user may name, and mistakes in naming them."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from uproxy.capture import places
from uproxy.capture.places import Cgroup, Namespace
from uproxy.errors import UproxyError, UsageError

HERE = Path("/proc/self/ns/net")


def test_a_cgroup_has_the_kernels_number_for_it() -> None:
    root = places.cgroup_root()
    assert places.find_cgroup("--cgroup", str(root)) == Cgroup(root, root.stat().st_ino)


def test_what_is_no_cgroup_is_refused_with_the_place_where_they_are(tmp_path: Path) -> None:
    for text, said in (
        (f"{tmp_path}/none", f"--cgroup '{tmp_path}/none': no such folder"),
        (str(tmp_path), f"--cgroup '{tmp_path}': no cgroup"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            places.find_cgroup("--cgroup", text)
        assert str(places.cgroup_root()) in str(refused.value)


def test_a_cgroup_contains_itself_and_what_is_below() -> None:
    cgroup = Cgroup(Path("/sys/fs/cgroup/a"), 1)
    assert cgroup.contains(cgroup)
    assert cgroup.contains(Cgroup(Path("/sys/fs/cgroup/a/b"), 2))
    assert not cgroup.contains(Cgroup(Path("/sys/fs/cgroup/ab"), 3))


@pytest.mark.parametrize("text", [str(HERE), str(os.getpid())], ids=["path", "process"])
def test_a_namespace_is_named_by_path_or_process(text: str) -> None:
    assert places.find_namespace(text).inode == HERE.stat().st_ino


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-name", "no such file or directory: give a path"),
        ("/proc/self/ns/uts", "another kind of namespace"),
        ("/etc/passwd", "no namespace: give a path"),
    ],
)
def test_what_is_no_network_namespace_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        places.find_namespace(text)


def test_a_namespace_is_found_again_by_any_way_that_leads_to_it() -> None:
    here = places.find_namespace(str(HERE))
    found = places.follow_namespace(replace(here, path=Path("/proc/0/ns/net")))
    assert found is not None
    assert found.path.stat().st_ino == here.inode
    assert found.is_same(here)


def test_a_namespace_that_is_gone_is_not_one_that_has_its_inode_now() -> None:
    here = places.find_namespace(str(HERE))
    assert places.follow_namespace(replace(here, inode=1)) is None
    gone = replace(here, cookie=here.cookie + 1)
    assert places.follow_namespace(gone) is None
    with pytest.raises(UproxyError, match=f"the network namespace {HERE} is gone"):
        places.living(gone)


def test_a_process_that_ends_meanwhile_disturbs_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = replace(places.find_namespace(str(HERE)), inode=1)
    ended = f"/proc/{os.getpid()}/ns"
    stat = Path.stat

    def without_it(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if str(path).startswith(ended):
            raise ProcessLookupError(errno.ESRCH, "No such process", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", without_it)
    assert places.follow_namespace(nowhere) is None


def test_a_path_that_leads_elsewhere_by_now_is_not_followed() -> None:
    with (
        pytest.raises(UproxyError, match="leads to another network namespace by now"),
        places.inside(Namespace(HERE, 1)),
    ):
        pass
