"""Ports that are free on loopback.

They come from below the kernel's ephemeral range (32768 and up), so that no outgoing
connection of another test can take one between the choice and the bind.
"""

from __future__ import annotations

import itertools
import random
import socket

_FIRST, _LAST = 18_000, 32_000
# two test runs at once start at different places; not a secret
_candidates = itertools.count(random.randrange(_LAST - _FIRST))  # noqa: S311


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens at on `host`, not given out before by this process."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for offset in itertools.islice(_candidates, _LAST - _FIRST):
        port = _FIRST + offset % (_LAST - _FIRST)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port on {host} between {_FIRST} and {_LAST}")


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts TCP connections there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens there now, found out without connecting: nobody notices."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
        return False
