"""Runs tests/helpers/capture_app.py as a program with which a test can talk."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.helpers import capture_app
from tests.helpers.capture_world import World


class App:
    """An application that runs."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.pid = popen.pid
        assert popen.stdin is not None
        assert popen.stdout is not None
        self._in, self._out = popen.stdin, popen.stdout

    def say(self, words: str = "go") -> None:
        self._in.write(f"{words}\n")
        self._in.flush()

    def hear(self) -> str:
        return self._out.readline().strip()

    def seen(self) -> dict[str, Any]:
        value = json.loads(self.hear())
        assert isinstance(value, dict)
        return value


@contextlib.contextmanager
def app(
    world: World,
    namespace: str,
    cgroup: Path,
    address: str,
    port: int,
    *options: str,
    prefix: Sequence[str] = (),
) -> Iterator[App]:
    """Run it; `prefix` are words of a command that runs it."""
    words = [*prefix, sys.executable, capture_app.__file__, address, str(port), *options]
    argv = world.inside(namespace, cgroup, *words)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as popen:
        yield App(popen)
        assert popen.stdin is not None
        popen.stdin.close()
