"""The application behind the proxies: application.c, for small requests and bulk streams.

A request has 64 bytes and an answer 1 KiB.  `ask` is a client for a single request; loads come
from `clients` and `streams`.
"""

from __future__ import annotations

import socket
from pathlib import Path

from benchmarks.harness.compiled import compiled
from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process

REQUEST_BYTES = 64
ANSWER_BYTES = 1024


class Application(Process):
    """Listens on `port` of loopback."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        log = folder / f"application-{self.port}.log"
        super().__init__([compiled("application"), str(self.port)], log)

    def is_ready(self) -> bool:
        return listens(self.port)


def ask(port: int) -> socket.socket:
    """Return a connection on which one request was answered completely; it stays open.

    Raises:
        ConnectionError: the answer ended early.
    """
    sock = socket.create_connection(("127.0.0.1", port), timeout=30.0)
    sock.sendall(b"R" * REQUEST_BYTES)
    missing = ANSWER_BYTES
    while missing:
        data = sock.recv(missing)
        if not data:
            sock.close()
            raise ConnectionError(f"port {port} closed with {missing} bytes missing")
        missing -= len(data)
    return sock
