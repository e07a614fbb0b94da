"""A whole text from whatever `--config` may name, bounded in bytes and seconds."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from uproxy.app import reading
from uproxy.app.reading import read_text
from uproxy.errors import UproxyError, UsageError


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def write_into(path: Path, *pieces: bytes, pause: float = 0.0) -> threading.Thread:
    """Write the pieces from another thread, which opens the pipe as `cat > fifo` does."""

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            for piece in pieces:
                pipe.write(piece)
                time.sleep(pause)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_file_is_read_with_one_kind_of_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\r\nb\rc\nd\xff")
    assert read_text(path) == "a\nb\nc\nd\udcff"


def test_a_fifo_is_waited_for_and_read_to_its_writers_end(fifo: Path) -> None:
    writer = write_into(fifo, b"name: ", b"orders\n", pause=0.02)
    assert read_text(fifo) == "name: orders\n"
    writer.join()
    writer = write_into(fifo, b"again")  # and as often as somebody writes
    assert read_text(fifo) == "again"
    writer.join()


def test_a_fifo_that_nobody_writes_to_is_given_up(fifo: Path) -> None:
    with pytest.raises(UsageError, match=r"didn't end within 0\.02 s: nobody has written to it"):
        read_text(fifo, 0.02)


def test_a_pipe_that_somebody_holds_is_given_up() -> None:
    here, there = os.pipe()
    os.write(there, b"name: orders")
    with pytest.raises(UsageError, match=r"within 0\.02 s: its writer still holds it"):
        read_text(Path(f"/dev/fd/{here}"), 0.02)
    os.close(here)
    os.close(there)


def test_a_pipe_can_be_read_once() -> None:
    here, there = os.pipe()
    os.write(there, b"name: orders")
    os.close(there)
    path = Path(f"/dev/fd/{here}")
    assert read_text(path) == "name: orders"
    with pytest.raises(UsageError, match="a pipe can be read only once, so write the config"):
        read_text(path)
    os.close(here)


def test_what_never_ends_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="longer than 1048576 bytes"):
        read_text(Path("/dev/zero"))


def test_nothing_is_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_text(Path("/dev/null")) == read_text(tmp_path / "empty") == ""


def test_a_socket_a_folder_and_a_circle_of_links_are_told_apart(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(UsageError, match="it is a socket; give a file or a pipe"):
            read_text(tmp_path / "socket")
    with pytest.raises(UsageError, match="is a directory"):
        read_text(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="too many levels of symbolic links"):
        read_text(tmp_path / "loop")


def test_without_a_descriptor_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_args: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(UproxyError, match="no descriptor left; raise LimitNOFILE"):
        read_text(tmp_path / "file")
