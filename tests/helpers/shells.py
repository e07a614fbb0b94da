"""Real shells, in which a test types as a person would."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from select import select
from time import monotonic

_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>]|\][^\x07]*\x07)|[\x07\r]")


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._shown = ""

    def types(self, text: str) -> None:
        """Type text; `\\t` is the Tab key."""
        self._shown = ""
        os.write(self._terminal, text.encode())

    def shows(self, *texts: str, within_s: float = 20.0) -> str:
        """Wait until the terminal has shown all texts since the last typing; return what it has.

        Raises:
            AssertionError: it hasn't in this time.
        """
        deadline = monotonic() + within_s
        while not all(text in self._shown for text in texts):
            left = deadline - monotonic()
            assert left > 0, f"{texts} aren't in {self._shown!r}"
            if select([self._terminal], [], [], left)[0]:
                self._shown += _CONTROL.sub("", os.read(self._terminal, 65536).decode())
        return self._shown


@contextlib.contextmanager
def shell(
    argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[Shell]:
    """Run a shell in `folder`, with a terminal that knows no escape sequences; `env` is added to
    what little there is in its environment."""
    ours, theirs = pty.openpty()
    environ = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder), "PS1": "$ ",
               "INPUTRC": os.devnull, "LC_ALL": "C.UTF-8", **(env or {})}  # fmt: skip
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environ,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Shell(ours)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)
