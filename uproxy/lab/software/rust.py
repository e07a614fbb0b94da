"""Builds the Rust programs that tests run, from a Cargo.toml in tests/peers/.

`python -m uproxy.lab.software.rust NAME` builds one into .cache/peers/; without a name it only
checks whether there is a cargo that is new enough.  Crates come from where cargo gets them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from uproxy.lab.software.building import BUILT, SOURCES, built, version

_OLDEST = (1, 85)
"""The version that the peers' Cargo.toml files demand."""
_TARGET = BUILT.parent / "rust"
"""Kept, so that crates are compiled once."""


def find_cargo() -> Path:
    """Return the cargo on PATH.

    Raises:
        FileNotFoundError: there is none, or it is too old.
    """
    cargo = shutil.which("cargo")
    if cargo is not None and version(cargo, "--version") >= _OLDEST:
        return Path(cargo)
    wanted = ".".join(map(str, _OLDEST))
    raise FileNotFoundError(f"no cargo ≥ {wanted} on PATH; `make test-all` brings one")


def peer(name: str) -> Path:
    """Return the path of the program, building it if its sources have changed."""
    return built(BUILT / name, SOURCES / name, lambda fresh: _build(name, fresh))


def _build(name: str, fresh: Path) -> None:
    # a copy, because cargo writes a Cargo.lock where it builds
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SOURCES / name, folder, dirs_exist_ok=True)
        subprocess.run(
            [find_cargo(), "build", "--quiet", "--release", "--target-dir", _TARGET],
            cwd=folder,
            check=True,
        )
        shutil.copy(_TARGET / "release" / name, fresh)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        peer(sys.argv[1])
    else:
        find_cargo()
