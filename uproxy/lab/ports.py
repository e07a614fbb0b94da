"""Chooses free loopback ports.

They are below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes
one before it is used.  A process takes them from blocks that it alone has claimed in its network
namespace, because a port is free for some time between being chosen and being listened at.
"""

from __future__ import annotations

import os
import random
import socket
from collections import deque

from uproxy.errors import UproxyError

_FIRST, _LAST = 18_000, 32_000
_BLOCK = 100
_KEPT = 8

_left: list[int] = []
_claims: deque[int] = deque()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port at which nothing listens, and that no process that asks here has of late.

    Of late means: among the last 700 that a process was given, at least.

    Raises:
        UproxyError: none is free.
    """
    for _ in range(_FIRST, _LAST):
        if not _left and not _claim_block():
            break
        port = _left.pop()
        if not is_taken(port, host):
            return port
    raise UproxyError(f"no port between {_FIRST} and {_LAST} of {host} is free")


def _claim_block() -> bool:
    """Claim a block of ports that no other process has, and let go of the oldest of many.

    Return whether there was one.  The claim is a name among abstract Unix sockets: it belongs to
    the network namespace, as ports do, and the kernel ends it with the process.
    """
    starts = list(range(_FIRST, _LAST, _BLOCK))
    random.shuffle(starts)
    for start in starts:
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0uproxy-lab-ports-{start}")
            except OSError:
                continue
            _claims.append(claim.detach())
        if len(_claims) > _KEPT:
            os.close(_claims.popleft())
        _left.extend(range(start, min(start + _BLOCK, _LAST)))
        return True
    return False


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts TCP connections at this port now."""
    with _probe(host) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a port is in use, without connecting to it."""
    with _probe(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
        return False


def _probe(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
