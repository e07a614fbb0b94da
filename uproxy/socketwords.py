"""Errors of sockets in words: why an address can't be listened at or reached, and the way out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from uproxy.errors import InUseError, NotPermittedError, UproxyError
from uproxy.model import Address, TcpAddress


def cannot_listen(address: Address, error: OSError) -> UproxyError:
    """Return the error that says why listening at `address` failed."""
    if error.errno == errno.EADDRINUSE:
        holder = _listening_process(address) if isinstance(address, TcpAddress) else None
        by = f" by {holder}" if holder else ": another process listens there"
        return InUseError(f"{address} is in use{by}")
    if isinstance(address, TcpAddress):
        if error.errno in (errno.EACCES, errno.EPERM):
            return NotPermittedError(
                f"{address} can't be opened: ports below 1024 need CAP_NET_BIND_SERVICE"
            )
        if error.errno == errno.EADDRNOTAVAIL:
            off = "; is IPv6 switched off here?" if ":" in address.host else ""
            return UproxyError(f"{address} is no address of this machine{off}")
        if error.errno == errno.EAFNOSUPPORT:
            return UproxyError(f"{address} can't be opened: {_without_ipv6(address)}")
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return UproxyError(
                f"{address} can't be opened: its zone is no interface of this machine"
            )
        return UproxyError(f"{address} can't be opened: {_error_text(error)}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermittedError(
            f"{address} can't be made: no write permission for its folder, or not its owner"
        )
    if error.errno == errno.ENOENT:
        return UproxyError(f"{address} can't be made: its folder doesn't exist")
    return UproxyError(f"{address} can't be made: {_error_text(error)}")


def _without_ipv6(address: TcpAddress) -> str:
    ip = address.ip
    instead = "127.0.0.1" if ip is not None and ip.is_loopback else "0.0.0.0"  # noqa: S104  advice
    return f"this kernel has no IPv6; listen at {instead}:{address.port}, or switch IPv6 on"


def _listening_process(address: TcpAddress) -> str | None:
    """Return `name (pid N)` of the port's listener; None if /proc doesn't show it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in _lines(Path("/proc/net") / table)[1:]:
            fields = line.split()
            listening = fields[3] == "0A"
            if listening and int(fields[1].rpartition(":")[2], 16) == address.port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # another user's process, or one that has just gone
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # no IPv6, or no /proc


def explain(error: int, address: Address, server: str) -> str:
    """Return why connecting to an address failed, with the likely cause.  `error` is an errno;
    `server` is what should listen there: `the application`."""
    if error == errno.ECONNREFUSED:
        return f"connection refused by {address}: is {server} running?"
    if error == errno.ENOENT:
        return f"no socket at {address}: is {server} running?"
    if error in (errno.EACCES, errno.EPERM):
        return f"no permission to connect to {address}"
    if error in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"no route to {address}"
    if error in (errno.EMFILE, errno.ENFILE):
        return f"no descriptor left to connect to {address}: raise LimitNOFILE"
    if error == errno.EADDRNOTAVAIL:
        return f"no local port left to connect to {address}"
    if error in (errno.ENODEV, errno.ENXIO):
        return f"can't connect to {address}: its zone is no interface of this machine"
    if error == errno.EAFNOSUPPORT:
        return f"can't connect to {address}: this kernel has no IPv6"
    if error == errno.EAGAIN:
        return f"the queue of {address} is full: {server} doesn't accept"
    return f"can't connect to {address}: {os.strerror(error).lower()}"


def _error_text(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error).lower()
