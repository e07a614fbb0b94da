"""Finds listening sockets of a proxy that was there before its capture.

Later ones register themselves: the program `listen` sees their listen().
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from uproxy.capture.places import Namespace, inside
from uproxy.errors import NotPermittedError, UproxyError

_PIDFD_GETFD: Final = 438
"""The number of the system call, which is the same on all machines that capture knows."""
_LISTENING: Final = "0A"
"""TCP_LISTEN, as /proc/net/tcp writes it."""
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")

_libc = ctypes.CDLL(None, use_errno=True)


def find_listener(
    namespace: Namespace, cgroup: Path, port: int, apart: Path | None = None
) -> int | None:
    """Return a descriptor of the socket that listens at a port in a network namespace, if a
    process in the cgroup or below it has it, but not in the cgroup `apart` or below that; None:
    nobody does.

    Raises:
        NotPermittedError: we may not see or take another process's descriptors.
    """
    with inside(namespace):
        inodes = {inode for each, inode in listening() if each == port}
    if not inodes:
        return None
    for pid, number in _descriptors(cgroup, apart, inodes):
        descriptor = _duplicate(pid, number)
        if descriptor is not None:
            return descriptor
    return None


def listening(process: str = "thread-self") -> Iterator[tuple[int, int]]:
    """Yield (port, inode) of each listening TCP socket of a process's network namespace."""
    # IPv6 first: what captures is a socket for both families
    for name in ("tcp6", "tcp"):
        with suppress(FileNotFoundError):
            for line in Path("/proc", process, "net", name).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTENING:
                    yield int(columns[1].rpartition(":")[2], 16), int(columns[9])


def _descriptors(
    cgroup: Path, apart: Path | None, inodes: Container[int]
) -> Iterator[tuple[int, int]]:
    """Yield (process, number) of each descriptor of those sockets.

    Raises:
        NotPermittedError: at the end, if there are processes that we may not look into.
    """
    hidden = 0
    for path in (cgroup / "cgroup.procs", *cgroup.rglob("*/cgroup.procs")):
        if apart is not None and path.is_relative_to(apart):
            continue
        for pid in _processes(path):
            try:
                for each in Path("/proc", pid, "fd").iterdir():
                    found = _SOCKET.fullmatch(_target(each))
                    if found and int(found[1]) in inodes:
                        yield int(pid), int(each.name)
            except PermissionError:
                hidden = int(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
    if hidden:
        raise NotPermittedError(
            f"may not look whether process {hidden} has the proxy's listening socket: "
            "CAP_SYS_PTRACE needed; or start the proxy after capture was attached"
        )


def _processes(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # it has gone, or holds threads
        return []


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed meanwhile
        return ""


def _duplicate(pid: int, number: int) -> int | None:
    """Return our own descriptor of another process's; None: it is gone."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        found: int = _libc.syscall(_PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if found >= 0:
        return found
    code = ctypes.get_errno()
    if code == errno.EPERM:
        raise NotPermittedError(
            f"may not take the listening socket of process {pid}: CAP_SYS_PTRACE needed; or start "
            "the proxy after capture was attached"
        )
    if code in (errno.EBADF, errno.ESRCH):
        return None
    raise UproxyError(
        f"the proxy (process {pid}) listens already, and Linux {platform.release()} can't hand its "
        f"socket over ({os.strerror(code)}): start it after capture was attached"
    )
