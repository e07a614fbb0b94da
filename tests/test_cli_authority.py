"""`uproxy authority`: its errors; what it does while it runs is tested in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from uproxy.cli import main


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.yaml"

    assert main(["authority", "--config", str(missing)]) == 2
    assert errors(capsys) == [f"uproxy: error: {missing} can't be read: no such file or directory"]


def test_every_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("trust_domains:\n  example.org: {ttl: 1s, ca: x}\n")

    assert main(["authority", "--config", str(file)]) == 2
    ttl, ca = errors(capsys)
    assert ttl.startswith(f"{file}:2:22: error: ")
    assert "ttl = '1s': must be at least 2s" in ttl
    assert ca.startswith(f"{file}:2:30: error: ")


def test_a_socket_that_can_not_be_made_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "authority.yaml"
    file.write_text("sockets: /proc/nowhere\ntrust_domains: {example.org: {}}\n")

    assert main(["authority", "--config", str(file)]) == 1
    assert errors(capsys)[-1].startswith("uproxy: error: the folder /proc/nowhere can't be made")
