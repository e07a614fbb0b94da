"""The ClientHello parsers of the compiled and of the Python engine, fed with the same pieces.

The compiled one is C without a Python interface, so a small module around it is built under
.cache/probes when the sources have changed.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from uproxy.transport.python.client_hello import ClientHello

_ROOT = Path(__file__).parents[2]
_ENGINE = _ROOT / "uproxy" / "transport" / "native"
_PROBE = Path(__file__).parent / "hostile_hello_probe.pyx"
_BUILT = _ROOT / ".cache" / "probes" / str(sysconfig.get_config_var("SOABI"))


def python(pieces: Sequence[bytes]) -> int:
    """After how many pieces the Python engine has heard enough; -1: it waits for more."""
    hello = ClientHello()
    for number, piece in enumerate(pieces, 1):
        if hello.feed(piece):
            return number
    return -1


def pieces(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """A stream as it may arrive, cut at so many bytes each time; an end is no piece."""
    parts, rest = [], stream
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    return [part for part in (*parts, rest) if part]


@cache
def compiled() -> Callable[[Sequence[bytes]], int]:
    """The same question to the compiled engine.

    Raises:
        subprocess.CalledProcessError: it can't be built.
    """
    spec = importlib.util.spec_from_file_location(_PROBE.stem, _program())
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ask: Callable[[list[bytes]], int] = module.completed_after
    return lambda pieces: ask(list(pieces))


def _program() -> Path:
    _BUILT.mkdir(parents=True, exist_ok=True)
    built = _BUILT / f"{_PROBE.stem}.so"
    with (_BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        youngest = max(each.stat().st_mtime for each in (_PROBE, *_ENGINE.glob("*.pxd")))
        if not built.exists() or built.stat().st_mtime < youngest:
            _build(built)
    return built


def _build(built: Path) -> None:
    source, fresh = built.with_suffix(".c"), built.with_suffix(".new")
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", "-o", source, _PROBE], cwd=_ROOT, check=True
    )
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{_ENGINE}"]
    # the engine's other functions come along, and nobody calls them here
    flags = ["-O2", "-fPIC", "-shared", "-pthread", "-fno-strict-aliasing", "-w"]
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *flags, *includes, "-o", fresh, source], check=True)
    fresh.replace(built)
