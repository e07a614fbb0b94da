"""Small modules around the compiled engine's pages, which are C without a Python interface.

Each is a .pyx beside this one, built under .cache/probes when a source has changed.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_ENGINE = _ROOT / "uproxy" / "transport" / "native"
_BUILT = _ROOT / ".cache" / "probes" / str(sysconfig.get_config_var("SOABI"))


@cache
def load(name: str) -> Any:
    """Return the module `tests/helpers/NAME.pyx`.

    Raises:
        subprocess.CalledProcessError: it can't be built.
    """
    spec = importlib.util.spec_from_file_location(name, _program(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _program(name: str) -> Path:
    _BUILT.mkdir(parents=True, exist_ok=True)
    source, built = Path(__file__).parent / f"{name}.pyx", _BUILT / f"{name}.so"
    with (_BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        youngest = max(each.stat().st_mtime for each in (source, *_ENGINE.glob("*.pxd")))
        if not built.exists() or built.stat().st_mtime < youngest:
            _build(source, built)
    return built


def _build(source: Path, built: Path) -> None:
    translated, fresh = built.with_suffix(".c"), built.with_suffix(".new")
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", "-o", translated, source], cwd=_ROOT, check=True
    )
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{_ENGINE}"]
    # the engine's other functions come along, and nobody calls them here
    flags = ["-O2", "-fPIC", "-shared", "-pthread", "-fno-strict-aliasing", "-w"]
    flags += os.environ.get("PROBE_FLAGS", "").split()  # of a sanitizer (.ci/asan)
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *flags, *includes, "-o", fresh, translated], check=True)
    fresh.replace(built)
