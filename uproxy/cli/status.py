"""`uproxy status`: shows what a running uProxy does, once or as a live view.

It reads the admin listener as any client can.  The live view uses the terminal's alternate
screen and restores the terminal however it ends.  If standard output is not a terminal,
`--watch` prints the plain output again each second.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from uproxy.cli.status_text import Earlier, Line, LineKind, Status, printable, render
from uproxy.errors import UproxyError, UsageError
from uproxy.model import Address, TcpAddress, UnixAddress

DEFAULT_ADDRESS = "127.0.0.1:15000"
"""`admin.listen`, unless it is configured."""
UPDATE_EVERY_S = 1.0
"""Seconds between two updates of `--watch`."""
TIMEOUT_S = 5.0
"""Seconds that the admin listener may take to answer."""
LONGEST_ANSWER = 16 * 1024 * 1024
"""Bytes read at most; uProxy's answer has less than one MiB."""

_STYLES = {
    LineKind.TITLE: "\x1b[1m",
    LineKind.HEADING: "\x1b[2m",
    LineKind.GOOD: "\x1b[1;32m",
    LineKind.BAD: "\x1b[1;31m",
    LineKind.PLAIN: "",
}
_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `status`."""
    parser.add_argument(
        "--watch", action="store_true", help="a live view, anew each second; q ends it"
    )
    parser.add_argument(
        "--admin",
        metavar="ADDR",
        default=DEFAULT_ADDRESS,
        help=f"host:port or unix:///path of admin.listen (default {DEFAULT_ADDRESS})",
    )
    parser.add_argument("--json", action="store_true", help="the facts as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Show the status.

    Raises:
        UproxyError: nothing answers, or something else than uProxy does.
        UsageError: `--admin` is not an address.
    """
    address = parse_address(args.admin)
    try:
        if args.watch and not args.json and sys.stdout.isatty():
            _watch_on_terminal(address)
        elif args.watch:
            _watch_plainly(address, args.json)
        else:
            _print(fetch(address), args.json)
    except BrokenPipeError:
        # the reader has ended (`| head`): let the interpreter flush to /dev/null at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parse_address(text: str) -> Address:
    """Parse `host:port`, `[::1]:port` or `unix:///path`.

    Raises:
        UsageError: it is none of these.
    """
    path = text.removeprefix("unix:").removeprefix("//")
    if text.startswith("unix:") and path.startswith("/"):
        return UnixAddress(path)
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host) or not (port.isascii() and port.isdigit()):
        raise UsageError(f"--admin {text!r} is no host:port or unix:///path")
    if int(port) > 65535:
        raise UsageError(f"--admin {text!r}: ports end at 65535")
    return TcpAddress(bare, int(port))


def fetch(address: Address) -> Status:
    """Return the answer of /status.json with everything unprintable replaced.

    Raises:
        UproxyError: nothing answers, or something else than uProxy does.
    """
    status, body = _get(address)
    if status != 200:
        lines = body.decode(errors="replace").splitlines() or ["no reason given"]
        raise UproxyError(f"{address} answers {status}: {printable(lines[0])}")
    try:
        answer = printable(json.loads(body))
        render(answer)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise UproxyError(
            f"{address} answers, but not as uProxy does: is it admin.listen?"
        ) from None
    facts: Status = answer
    return facts


def _get(address: Address) -> tuple[int, bytes]:
    """Return (HTTP status, body) of /status.json."""
    connection = _Connection(address)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/status.json")
            response = connection.getresponse()
            return response.status, response.read(LONGEST_ANSWER)
        except http.client.HTTPException:
            raise UproxyError(
                f"{address} answers, but not as uProxy does: is it admin.listen?"
            ) from None
        except (ConnectionRefusedError, FileNotFoundError):
            raise UproxyError(
                f"nothing answers at {address}: is uProxy running, and is admin.listen set?"
            ) from None
        except TimeoutError:
            raise UproxyError(
                f"{address} doesn't answer within {TIMEOUT_S:g} s: is it admin.listen?"
            ) from None
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            raise UproxyError(f"{address} can't be asked: {words}") from None


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


def _print(status: Status, as_json: bool) -> None:
    """Print the status once, as text or JSON."""
    if as_json:
        print(json.dumps(status, indent=2))
        return
    width = _terminal_size().columns if sys.stdout.isatty() else None
    for line in render(status, width):
        print(line.text)


def _watch_plainly(address: Address, as_json: bool) -> None:
    """Print the status each second, as text or as one line of JSON, until Ctrl-C."""
    earlier: Earlier | None = None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            status = fetch(address)
            if as_json:
                print(json.dumps(status), flush=True)
            else:
                print(*(line.text for line in render(status, None, earlier)), "", sep="\n",
                      flush=True)  # fmt: skip
            time.sleep(UPDATE_EVERY_S)
            earlier = Earlier(status, UPDATE_EVERY_S)


@dataclass(slots=True)
class _LiveView:
    """What the live view shows."""

    status: Status
    taken: float
    """When `status` was fetched, in seconds of the monotonic clock."""
    earlier: Earlier | None = None
    fetch_error: str = ""
    """Why the last attempt to fetch failed; empty: `status` is current."""

    def refresh(self, address: Address) -> None:
        """Fetch the status again; on failure keep the old one and remember why."""
        try:
            status = fetch(address)
        except UproxyError as error:
            self.fetch_error = str(error)
            return
        now = time.monotonic()
        self.earlier = Earlier(self.status, now - self.taken)
        self.status, self.taken, self.fetch_error = status, now, ""


def _watch_on_terminal(address: Address) -> None:
    """Show the live view until q, Ctrl-C or Ctrl-D."""
    view = _LiveView(fetch(address), time.monotonic())  # a failure is shown on the normal screen
    with _terminal() as wake, contextlib.suppress(KeyboardInterrupt):
        due = time.monotonic() + UPDATE_EVERY_S
        while True:
            _draw(view)
            key = _wait(wake, due)
            if key in ("q", "Q", "\x04"):
                return
            if time.monotonic() >= due:
                view.refresh(address)
                due = time.monotonic() + UPDATE_EVERY_S


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """Switch to the alternate screen and to unbuffered keys; yield a descriptor that becomes
    readable when the terminal's size changes."""
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    keys = sys.stdin.isatty()
    before = termios.tcgetattr(sys.stdin) if keys else None
    handlers = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGWINCH, _ignore), (signal.SIGTERM, _interrupt))
    }
    old_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        if keys:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield awake
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.set_wakeup_fd(old_wake)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(awake)
        os.close(wake)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing on SIGWINCH: the wake-up descriptor reports it."""


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  a handler's shape
    """End the live view on SIGTERM as on Ctrl-C."""
    raise KeyboardInterrupt


def _wait(awake: int, due: float) -> str:
    """Return the key that was pressed; empty when it is `due` (monotonic seconds) or after a
    resize."""
    sources: list[Any] = [awake, *([sys.stdin] if sys.stdin.isatty() else [])]
    ready, _, _ = select.select(sources, [], [], max(0.0, due - time.monotonic()))
    if awake in ready:
        os.read(awake, 1024)
    if sys.stdin in ready:
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") or "q"
    return ""


def _draw(view: _LiveView) -> None:
    """Draw over what is on the screen, line by line, so that it doesn't flicker."""
    size = _terminal_size()
    lines = render(view.status, size.columns, view.earlier)
    if view.fetch_error:
        age = int(time.monotonic() - view.taken)
        lines.insert(0, Line(f"{view.fetch_error} (what follows is {age} s old)", LineKind.BAD))
    if len(lines) > size.lines - 1:
        hidden = len(lines) - (size.lines - 2)
        lines = [*lines[: size.lines - 2], Line(f"{hidden} more lines: enlarge the window")]
    lines.append(Line("q quits", LineKind.HEADING))
    text = "\x1b[K\n".join(_styled(line, size.columns) for line in lines)
    sys.stdout.write(f"\x1b[H{text}\x1b[K\x1b[J")
    sys.stdout.flush()


def _terminal_size() -> os.terminal_size:
    """Return the terminal's size; 80 by 24 if it doesn't say."""
    # not by shutil, which prefers COLUMNS and LINES: those don't follow a resize
    size = os.get_terminal_size(sys.stdout.fileno())
    return size if size.columns and size.lines else os.terminal_size((80, 24))


def _styled(line: Line, columns: int) -> str:
    text = line.text[:columns]
    style = "" if os.environ.get("NO_COLOR") else _STYLES[line.kind]
    return f"{style}{text}\x1b[0m" if style else text
