"""Programs that run without privileges, whoever runs the tests."""

from __future__ import annotations

import os
import sys


def unprivileged() -> list[str]:
    """A prefix that takes every capability from a program run by root; it stays root's, so that
    it still finds Python and the test's files.  Another user has none to take."""
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
    """A prefix that forbids a program to make memory executable that it could write to, as
    `MemoryDenyWriteExecute=yes` of a systemd unit does; needs Linux 6.3."""
    return [sys.executable, "-c", _WITHOUT_NEW_CODE]
