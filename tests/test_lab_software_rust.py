"""Which cargo builds the peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from uproxy.lab.software.rust import find_cargo


def cargo_of(folder: Path, version: str) -> Path:
    cargo = folder / "cargo"
    cargo.write_text(f"#!/bin/sh\necho 'cargo {version} (0123456 2025-01-01)'\n")
    cargo.chmod(0o755)
    return cargo


@pytest.mark.parametrize("version", ["1.85.0", "1.100.1", "2.0.0"])
def test_a_cargo_that_is_new_enough_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    cargo = cargo_of(tmp_path, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_cargo() == cargo


def test_an_old_cargo_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no cargo ≥ 1\.85 on PATH"):
        find_cargo()
    cargo_of(tmp_path, "1.66.1")
    with pytest.raises(FileNotFoundError, match=r"no cargo ≥ 1\.85 on PATH"):
        find_cargo()
