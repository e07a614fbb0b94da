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


def lock_in(engine: str) -> None:
    """Forbid core dumps, debuggers of the same user, and new privileges; `engine` is that of the
    configuration.

    Raises:
        NotPermittedError: the kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0, engine)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, engine)


def _prctl(option: int, value: int, engine: str) -> None:
    error = (_compiled_prctl if engine == "native" else _foreign_prctl)(option, value)
    if error:
        reason = os.strerror(error)
        raise NotPermittedError(f"the kernel refused prctl({option}, {value}): {reason}")


def _compiled_prctl(option: int, value: int) -> int:
    """Do prctl(2) by the compiled engine, which is loaded anyway: `ctypes` would be 0.3 MiB of
    private memory.  Return its errno, or 0 if it was done."""
    try:
        from uproxy.transport.native._engine import prctl
    except ImportError:  # making the engine will say so
        return _foreign_prctl(option, value)
    return prctl(option, value)


def _foreign_prctl(option: int, value: int) -> int:
    """Do prctl(2) by `ctypes`.  Return its errno, or 0 if it was done."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    no = ctypes.c_ulong(0)
    done = libc.prctl(option, ctypes.c_ulong(value), no, no, no)
    return ctypes.get_errno() if done != 0 else 0
