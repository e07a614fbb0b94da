"""A record of captures counts only where nobody but root, or we, could have written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uproxy.capture import record
from uproxy.capture.ownership import check_ours, make_folder
from uproxy.errors import UproxyError

NOBODY = 65534


def test_what_is_not_there_yet_is_ours(tmp_path: Path) -> None:
    check_ours(tmp_path / "a" / "b.json")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("which", ["folder", "above"])
def test_where_others_may_write_nothing_is(tmp_path: Path, mode: int, which: str) -> None:
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    changed = folder if which == "folder" else folder.parent
    changed.chmod(mode)
    with pytest.raises(UproxyError, match=f"not trusted, because .*{which} has mode 0{mode:o}: "):
        check_ours(folder)


def test_a_sticky_folder_lets_nobody_replace_what_is_ours(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "shared" / "ours").mkdir()
    check_ours(tmp_path / "shared" / "ours")


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file away needs root")
@pytest.mark.parametrize("which", ["file", "folder", "above"])
def test_what_belongs_to_another_user_is_not(tmp_path: Path, which: str) -> None:
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    file = folder / "orders.json"
    file.write_text("{}")
    os.chown({"file": file, "folder": folder, "above": folder.parent}[which], NOBODY, NOBODY)
    with pytest.raises(UproxyError, match=f"belongs to user {NOBODY}: only root may write there"):
        record.load(folder, "orders")


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file away needs root")
def test_a_link_is_followed_to_where_it_leads(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    (tmp_path / "capture").symlink_to(theirs)
    with (
        pytest.raises(UproxyError, match="theirs belongs to user"),
        record.locked(tmp_path / "capture"),
    ):
        pass


def test_nothing_is_made_where_it_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with (
        pytest.raises(UproxyError, match="run has mode 0777"),
        record.locked(tmp_path / "run" / "capture"),
    ):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_folder_that_was_made_without_a_umask_is_ours_alone(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "uproxy" / "capture"
    before = os.umask(0)
    try:
        make_folder(folder, mode)
        make_folder(folder, mode)  # which is there already
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == mode
    assert folder.parent.stat().st_mode & 0o777 == 0o755
    check_ours(folder)
