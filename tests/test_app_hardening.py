"""What the process gives up at start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from uproxy.app.hardening import _prctl
from uproxy.errors import NotPermittedError


@pytest.mark.parametrize("engine", ["", "sys.modules['uproxy.transport.native._engine'] = None"])
def test_a_locked_in_process_has_no_core_and_gains_no_privileges(engine: str) -> None:
    """With the compiled engine, and in an installation that has none."""
    program = f"""
import ctypes, resource, sys
{engine}
from uproxy.app.hardening import lock_in
lock_in()
print(ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE))
print(open("/proc/thread-self/status").read())
"""
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("0 (0, 0)\n")
    assert "NoNewPrivs:\t1" in shown


def test_a_refusal_of_the_kernel_is_told() -> None:
    with pytest.raises(NotPermittedError, match=r"prctl\(-1, 0\): Invalid argument"):
        _prctl(-1, 0)
