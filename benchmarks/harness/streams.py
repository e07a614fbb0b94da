"""The clients of bulk transfers: connections, each in a thread of its own.

Bytes count when they have arrived: the application confirms the last byte of an upload, and sends
those of a download.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.harness.application import REQUEST_BYTES
from benchmarks.harness.clients import next_source

UP, DOWN = b"U", b"D"
_BLOCK = 1 << 20
_STEP = 32 << 20
"""Bytes of one transfer: about 30 ms, so that all streams end at almost the same time."""
_COMMAND = struct.Struct("!cQ")


@dataclass(frozen=True, slots=True)
class Moved:
    """The result of all streams together."""

    size: int
    """Bytes."""
    seconds: float

    @property
    def gbit_s(self) -> float:
        return self.size * 8 / self.seconds / 1e9

    @property
    def gb(self) -> float:
        """10⁹ bytes."""
        return self.size / 1e9


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[Sequence[socket.socket]]:
    """Open `count` connections while the block runs."""
    source = (next_source(), 0)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60.0, source))
            for _ in range(count)
        ]


def move(streams: Sequence[socket.socket], direction: bytes, seconds: float) -> Moved:
    """Transfer over all streams at once for at least `seconds`.

    Raises:
        ConnectionError: a connection ended before.
    """
    begun = time.monotonic()

    def is_over() -> bool:
        return time.monotonic() >= begun + seconds

    with ThreadPoolExecutor(len(streams)) as pool:
        sizes = pool.map(lambda each: _repeat(each, direction, is_over), streams)
    return Moved(sum(sizes), time.monotonic() - begun)


@contextlib.contextmanager
def moving(streams: Sequence[socket.socket], direction: bytes) -> Iterator[list[Moved]]:
    """Transfer over all streams while the block runs; afterwards the list has the result.

    Raises:
        ConnectionError: a connection ended before.
    """
    moved: list[Moved] = []
    done = threading.Event()
    begun = time.monotonic()
    with ThreadPoolExecutor(len(streams)) as pool:
        sizes = pool.map(lambda each: _repeat(each, direction, done.is_set), streams)
        try:
            yield moved
        finally:
            done.set()
        moved.append(Moved(sum(sizes), time.monotonic() - begun))


def _repeat(sock: socket.socket, direction: bytes, is_over: Callable[[], bool]) -> int:
    size = _transfer(sock, direction)
    while not is_over():
        size += _transfer(sock, direction)
    return size


def _transfer(sock: socket.socket, direction: bytes) -> int:
    sock.sendall(_COMMAND.pack(direction, _STEP).ljust(REQUEST_BYTES, b"\0"))
    if direction == UP:
        _send(sock, _STEP)
        _receive(sock, 1)
    else:
        _receive(sock, _STEP)
    return _STEP


def _send(sock: socket.socket, size: int) -> None:
    block = memoryview(bytes(_BLOCK))
    for offset in range(0, size, _BLOCK):
        sock.sendall(block[: size - offset])


def _receive(sock: socket.socket, size: int) -> None:
    block = memoryview(bytearray(_BLOCK))
    while size:
        count = sock.recv_into(block[: min(size, _BLOCK)])
        if not count:
            raise ConnectionError(f"the connection ended with {size} bytes missing")
        size -= count
