"""Makes tens of thousands of short connections, with a C program (churn.c)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


class Churn:
    """The compiled program.  Each connection sends one message, receives it back, and closes."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "churn"
        compiling = ["gcc", "-O2", "-Wall", "-pthread", "-o", str(self._program), str(_SOURCE)]
        subprocess.run(compiling, check=True)

    @contextmanager
    def application(self) -> Iterator[int]:
        """Run the server; yield its port."""
        with subprocess.Popen([self._program, "serve"], stdout=subprocess.PIPE, text=True) as app:
            assert app.stdout is not None
            try:
                yield int(app.stdout.readline())
            finally:
                app.kill()

    def call(self, port: int, count: int, parallel: int = 16) -> None:
        """Make `count` connections, `parallel` at a time.

        Raises:
            AssertionError: some didn't get their message back.
        """
        words = [str(self._program), "call", str(port), str(count), str(parallel)]
        failed = int(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        assert failed == 0, f"{failed} of {count} connections failed"
