"""Reads a whole text from a path: a file, a pipe, whatever `--config` may name.

Bounded in bytes and, where bytes have to be waited for, in seconds.  It blocks the thread that
calls it; a regular file whose mount doesn't answer can't be given up from here.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path
from typing import Final

from uproxy.errors import NotPermittedError, UproxyError, UsageError

MOST_BYTES: Final = 1 << 24
"""Four bytes for each of the characters that a configuration may have."""

WAIT_S: Final = 30.0
"""How long a pipe may take to end."""

_PIECE: Final = 1 << 16


def read_text(path: Path, wait_s: float = WAIT_S) -> str:
    """Return the text at `path`.  A byte that isn't UTF-8 is kept as a lone surrogate.

    Raises:
        NotPermittedError: it may not be read.
        UsageError: it can't be read, is too long, or doesn't end within `wait_s` seconds.
    """
    try:
        # a FIFO would otherwise not open before somebody writes to it
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            data = _read_all(path, descriptor, time.monotonic() + wait_s, wait_s)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_read(path, error) from None
    text = data.decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_all(path: Path, descriptor: int, deadline: float, wait_s: float) -> bytes:
    kind = os.fstat(descriptor).st_mode
    read = bytearray()
    while True:
        if not stat.S_ISREG(kind) and not _has_bytes_or_end(descriptor, deadline):
            held = "its writer still holds it" if read else "nobody has written to it"
            raise UsageError(f"{path} didn't end within {wait_s:g} s: {held}")
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            continue
        if not piece:
            break
        read += piece
        if len(read) > MOST_BYTES:
            raise UsageError(f"{path} is longer than {MOST_BYTES} bytes: no configuration")
    if not read and _is_unnamed_pipe(descriptor):
        raise UsageError(
            f"{path} gave nothing: a pipe can be read only once, so write the "
            "configuration to a file to reload it"
        )
    return bytes(read)


def _has_bytes_or_end(descriptor: int, deadline: float) -> bool:
    """Wait until a read wouldn't block; return False at the deadline."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    left = max(0.0, deadline - time.monotonic())
    return bool(poll.poll(left * 1000))


def _is_unnamed_pipe(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    except OSError:
        return False  # no /proc


def _cannot_read(path: Path, error: OSError) -> UproxyError:
    if isinstance(error, PermissionError):
        return NotPermittedError(f"{path} can't be read: give this user read permission")
    if error.errno == errno.ENXIO:
        return UsageError(f"{path} can't be read: it is a socket; give a file or a pipe")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return UproxyError(f"{path} can't be read: no descriptor left; raise LimitNOFILE")
    reason = os.strerror(error.errno or 0).lower()
    return UsageError(f"{path} can't be read: {reason}")
