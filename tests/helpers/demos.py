"""Runs `uproxy demo` and finds what it leaves behind.

It gets a folder of its own for temporary files and a mark in its environment, which every program
it starts inherits.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from uproxy.lab.ports import listens
from uproxy.lab.waiting import wait_until

_TIMEOUT_S = 45.0


class Demo:
    """A running demonstration; leaving the block kills all of its processes."""

    def __init__(self, *words: str) -> None:
        self._mark = secrets.token_hex(16)
        # not pytest's folder: its path is long for a socket's, and PostgreSQL may not pass
        self.folder = Path(tempfile.mkdtemp(prefix="demo-"))
        self.folder.chmod(0o711)
        self._output = self.folder.with_suffix(".out")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uproxy", "demo", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self.folder), "DEMO_MARK": self._mark},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has printed `text`.

        Raises:
            AssertionError: it ended before, or took longer than the timeout.
        """
        wait_until(lambda: text in self.output or self.process.poll() is not None, text,
                   _TIMEOUT_S)  # fmt: skip
        assert text in self.output, self.output

    def wait(self) -> int:
        """Wait until it ends; return its exit code."""
        return self.process.wait(_TIMEOUT_S)

    def pids(self, word: str) -> list[int]:
        """Return the pids of its processes that have `word` in their command line."""
        return [pid for pid, command in self._programs().items() if word in command]

    def leftovers(self) -> list[str]:
        """Return its processes, files and listening ports that still exist."""
        pages = re.findall(r"http://127\.0\.0\.1:(\d+)/", self.output)
        ports = [f"port {port}" for port in pages if listens(int(port))]
        return [*self._programs().values(), *ports, *os.listdir(self.folder)]

    def _programs(self) -> dict[int, str]:
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                command = (process / "cmdline").read_text().replace("\0", " ")
                if str(self.folder) in command or self._is_marked(process):
                    found[int(process.name)] = command
        return found

    def _is_marked(self, process: Path) -> bool:
        try:
            return self._mark.encode() in (process / "environ").read_bytes()
        except PermissionError:
            return False  # another user's, or a uProxy, which is found by its command line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        for pid in self._programs():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder)
        self._output.unlink()
