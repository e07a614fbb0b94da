"""uProxy as one file and as a Debian package, built once for the tests that want them."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def standalone() -> Path:
    """Return the folder with what `deploy/standalone/build` makes, of the sources as they are."""
    folder = ROOT / ".cache" / "standalone"
    folder.mkdir(parents=True, exist_ok=True)
    # several files of tests may want it at once, and while another one's run
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / "uproxy"  # what is made last
        if not file.exists() or file.stat().st_mtime < _changed():
            _run("deploy/standalone/build", folder)
    return folder


def _changed() -> float:
    """Return when the youngest source was changed."""
    listed = subprocess.run(
        ["git", "ls-files", ".ci", "deploy", "uproxy", "*.toml", "*.txt", "setup.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return max((ROOT / name).stat().st_mtime for name in listed.stdout.split())


def package(built: Path, folder: Path, version: str) -> Path:
    """Return a Debian package of what is built, with that version."""
    _run("env", f"UPROXY_VERSION={version}", "deploy/debian/build", built, folder)
    return folder / f"uproxy_{version}-1_amd64.deb"


def _run(*argv: str | Path) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
