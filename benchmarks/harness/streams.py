"""The application and the client of bulk transfers: one connection, blocks one way at a time.

`python -m benchmarks.harness.streams PORT` is the application.  A command is a letter and a
size; for `U` the client sends as many bytes and gets one back when the last has arrived, for
`D` it gets as many bytes.  So a time counts bytes that arrived, not bytes in buffers.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from pathlib import Path

from tests.helpers.ports import free_port, listens
from tests.helpers.processes import Process

BLOCK = 1 << 20
_COMMAND = struct.Struct("!cQ")
_ROOT = Path(__file__).parents[2]


class Warehouse(Process):
    """The application, on `port`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        argv = [sys.executable, "-m", "benchmarks.harness.streams", str(self.port)]
        log = folder / f"streams-{self.port}.log"
        super().__init__(argv, log, env={"PYTHONPATH": str(_ROOT)})

    def is_ready(self) -> bool:
        return listens(self.port)


def transfer(sock: socket.socket, direction: bytes, size: int) -> float:
    """Move `size` bytes to (`U`) or from (`D`) the application; returns the seconds it took.

    Raises:
        ConnectionError: the connection ended before.
    """
    begun = time.monotonic()
    sock.sendall(_COMMAND.pack(direction, size))
    if direction == b"U":
        _send(sock, size)
        _receive(sock, 1)
    else:
        _receive(sock, size)
    return time.monotonic() - begun


def _serve(sock: socket.socket) -> None:
    with sock:
        while command := sock.recv(_COMMAND.size, socket.MSG_WAITALL):
            direction, size = _COMMAND.unpack(command)
            if direction == b"U":
                _receive(sock, size)
                sock.sendall(b"!")
            else:
                _send(sock, size)


def _send(sock: socket.socket, size: int) -> None:
    block = memoryview(bytes(BLOCK))
    for offset in range(0, size, BLOCK):
        sock.sendall(block[: size - offset])


def _receive(sock: socket.socket, size: int) -> None:
    block = memoryview(bytearray(BLOCK))
    while size:
        count = sock.recv_into(block[: min(size, BLOCK)])
        if not count:
            raise ConnectionError(f"the connection ended with {size} bytes missing")
        size -= count


def main() -> None:
    """Serve until killed, a thread per connection."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
