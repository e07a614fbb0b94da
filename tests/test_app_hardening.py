"""What the process gives up at start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from uproxy.app.hardening import _prctl
from uproxy.errors import NotPermittedError

ENGINES = ("native", "python")
_GONE = {
    "native": "sys.modules['ctypes'] = None",
    "python": "sys.modules['uproxy.transport.native'] = None",
}
"""What each engine does without."""


def locked_in(engine: str, without: str) -> str:
    """Return what a process is and may after it was locked in."""
    program = f"""
import resource, sys
from uproxy.app.hardening import lock_in
{without}
lock_in({engine!r})
del {without.partition(" = ")[0]}
import ctypes
print(ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE))
print(open("/proc/thread-self/status").read())
"""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_a_locked_in_process_has_no_core_and_gains_no_privileges(engine: str) -> None:
    shown = locked_in(engine, _GONE[engine])
    assert shown.startswith("0 (0, 0)\n")
    assert "NoNewPrivs:\t1" in shown


def test_it_is_locked_in_before_it_is_known_that_the_compiled_engine_is_missing() -> None:
    shown = locked_in("native", "sys.modules['uproxy.transport.native'] = None")
    assert shown.startswith("0 (0, 0)\n")
    assert "NoNewPrivs:\t1" in shown


@pytest.mark.parametrize("engine", ENGINES)
def test_a_refusal_of_the_kernel_is_told(engine: str) -> None:
    with pytest.raises(NotPermittedError, match=r"prctl\(-1, 0\): Invalid argument"):
        _prctl(-1, 0, engine)
