"""What the process gives up for good at start.

The memory holds a private key, so the process is made non-dumpable: no core file, and no
debugger of the same user can read it.
"""

from __future__ import annotations

import os
import resource

from uproxy.errors import NotPermittedError

_PR_SET_DUMPABLE = 4
"""prctl(2)."""
_PR_SET_NO_NEW_PRIVS = 38
"""prctl(2)."""


def lock_in() -> None:
    """Forbid core dumps, debuggers of the same user, and new privileges.

    Raises:
        NotPermittedError: the kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    error = _errno_of_prctl(option, value)
    if error:
        reason = os.strerror(error)
        raise NotPermittedError(f"the kernel refused prctl({option}, {value}): {reason}")


def _errno_of_prctl(option: int, value: int) -> int:
    """Do prctl(2); return its errno, or 0 if it was done."""
    try:  # `ctypes` is 0.6 MiB of private memory
        from uproxy.transport.native._engine import prctl
    except ImportError:  # this installation has no compiled engine
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        return ctypes.get_errno() if libc.prctl(option, value, 0, 0, 0) else 0
    return prctl(option, value)
