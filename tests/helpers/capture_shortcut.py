"""Both ends of connections that are short-circuited, as a program.

`python capture_shortcut.py serve PORT`: a proxy that does what each connection's first line says,
and prints `ready`, then a line about each connection's end.
`python capture_shortcut.py TASK ADDRESS PORT [WORD…]`: an application; prints one line of JSON.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import hashlib
import json
import select
import socket
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MANY = 20_000
BIG = 32 << 20
SLOW = 8 << 20
MPTCP = 262
TCP_ULP, SOL_TLS, TLS_TX = 31, 282, 1


def main() -> None:
    task, *words = sys.argv[1:]
    if task == "serve":
        serve(int(words[0]))
        return
    address, port, *rest = words
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = MPTCP if task == "several" else 0
    with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
        sock.settimeout(20)
        if task != "early":
            sock.connect((address, int(port)))
        else:
            rest = [address, port]
        say(json.dumps(TASKS[task](sock, *rest)))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# --- the proxy ---


def serve(port: int) -> None:
    from tests.helpers.capture_proxy import listen

    listener = listen(port)
    say("ready")
    while True:
        connection, _ = listener.accept()
        connection.settimeout(20)  # as proxies do, it doesn't block
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    with connection:
        try:
            command, *words = line(connection).split()
            say(f"{command} {DOES[command](connection, *words)}")
        except OSError as error:
            say(f"{command} {name_of(error)}")


def line(connection: socket.socket) -> str:
    found = b""
    while not found.endswith(b"\n"):
        found += connection.recv(1)
    return found.decode()


def digest(connection: socket.socket) -> str:
    """Read to the end."""
    read = hashlib.sha256()
    while data := connection.recv(1 << 16):
        read.update(data)
    return read.hexdigest()


def do_hash(connection: socket.socket) -> str:
    found = digest(connection)
    connection.sendall(found.encode())
    return found


def do_echo(connection: socket.socket) -> str:
    while data := connection.recv(1 << 16):
        connection.sendall(data)
    return "ended"


def do_give(connection: socket.socket) -> str:
    connection.sendall(content(BIG))
    return "given"


def do_slow(connection: socket.socket, fifo: str) -> str:
    with Path(fifo).open():  # until the application opens it
        return do_hash(connection)


def do_reset(connection: socket.socket) -> str:
    reset(connection)
    return "reset"


def do_leave(connection: socket.socket) -> str:
    """End our direction first."""
    connection.sendall(b"bye")
    connection.shutdown(socket.SHUT_WR)
    return digest(connection)


def do_count(connection: socket.socket) -> str:
    """What epoll and FIONREAD say of ten bytes that wait."""
    with select.epoll() as poll:
        poll.register(connection, select.EPOLLIN)
        seen = poll.poll(5)
    said = f"{bool(seen)} {unread(connection)} {len(connection.recv(100))}"
    connection.sendall(said.encode())
    return said


def do_raw(connection: socket.socket) -> str:
    """The first byte that comes."""
    connection.sendall(b"go")
    return connection.recv(1).hex()


DOES: dict[str, Callable[..., str]] = {
    "hash": do_hash, "echo": do_echo, "give": do_give, "slow": do_slow, "reset": do_reset,
    "leave": do_leave, "count": do_count, "raw": do_raw,
}  # fmt: skip


# --- the application ---


def content(size: int) -> bytes:
    """Bytes of which each block of four is another."""
    return array.array("I", range(size // 4)).tobytes()


def read(sock: socket.socket) -> str:
    found = b""
    while data := sock.recv(4096):
        found += data
    return found.decode()


def hashed(sock: socket.socket, pieces: Iterator[bytes]) -> bool:
    """Whether the proxy has read what we wrote, piece by piece."""
    sent = hashlib.sha256()
    for piece in pieces:
        sock.sendall(piece)
        sent.update(piece)
    sock.shutdown(socket.SHUT_WR)
    return read(sock) == sent.hexdigest()


def big(sock: socket.socket) -> Any:
    sock.sendall(b"hash\n")
    data = content(BIG)
    return hashed(sock, (data[at : at + 65536] for at in range(0, BIG, 65536)))


def small(sock: socket.socket) -> Any:
    sock.sendall(b"hash\n")
    return hashed(sock, (b"%d," % number * (number % 50 + 1) for number in range(MANY)))


def early(sock: socket.socket, address: str, port: str) -> Any:
    """Let the first write connect (TCP_FASTOPEN), blocking: its bytes go out by TCP."""
    first = b"hash\n" + content(1 << 16)
    sock.setblocking(True)
    sent = sock.sendto(first, socket.MSG_FASTOPEN, (address, int(port)))
    sock.settimeout(20)
    rest = [first[sent:], *(b"%d," % number for number in range(MANY))]
    whole = hashlib.sha256(first[5:])
    for each in rest[1:]:
        whole.update(each)
    sock.sendall(rest[0])
    for each in rest[1:]:
        sock.sendall(each)
    sock.shutdown(socket.SHUT_WR)
    return read(sock) == whole.hexdigest()


def take(sock: socket.socket) -> Any:
    """Read in pieces of MSG_WAITALL, which must be whole."""
    sock.sendall(b"give\n")
    sock.settimeout(None)
    pieces = []
    for _ in range(BIG >> 20):
        select.select([sock], [], [])
        pieces.append(sock.recv(1 << 20, socket.MSG_WAITALL))
    return [{len(each) for each in pieces} == {1 << 20}, b"".join(pieces) == content(BIG)]


def slow(sock: socket.socket, fifo: str) -> Any:
    """Write while nobody reads, as long as the socket takes it; then the rest."""
    sock.sendall(f"slow {fifo}\n".encode())
    data = content(SLOW)
    sock.setblocking(False)
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while taken < SLOW:
            taken += sock.send(data[taken : taken + 10_000])
            if taken % 7 == 0:
                taken += sock.send(data[taken : taken + 3])
    sock.settimeout(20)
    with Path(fifo).open("w"):
        pass
    sock.sendall(data[taken:])
    sock.shutdown(socket.SHUT_WR)
    return [taken, read(sock) == hashlib.sha256(data).hexdigest()]


def was_reset(sock: socket.socket) -> Any:
    sock.sendall(b"reset\n")
    try:
        return sock.recv(1).decode()
    except OSError as error:
        return name_of(error)


def resets(sock: socket.socket) -> Any:
    sock.sendall(b"leave\n")
    sock.recv(3)
    reset(sock)
    return "reset"


def left(sock: socket.socket) -> Any:
    """Go on writing when the other direction has ended."""
    sock.sendall(b"leave\n")
    said = read(sock)
    data = content(1 << 20)
    sock.sendall(data)
    return [said, hashlib.sha256(data).hexdigest()]


def late(sock: socket.socket) -> Any:
    sock.sendall(b"echo\n")
    sock.shutdown(socket.SHUT_WR)
    try:
        return sock.send(b"too late")
    except OSError as error:
        return name_of(error)


def counted(sock: socket.socket) -> Any:
    sock.sendall(b"count\n")
    sock.sendall(b"0123456789")
    return read(sock)


def layered(sock: socket.socket) -> Any:
    """Send by the kernel's TLS: what goes out is a record, not what was written."""
    sock.sendall(b"raw\n")
    sock.recv(2)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    except OSError as error:
        return name_of(error)
    aes_gcm_128 = struct.pack("=HH", 0x0303, 51) + bytes(8 + 16 + 4 + 8)
    sock.setsockopt(SOL_TLS, TLS_TX, aes_gcm_128)
    sock.sendall(b"secret")
    read(sock)
    return "sent"


def hold(sock: socket.socket) -> Any:
    """Echo what standard input says until it ends."""
    sock.sendall(b"echo\n")
    say("connected")
    for each in sys.stdin:
        try:
            sock.sendall(each.encode())
            say(sock.recv(65536).decode().strip())
        except OSError as error:
            say(name_of(error))
    return "ended"


TASKS: dict[str, Callable[..., Any]] = {
    "big": big, "several": big, "early": early, "small": small, "take": take, "slow": slow,
    "reset": was_reset, "resets": resets, "left": left, "late": late, "counted": counted,
    "layered": layered, "hold": hold,
}  # fmt: skip


# --- both ---


def unread(sock: socket.socket) -> int:
    found = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, found)
    return found[0]


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "timeout")


if __name__ == "__main__":
    main()
