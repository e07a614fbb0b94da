"""A program is built when it isn't there, or one of its sources is younger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uproxy.lab.software.building import built


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    (folder / "src").mkdir(parents=True)
    (folder / "manifest").write_text("manifest")
    (folder / "src" / "main").write_text("main")
    return folder


def test_a_program_is_built_once_and_again_after_a_change_however_deep(
    tmp_path: Path, sources: Path
) -> None:
    program, builds = tmp_path / "built" / "program", []

    def build(fresh: Path) -> None:
        builds.append(fresh)
        fresh.write_text(f"build {len(builds)}")

    for _ in range(2):
        assert built(program, sources, build).read_text() == "build 1"
    later = program.stat().st_mtime + 10
    os.utime(sources / "src" / "main", (later, later))
    assert built(program, sources, build).read_text() == "build 2"


def test_a_build_that_fails_leaves_the_program_as_it_was(tmp_path: Path, sources: Path) -> None:
    program = tmp_path / "program"
    built(program, sources, lambda fresh: fresh.write_text("good"))

    def fail(fresh: Path) -> None:
        fresh.write_text("half")
        raise RuntimeError("doesn't compile")

    os.utime(program, (0, 0))
    with pytest.raises(RuntimeError, match="doesn't compile"):
        built(program, sources, fail)
    assert program.read_text() == "good"
