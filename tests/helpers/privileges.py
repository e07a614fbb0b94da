"""Prefixes that run a program with fewer privileges."""

from __future__ import annotations

import os
import sys


def unprivileged() -> list[str]:
    """Return a prefix that removes all capabilities from a program run by root.

    It keeps root's user id, so that it can read Python and the test's files.  Another user has
    no capabilities.
    """
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


_WITHOUT_NEW_CODE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(f"prctl(PR_SET_MDWE): {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def without_new_code() -> list[str]:
    """Return a prefix under which memory that was writable can't become executable.

    That is `MemoryDenyWriteExecute=yes` of a systemd unit; needs Linux 6.3.
    """
    return [sys.executable, "-c", _WITHOUT_NEW_CODE]
