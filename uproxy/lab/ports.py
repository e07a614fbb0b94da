"""Chooses free loopback ports.

They are below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes
one before it is used; another listener still could.
"""

from __future__ import annotations

import random
import socket

from uproxy.errors import UproxyError

_FIRST, _LAST = 18_000, 32_000
_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a free TCP port of 127.0.0.1 that this process hasn't returned before.

    Raises:
        UproxyError: none is free.
    """
    count = _LAST - _FIRST
    # in random order, so that processes at the same time choose different ones
    start = random.randrange(count)
    for offset in range(count):
        port = _FIRST + (start + offset) % count
        if port not in _given and not is_taken(port, host):
            _given.add(port)
            return port
    raise UproxyError(f"no port between {_FIRST} and {_LAST} of {host} is free")


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
