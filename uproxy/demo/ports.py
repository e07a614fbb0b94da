"""Ports of loopback that nobody listens at.

They come from below the kernel's ephemeral range (32768 and up), so that no outgoing
connection takes one between the choice and the bind; another listener still may.
"""

from __future__ import annotations

import random
import socket

from uproxy.errors import UproxyError

_FIRST, _LAST = 20_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1, not given out before by this process.

    Raises:
        UproxyError: none is free.
    """
    # at random, so that two processes at once choose differently; not a secret
    for port in random.sample(range(_FIRST, _LAST), _LAST - _FIRST):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise UproxyError(f"no port between {_FIRST} and {_LAST} of 127.0.0.1 is free")


def listens(port: int) -> bool:
    """Whether something accepts TCP connections at this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
