"""Conversations with an echo: through an interactive program, or a plaintext socket.

A test types into the program and reads both its outputs; `openssl s_client` is one, with its
messages left on.  Every wait has a deadline, and leaving the `with` block kills the program.
"""

from __future__ import annotations

import contextlib
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from cryptography import x509

from uproxy.lab.identities import IdentityFiles
from uproxy.spiffe.encoding import serial_text

_TIMEOUT_S = 20.0
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
"""Seconds."""


class Dialogue:
    """A program that runs inside the `with` block."""

    def __init__(self, argv: Sequence[str | Path]) -> None:
        self._argv = [str(word) for word in argv]
        self.received = ""
        """Everything it has written so far."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        return self

    def __exit__(self, *why: object) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def type(self, text: bytes) -> None:
        """Write `text` to its input; do nothing if it has ended."""
        with contextlib.suppress(BrokenPipeError):
            self._input.write(text)

    def receive(self, pattern: str) -> str:
        """Wait until its output matches `pattern`; return the output.

        Raises:
            AssertionError: it ended, or took longer than 20 s, without a match.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        while not re.search(pattern, self.received):
            if not self._read_more(deadline):
                raise AssertionError(f"ended without {pattern!r}:\n{self.received}")
        return self.received

    def end(self) -> str:
        """Close its input and wait for its end; return its output.

        Raises:
            AssertionError: it didn't end within 20 s.
        """
        self._input.close()
        return self.receive_until_end()

    def receive_until_end(self) -> str:
        """Wait for its end; return its output.

        Raises:
            AssertionError: it didn't end within 20 s.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        while self._read_more(deadline):
            continue
        return self.received

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _read_more(self, deadline: float) -> bool:
        """Read what it has written since; return False at its end."""
        readable, _, _ = select.select(
            [self._output], [], [], max(0.0, deadline - time.monotonic())
        )
        if not readable:
            raise AssertionError(
                f"{self._argv[0]} said nothing more in {_TIMEOUT_S:g} s:\n{self.received}"
            )
        said = self._output.read(1 << 16) or b""
        self.received += said.decode(errors="replace")
        return bool(said)


def s_client(port: int, identity: IdentityFiles | None, *options: str | Path) -> Dialogue:
    """Run `openssl s_client` to a loopback port, with `identity` and trusting its bundle; its
    messages, such as `New` or `Reused`, are in the output."""
    argv: list[str | Path] = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"]
    if identity is not None:
        argv += ["-cert", identity.svid, "-cert_chain", identity.svid, "-key", identity.key]
        argv += ["-CAfile", identity.bundle, "-no-CApath", "-no-CAstore"]
        argv += ["-verify_return_error"]
    return Dialogue([*argv, *options])


@contextlib.contextmanager
def open_connection(port: int, identity: IdentityFiles) -> Iterator[Dialogue]:
    """Yield an s_client that has received one echo."""
    with s_client(port, identity) as client:
        client.type(b"hello\n")
        client.receive("(?m)^hello$")
        yield client


def still_talks(client: Dialogue) -> None:
    """Check that its connection still echoes."""
    client.type(b"still here\n")
    client.receive("(?m)^still here$")


def is_reset(client: Dialogue) -> None:
    """Check that its connection ends with a reset."""
    assert "errno=104" in client.receive_until_end()


def refused(port: int, identity: IdentityFiles | None, *options: str | Path) -> str:
    """Return the output of an s_client until the other side has ended the connection; fail if
    anything is echoed."""
    with s_client(port, identity, *options) as client:
        client.type(b"hello\n")
        said = client.receive_until_end()
    assert not re.search("(?m)^hello$", said)
    return said


def shown_serial(client: Dialogue) -> str:
    """Return the serial number of the certificate that s_client received."""
    found = re.search(
        "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", client.received, re.S
    )
    assert found is not None
    return serial_text(x509.load_pem_x509_certificate(found.group().encode()))


def dial(port: int, source: str = "127.0.0.1") -> socket.socket:
    """Connect to a loopback port in plaintext, from the address `source`; small writes are sent at
    once."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        client.settimeout(_TIMEOUT_S)
        # the port is chosen when it connects: many may come from one address
        client.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((source, 0))
        client.connect(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stack.pop_all()
    return client


def talk(client: socket.socket, word: bytes = b"hello") -> None:
    """Send a word to an echo and check that it comes back."""
    client.sendall(word)
    assert client.recv(len(word), socket.MSG_WAITALL) == word


def ask(port: int, line: bytes = b"hello\n", host: str = "127.0.0.1") -> bytes:
    """Send a line in plaintext and return the line that comes back; empty if the connection
    ended or was reset instead."""
    answer = b""
    # a reset may come as early as in connect()
    with (
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
        socket.create_connection((host, port), _TIMEOUT_S) as sock,
    ):
        sock.sendall(line)
        while not answer.endswith(b"\n") and (more := sock.recv(1 << 16)):
            answer += more
    return answer
