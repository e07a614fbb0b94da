"""A service that says where it was reached, as a program.

`python capture_service.py PORTS [PROCESSES]`: listens at the ports (`8080` or `7001-7020`) for both
families, and prints `ready`.  Each connection gets one line of JSON and its bytes back, to the end.
With PROCESSES it forks that many, which share the listening sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import socket
import sys
from typing import Any


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    first, _, last = sys.argv[1].partition("-")
    listeners = [listen(port) for port in range(int(first), int(last or first) + 1)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in range(int(sys.argv[2]) - 1 if len(sys.argv) > 2 else 0):
        if os.fork() == 0:
            break
    serve(listeners)


def listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setblocking(False)
    listener.bind(("::", port))
    listener.listen(4096)
    return listener


def serve(listeners: list[socket.socket]) -> None:
    poller = selectors.DefaultSelector()
    for listener in listeners:
        poller.register(listener, selectors.EVENT_READ, accept)
    while True:
        for key, _ in poller.select():
            key.data(poller, key.fileobj)


def accept(poller: selectors.BaseSelector, listener: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):  # another process was first
        while True:
            connection, peer = listener.accept()
            connection.setblocking(True)
            where = connection.getsockname()
            said = {"reached": plain(where), "caller": plain(peer)[0]}
            poller.register(connection, selectors.EVENT_READ, echo)
            try:
                connection.sendall(json.dumps(said).encode() + b"\n")
            except ConnectionError:
                close(poller, connection)


def echo(poller: selectors.BaseSelector, connection: socket.socket) -> None:
    data = b""
    with contextlib.suppress(ConnectionError):
        data = connection.recv(65536)
        connection.sendall(data)
    if not data:
        close(poller, connection)


def close(poller: selectors.BaseSelector, connection: socket.socket) -> None:
    poller.unregister(connection)
    connection.close()


def plain(name: tuple[Any, ...]) -> list[Any]:
    return [name[0].removeprefix("::ffff:"), name[1]]


if __name__ == "__main__":
    main()
