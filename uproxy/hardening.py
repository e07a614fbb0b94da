"""What the process gives up for good at start.

The memory holds a private key, so the process is made non-dumpable: no core file, and no
debugger of the same user can read it.
"""

from __future__ import annotations

import ctypes
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
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise NotPermittedError(f"the kernel refused prctl({option}, {value}): {reason}")
