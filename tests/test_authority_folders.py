"""Temporary folders, and why there is none."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from uproxy.authority.folders import temporary_folder
from uproxy.cli import main
from uproxy.errors import UproxyError


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the folders that Python tries can be written to."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def test_it_is_new_and_for_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one, other = temporary_folder("a-"), temporary_folder("a-")
    assert one != other
    assert one.name.startswith("a-")
    assert stat.S_IMODE(one.stat().st_mode) == 0o700


def test_a_folder_that_went_away_is_an_error_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UproxyError, match=r"\(no such file or directory\): set TMPDIR to"):
        temporary_folder("a-")


@pytest.mark.usefixtures("nowhere")
def test_the_commands_that_need_one_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "authority.yaml"
    file.write_text("trust_domains: {example.org: {}}\n")
    for words in (["demo", "--once"], ["authority", "--config", str(file)]):
        assert main(words) == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("uproxy: error: no temporary folder can be made (no usable ")
        assert "standard output" not in told
