"""Compiles the benchmarks' C programs into .cache/bench when their sources have changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent
_BUILT = _SOURCES.parents[1] / ".cache" / "bench"


def compiled(name: str) -> Path:
    """Return the path of the program compiled from `name`.c.

    Raises:
        subprocess.CalledProcessError: it doesn't compile.
    """
    source, program = _SOURCES / f"{name}.c", _BUILT / name
    youngest = max(each.stat().st_mtime for each in (source, *_SOURCES.glob("*.h")))
    if not program.exists() or program.stat().st_mtime < youngest:
        _BUILT.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(".new")
        argv: list[str | Path] = [
            "cc",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pthread",
            "-o",
            fresh,
            source,
        ]
        subprocess.run(argv, check=True)
        fresh.replace(program)
    return program
