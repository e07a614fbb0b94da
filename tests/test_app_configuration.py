"""Where the configuration is read from, and what is said when it can't be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uproxy.app.configuration import ConfigurationFile
from uproxy.errors import ConfigError, NotPermittedError, UsageError

GOOD = "identity: {files: {svid: a.pem, key: a.key, bundles: {example.org: b.pem}}}\n"


def file_at(path: Path, *overrides: str, **environ: str) -> ConfigurationFile:
    return ConfigurationFile(path, overrides, environ)


def test_a_file_is_read_with_its_overrides_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD)
    settings = file_at(path, "timeouts.idle=1m", UPROXY__TIMEOUTS__CONNECT="2s").read()
    assert (settings.timeouts.idle, settings.timeouts.connect) == (60.0, 2.0)


def test_relative_paths_in_it_are_relative_to_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD)
    files = file_at(path).read().identity.files
    assert files is not None
    assert files.svid == str(tmp_path / "a.pem")


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read: no such file"):
        file_at(tmp_path / "none.yaml").read()


def test_a_folder_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        file_at(tmp_path).read()


def test_a_byte_that_is_no_text_is_a_mistake_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_bytes(b"name: a\xffb\n")
    with pytest.raises(ConfigError) as caught:
        file_at(path).read()
    assert caught.value.mistakes[0].line == 1


def test_a_file_of_somebody_else_needs_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)  # root may read everything
    with pytest.raises(NotPermittedError, match="read permission"):
        file_at(tmp_path / "uproxy.yaml").read()


def test_the_fingerprint_follows_a_swapped_link_as_kubelet_swaps_it(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "uproxy.yaml").write_text(GOOD)
    (tmp_path / "data").symlink_to("v1")
    file = file_at(tmp_path / "data" / "uproxy.yaml")
    before = file.fingerprint()
    assert file.fingerprint() == before
    (tmp_path / "next").symlink_to("v2")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert file.fingerprint() != before


def test_the_fingerprint_of_a_file_that_is_gone_is_another(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD)
    before = file_at(path).fingerprint()
    path.unlink()
    assert file_at(path).fingerprint() != before
