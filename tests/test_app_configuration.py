"""Where the configuration is read from, and what is said when it can't be."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from uproxy.app import configuration
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
    def refuse(*_args: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    with pytest.raises(NotPermittedError, match="read permission"):
        file_at(tmp_path / "uproxy.yaml").read()


def test_from_a_pipe_relative_paths_start_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = os.pipe()
    os.write(there, GOOD.encode())
    os.close(there)
    files = file_at(Path(f"/dev/fd/{here}")).read().identity.files
    os.close(here)
    assert files is not None
    assert files.svid == str(tmp_path / "a.pem")


async def test_a_file_that_never_answers_is_given_up_and_not_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a mount whose server is gone."""
    answers = threading.Event()

    def hang(_path: Path) -> str:
        answers.wait(60)
        return GOOD

    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD)
    file, seen = file_at(path), list[tuple[int, ...]]()
    monkeypatch.setattr(configuration, "read_text", hang)
    with pytest.raises(UsageError, match=r"no answer in 0\.01 s: is its file system there\?"):
        await file.load(seen.append, hanging_s=0.01)
    with pytest.raises(UsageError, match="still being read since the last time"):
        await file.load(seen.append)
    answers.set()
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await file.load(seen.append)).identity.files
                break
            except UsageError:
                await asyncio.sleep(0.01)
    assert set(seen) == {file.fingerprint()}


async def test_what_is_wrong_with_it_is_told_from_the_thread_too(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD + "nonsense: 1\n")
    with pytest.raises(ConfigError, match="no such key"):
        await file_at(path).load(lambda _seen: None)


def test_a_pipe_is_never_another(tmp_path: Path) -> None:
    """Every read and write of it would be a change."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = file_at(fifo).fingerprint()
    os.utime(fifo, (1, 1))
    assert file_at(fifo).fingerprint() == before


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


def test_the_fingerprint_of_a_file_written_over_in_its_old_size_and_time_is_another(
    tmp_path: Path,
) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD)
    before, was = file_at(path).fingerprint(), path.stat()
    path.write_text(GOOD)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert file_at(path).fingerprint() != before


def test_the_fingerprint_changes_with_permission_to_read_the_file(tmp_path: Path) -> None:
    """Otherwise `chmod` wouldn't mend a reload that was refused for them."""
    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD)
    path.chmod(0o000)
    before = file_at(path).fingerprint()
    path.chmod(0o644)
    assert file_at(path).fingerprint() != before


def test_the_fingerprint_of_a_file_that_is_gone_is_another(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text(GOOD)
    before = file_at(path).fingerprint()
    path.unlink()
    assert file_at(path).fingerprint() != before
