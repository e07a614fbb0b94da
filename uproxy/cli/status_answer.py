"""Where a running uProxy answers, and what it answers: for `uproxy status`.

The address is given, or that of `admin.listen` in a configuration file.  What is fetched is
what any client can; every unprintable character is replaced.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uproxy import __version__
from uproxy.app.reading import read_text
from uproxy.cli.status_lines import printable
from uproxy.cli.status_text import Status, render
from uproxy.config import load_admin_listen
from uproxy.errors import ConfigError, NotPermittedError, UproxyError, UsageError, in_words
from uproxy.model import Address, SystemdAddress, TcpAddress, UnixAddress

TIMEOUT_S = 5.0
"""Seconds that the admin listener may take to answer."""
LONGEST_ANSWER = 16 * 1024 * 1024
"""Bytes read at most; uProxy's answer has less than one MiB."""

_NOT_OURS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading another program's answer as uProxy's raises."""

_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def parse_address(text: str, argument: str = "--admin") -> Address:
    """Parse `host:port`, `[::1]:port` or `unix:///path`; `argument` is where it was given.

    Raises:
        UsageError: it is none of these.
    """
    path = text.removeprefix("unix:").removeprefix("//")
    if text.startswith("unix:") and path.startswith("/"):
        return UnixAddress(path)
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host) or not (port.isascii() and port.isdigit()):
        raise UsageError(f"{argument} {text!r} is no host:port or unix:///path")
    if int(port) > 65535:
        raise UsageError(f"{argument} {text!r}: ports end at 65535")
    return TcpAddress(bare, int(port))


def configured_address(path: Path, environ: Mapping[str, str]) -> Address:
    """Return where the uProxy that runs this configuration answers.

    Raises:
        ConfigError: the file isn't YAML, or its `admin.listen` is wrong.
        UsageError: it can't be read, or doesn't say where.
        NotPermittedError: it may not be read.
    """
    try:
        listen = load_admin_listen(read_text(path), environ=environ)
    except ConfigError as error:
        way_out = "if its uProxy runs, ask it by --admin ADDR"
        raise ConfigError(
            tuple(
                replace(mistake, reason=f"{mistake.reason}; {way_out}")
                for mistake in error.in_file(str(path)).mistakes
            )
        ) from None
    if listen is None:
        raise UsageError(f"--config {path}: admin.listen is off, so nobody can be asked")
    if isinstance(listen, SystemdAddress):
        raise UsageError(
            f"--config {path}: admin.listen is {listen}, whose address stands in its socket unit: "
            "give it by --admin ADDR"
        )
    if isinstance(listen, TcpAddress) and listen.ip is not None and listen.ip.is_unspecified:
        return TcpAddress(_LOOPBACK[listen.ip.version], listen.port)
    return listen


@dataclass(frozen=True, slots=True)
class Uproxy:
    """A running uProxy, by where it answers."""

    address: Address
    config: Path | None = None
    """The file that it must run; None: any."""

    def fetch(self) -> Status:
        """Return the answer of /status.json with everything unprintable replaced.

        Raises:
            NotPermittedError: this user may not connect to its socket.
            UproxyError: nothing answers, or something else than uProxy does, or one that runs
                another file than `config`.
        """
        body = _get(self.address, "/status.json")
        answer: Any = None
        try:
            answer = printable(json.loads(body))
            render(answer)
            running: str = answer["process"]["config"]
        except _NOT_OURS as error:
            raise _unreadable(self.address, answer, error) from error
        if self.config is not None and not _is_same_file(str(self.config), running):
            raise UproxyError(
                f"the uProxy at {self.address} runs {running}, not {self.config}: "
                "--admin ADDR asks whichever is there"
            )
        facts: Status = answer
        return facts

    def rules(self) -> frozenset[str]:
        """Return the names of its authorization rules.

        Raises:
            UproxyError: as for `fetch`.
        """
        body = _get(self.address, "/config_dump")
        try:
            rules = printable(json.loads(body))["settings"]["authorization"]
            return frozenset(rule["name"] for rule in rules)
        except _NOT_OURS:
            raise _stranger(self.address) from None


def _is_same_file(asked: str, running: str) -> bool:
    """Return whether two paths are the same, or lead to one file."""
    if os.path.abspath(asked) == running:
        return True
    try:
        return os.path.samefile(asked, running)
    except OSError:
        return False


def _get(address: Address, path: str) -> bytes:
    """Return what is answered to a GET of `path`.

    Raises:
        UproxyError: nothing is, or a refusal.
    """
    connection = _Connection(address)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            status, body = response.status, response.read(LONGEST_ANSWER)
        except http.client.HTTPException:
            raise _stranger(address) from None
        except OSError as error:
            raise _no_answer(address, error) from None
    if status == 404:  # another listener of uProxy's, or another program
        raise _stranger(address)
    if status != 200:
        lines = body.decode(errors="replace").splitlines() or ["no reason given"]
        raise UproxyError(f"{address} answers {status}: {printable(lines[0])}")
    return body


def _unreadable(address: Address, answer: Any, error: Exception) -> UproxyError:
    """Return the error for an answer of /status.json that can't be shown because of `error`."""
    try:
        theirs = answer["process"]["versions"]["uproxy"]
    except _NOT_OURS:
        return _stranger(address)
    what = f"the uProxy {theirs} at {address} answers what uProxy {__version__} can't show"
    return UproxyError(f"{what} ({type(error).__name__}): --log-level debug shows where")


def _stranger(address: Address) -> UproxyError:
    return UproxyError(f"{address} answers, but not as uProxy does: is it admin.listen?")


def _no_answer(address: Address, error: OSError) -> UproxyError:
    """Return the error to raise instead of one of connect, send or receive."""
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return UproxyError(
            f"nothing answers at {address}: is uProxy running, and is admin.listen set?"
        )
    if isinstance(error, PermissionError):
        return NotPermittedError(
            f"this user may not connect to {address}: see admin.mode and admin.owner"
        )
    if isinstance(error, TimeoutError):
        return UproxyError(f"{address} doesn't answer within {TIMEOUT_S:g} s: is it admin.listen?")
    return UproxyError(f"{address} can't be asked: {in_words(error)}")


class _Connection(http.client.HTTPConnection):
    """An HTTP connection to a TCP address or a unix socket."""

    def __init__(self, address: Address) -> None:
        host = address.host if isinstance(address, TcpAddress) else "localhost"
        port = address.port if isinstance(address, TcpAddress) else 80
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._address = address

    def connect(self) -> None:
        if isinstance(self._address, TcpAddress):
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._address.path)
