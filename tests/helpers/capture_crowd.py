"""A crowd of clients that know nothing of capture, as a program.

`python capture_crowd.py hold COUNT ADDRESS,… PORTS`: opens COUNT connections, over all the
addresses and ports in turn, prints an account, keeps them until a line comes on standard input,
then has each echo a line, and prints another account.

`python capture_crowd.py dial SLOTS ADDRESS,… PORTS [SECONDS]`: opens a new connection whenever one
has been answered, SLOTS at a time, until a line comes or the time is over, then prints an account.

An account counts what connections ended in: `right` (the answer names the address and port that
were dialled), `wrong` (others), `proxy` and `real` (the words of tests/helpers/capture_proxy.py and
of `World.server`), or the error.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

AT_ONCE = 64
"""Connections that are being made at a time, of a crowd that holds."""
SILENCE_S = 30.0


@dataclass
class Client:
    to: tuple[str, int]
    socket: socket.socket
    since: float
    data: bytearray = field(default_factory=bytearray)


class Crowd:
    def __init__(self, addresses: list[str], ports: str) -> None:
        first, _, last = ports.partition("-")
        both = itertools.product(range(int(first), int(last or first) + 1), addresses)
        self._targets: Iterator[tuple[str, int]] = itertools.cycle((a, p) for p, a in both)
        self._poller = selectors.DefaultSelector()
        self._busy: dict[int, Client] = {}
        self._looked = 0.0
        self.done: list[Client] = []
        self.account: Counter[str] = Counter()

    def dial(self) -> None:
        to = next(self._targets)
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client = Client(to, made, time.monotonic())
        error = made.connect_ex(to)
        if error not in (0, errno.EINPROGRESS):
            self._failed(client, error)
            return
        self.expect(client)

    def expect(self, client: Client) -> None:
        """Wait until a client has a line."""
        client.since = time.monotonic()
        self._busy[client.socket.fileno()] = client
        self._poller.register(client.socket, selectors.EVENT_READ, client)

    def turn(self) -> int:
        """Let those that have something read it; return how many are still without a line."""
        for key, _ in self._poller.select(1.0):
            client: Client = key.data
            try:
                data = client.socket.recv(65536)
            except OSError as error:
                self._leave(client)
                self._failed(client, error.errno or 0)
                continue
            client.data += data
            if not data or data.endswith(b"\n"):
                self._leave(client)
                self.account[judged(client)] += 1
                self.done.append(client)
        self._give_up()
        return len(self._busy)

    def fill(self, slots: int) -> int:
        """Open connections until so many are without a line; return how many were opened."""
        missing = max(0, slots - len(self._busy))
        for _ in range(missing):
            self.dial()
        return missing

    def _give_up(self) -> None:
        now = time.monotonic()
        if now < self._looked + 1:
            return
        self._looked = now
        for client in [each for each in self._busy.values() if each.since < now - SILENCE_S]:
            self._leave(client)
            self._failed(client, errno.ETIMEDOUT)

    def _leave(self, client: Client) -> None:
        self._poller.unregister(client.socket)
        del self._busy[client.socket.fileno()]

    def _failed(self, client: Client, error: int) -> None:
        self.account[errno.errorcode.get(error, str(error))] += 1
        client.socket.close()

    def tell(self) -> None:
        sys.stdout.write(json.dumps(self.account) + "\n")
        sys.stdout.flush()
        self.account.clear()


def judged(client: Client) -> str:
    line = bytes(client.data)
    if line == b"real\n":
        return "real"
    if not line:
        return "closed"
    if not line.startswith(b"{"):
        return "echo"
    told = json.loads(line)
    if "door" in told:
        return "proxy" if tuple(told["original"]) == client.to else "wrong"
    return "right" if tuple(told["reached"]) == client.to else "wrong"


def hold(crowd: Crowd, count: int) -> None:
    while count:
        count -= crowd.fill(min(count, AT_ONCE))
        crowd.turn()
    while crowd.turn():
        pass
    crowd.tell()
    sys.stdin.readline()
    for client in crowd.done:
        client.data.clear()
        client.socket.sendall(b"again\n")
        crowd.expect(client)
    crowd.done = []
    while crowd.turn():
        pass
    crowd.tell()


def dial(crowd: Crowd, slots: int, seconds: float = 3600.0) -> None:
    os.set_blocking(0, False)
    end = time.monotonic() + seconds
    while time.monotonic() < end and sys.stdin.buffer.read(1) is None:
        crowd.fill(slots)
        crowd.turn()
        for client in crowd.done:
            client.socket.close()
        crowd.done.clear()
    while crowd.turn():
        pass
    crowd.tell()


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    what, count, addresses, ports, *seconds = sys.argv[1:]
    crowd = Crowd(addresses.split(","), ports)
    if what == "hold":
        hold(crowd, int(count))
    else:
        dial(crowd, int(count), *map(float, seconds))


if __name__ == "__main__":
    main()
