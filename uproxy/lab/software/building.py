"""Builds programs from `tests/peers/` into .cache/peers/, when their sources have changed."""

from __future__ import annotations

import fcntl
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).parents[3]
SOURCES = _ROOT / "tests" / "peers"
BUILT = _ROOT / ".cache" / "peers"


def version(*words: str) -> tuple[int, ...]:
    """Return the first two numbers of the version that a command prints; (0,): it prints none."""
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def built(program: Path, sources: Path, build: Callable[[Path], object]) -> Path:
    """Return `program` after `build`, called with the path of a file to write, has made it anew if
    a file below the folder `sources` is younger; one process at a time does that."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with program.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        youngest = max(each.stat().st_mtime for each in sources.rglob("*") if each.is_file())
        if not program.exists() or program.stat().st_mtime < youngest:
            fresh = program.with_suffix(".new")
            build(fresh)
            fresh.replace(program)
    return program
