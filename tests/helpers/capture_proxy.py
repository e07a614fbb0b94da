"""A proxy to be captured for, as a program: tells each client what it sees of the connection.

`python capture_proxy.py OUT IN`: listens at both ports for both families, transparently, as
uProxy's captured doors do, and prints `ready`.  Each connection is answered with one line of JSON
and echoed to its end.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from typing import Any

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
SO_ORIGINAL_DST = 80
"""Of IPv4 and of IPv6 alike."""


def main() -> None:
    doors = {"outbound": int(sys.argv[1]), "inbound": int(sys.argv[2])}
    for name, port in doors.items():
        listener = listen(port)
        threading.Thread(target=serve, args=(name, listener), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


def listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    listener.bind(("::", port))
    listener.listen(4096)
    return listener


def serve(name: str, listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(name, connection), daemon=True).start()


def answer(name: str, connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        seen = {
            "door": name,
            "original": original(connection),
            "peer": plain(connection.getpeername()),
        }
        connection.sendall(json.dumps(seen).encode() + b"\n")
        while data := connection.recv(65536):
            connection.sendall(data)


def original(connection: socket.socket) -> list[Any]:
    """The destination that the client dialled: what conntrack remembers, else our own end."""
    local = plain(connection.getsockname())
    level, size = (socket.IPPROTO_IP, 16) if "." in local[0] else (socket.IPPROTO_IPV6, 28)
    try:
        raw = connection.getsockopt(level, SO_ORIGINAL_DST, size)
    except OSError:
        return local
    [port] = struct.unpack_from("!H", raw, 2)
    if size == 16:
        return [socket.inet_ntop(socket.AF_INET, raw[4:8]), port]
    return [socket.inet_ntop(socket.AF_INET6, raw[8:24]), port]


def plain(name: tuple[Any, ...]) -> list[Any]:
    return [name[0].removeprefix("::ffff:"), name[1]]


if __name__ == "__main__":
    main()
