"""An application that knows nothing of capture, as a program: connects, and prints what came of it.

`python -m tests.helpers.capture_app ADDRESS PORT [OPTION…]`; one line of JSON.  Options: `mapped`
(IPv4 as ::ffff:…), `device=NAME` (SO_BINDTODEVICE), `source=PORT`, `again=ADDRESS[,PORT]`
(connects the same socket again, there), `mptcp` (IPPROTO_MPTCP), `fastopen` (sends with the SYN,
if the kernel can), `uring` (IORING_OP_CONNECT; `uring=async`: a kernel thread does it), `wait`
(makes the socket, prints `made`, and connects when a line comes), `hold` (prints, then echoes
until standard input ends), `unmark` (sets SO_MARK to 0 once it is connected and has its answer).
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import sys
import time
from typing import Any

IPPROTO_MPTCP = 262
TCPI_OPT_SYN_DATA = 32
"""In tcpi_options: the peer took what was sent with the SYN."""


def main() -> None:
    address, port, *words = sys.argv[1:]
    options = dict(word.partition("=")[::2] for word in words)
    family = socket.AF_INET6 if ":" in address or "mapped" in options else socket.AF_INET
    name = f"::ffff:{address}" if "mapped" in options else address
    with socket.socket(family, socket.SOCK_STREAM, protocol(options)) as client:
        client.settimeout(10)
        if "wait" in options:
            say("made")
            sys.stdin.readline()
        begun = time.monotonic()
        try:
            seen = talk(client, name, int(port), options)
        except OSError as error:
            what = errno.errorcode.get(error.errno or 0, "timeout")
            seen = {"error": what}
        seen["seconds"] = time.monotonic() - begun
        say(json.dumps(seen))
        while "hold" in options and (line := sys.stdin.readline()):
            say(echo(client, line))


def protocol(options: dict[str, str]) -> int:
    return IPPROTO_MPTCP if "mptcp" in options else 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def talk(client: socket.socket, name: str, port: int, options: dict[str, str]) -> dict[str, Any]:
    if "device" in options:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options["device"].encode())
    if "source" in options:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("", int(options["source"])))
    [*_, to] = socket.getaddrinfo(name, port, client.family, socket.SOCK_STREAM)[0]  # with a scope
    if "fastopen" in options:
        send_with_syn(client, b"with the SYN\n", to)
    elif "uring" in options:
        io_uring_connect(client, to, is_async=options["uring"] == "async")
    else:
        client.connect(to)
    if "again" in options:
        unconnect(client)
        address, _, other = options["again"].partition(",")
        client.connect((address, int(other or port)))
    seen = read(client)
    if "unmark" in options:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
    return {**seen, **({"early": early(client)} if "fastopen" in options else {})}


def send_with_syn(client: socket.socket, data: bytes, to: Any) -> None:
    """sendto(2), which connects, and waits for that if it has no cookie."""
    ten_seconds = struct.pack("@ll", 10, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, ten_seconds)
    client.settimeout(None)
    client.sendto(data, socket.MSG_FASTOPEN, to)
    client.settimeout(10)


def io_uring_connect(client: socket.socket, to: Any, *, is_async: bool) -> None:
    from tests.helpers import io_uring

    io_uring.connect(client, to[:2], is_async=is_async)


def early(client: socket.socket) -> bool:
    """Whether the peer took what came with the SYN."""
    options = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
    return bool(options & TCPI_OPT_SYN_DATA)


def read(client: socket.socket) -> dict[str, Any]:
    line = client.makefile("r").readline()
    return {
        "answer": json.loads(line) if line.startswith("{") else line.strip(),
        "peername": list(client.getpeername()[:2]),
        "sockname": list(client.getsockname()[:2]),
    }


def unconnect(client: socket.socket) -> None:
    """connect(2) with AF_UNSPEC, which Python doesn't offer."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(client.fileno(), bytes(16), 16):
        raise OSError(ctypes.get_errno(), "connect(AF_UNSPEC)")


def echo(client: socket.socket, line: str) -> str:
    try:
        client.sendall(line.encode())
        return client.recv(65536).decode().strip()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "timeout")


if __name__ == "__main__":
    main()
