"""The ClientHello parsers of the compiled and of the Python engine, fed with the same pieces.

The compiled one is reached through a module around it (`probes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.helpers import probes
from uproxy.transport.python.client_hello import ClientHello


def python(pieces: Sequence[bytes]) -> int:
    """After how many pieces the Python engine has heard enough; -1: it waits for more."""
    hello = ClientHello()
    for number, piece in enumerate(pieces, 1):
        if hello.feed(piece):
            return number
    return -1


def pieces(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """A stream as it may arrive, cut at so many bytes each time; an end is no piece."""
    parts, rest = [], stream
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    return [part for part in (*parts, rest) if part]


def compiled() -> Callable[[Sequence[bytes]], int]:
    """The same question to the compiled engine.

    Raises:
        subprocess.CalledProcessError: it can't be built.
    """
    ask: Callable[[list[bytes]], int] = probes.load("hostile_hello_probe").completed_after
    return lambda pieces: ask(list(pieces))
