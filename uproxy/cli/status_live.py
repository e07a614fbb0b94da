"""The live view of `uproxy status --watch`, on a terminal.

It uses the terminal's alternate screen and restores the terminal however it ends.  What doesn't fit
is reached by scrolling, and the last line says how much there is above and below.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from uproxy.cli.status_answer import Uproxy
from uproxy.cli.status_lines import Line, LineKind
from uproxy.cli.status_text import Earlier, Status, render
from uproxy.errors import UproxyError

UPDATE_EVERY_S: Final = 1.0
"""Seconds between two updates of `--watch`."""

_STYLES: Final = {
    LineKind.TITLE: "\x1b[1m",
    LineKind.HEADING: "\x1b[2m",
    LineKind.GOOD: "\x1b[1;32m",
    LineKind.NOTE: "\x1b[33m",
    LineKind.BAD: "\x1b[1;31m",
    LineKind.PLAIN: "",
}
_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the alternate screen, no cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"

_KEYS: Final = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|[\s\S]")
"""A special key's sequence (ECMA-48 §5.4), or one character."""
_QUIT: Final = ("q", "Q", "\x04")
_LINES: Final = {"\x1b[A": -1, "\x1bOA": -1, "k": -1, "\x1b[B": 1, "\x1bOB": 1, "j": 1}
"""Lines by which arrow keys, and less's letters, scroll."""
_SCREENS: Final = {"\x1b[5~": -1, "b": -1, "\x1b[6~": 1, " ": 1}
_ENDS: Final = {
    **dict.fromkeys(("\x1b[H", "\x1bOH", "\x1b[1~", "g"), -1),
    **dict.fromkeys(("\x1b[F", "\x1bOF", "\x1b[4~", "G"), 1),
}


@dataclass(slots=True)
class _LiveView:
    """What the live view shows."""

    uproxy: Uproxy
    status: Status
    taken: float
    """When `status` was fetched, in seconds of the monotonic clock."""
    earlier: Earlier | None = None
    fetch_error: str = ""
    """Why the last attempt to fetch failed; empty: `status` is current."""
    top: int = 0
    """The first line shown."""

    def refresh(self) -> None:
        """Fetch the status again; on failure keep the old one and remember why."""
        try:
            status = self.uproxy.fetch()
        except UproxyError as error:
            self.fetch_error = str(error)
            return
        now = time.monotonic()
        self.earlier = Earlier(self.status, now - self.taken)
        self.status, self.taken, self.fetch_error = status, now, ""

    def lines(self, columns: int) -> list[Line]:
        """Return all lines, whether or not they fit."""
        lines = render(self.status, columns, self.earlier, asked=self.uproxy.address)
        if self.fetch_error:
            age = int(time.monotonic() - self.taken)
            lines.insert(0, Line(f"{self.fetch_error} (what follows is {age} s old)", LineKind.BAD))
        return lines

    def scroll(self, key: str) -> None:
        """Move by what the key means; other keys move nothing."""
        size = terminal_size()
        room, count = size.lines - 1, len(self.lines(size.columns))
        self.top += (
            _LINES.get(key, 0) + _SCREENS.get(key, 0) * (room - 1) + _ENDS.get(key, 0) * count
        )
        self.top = max(0, min(self.top, count - room))


def watch(uproxy: Uproxy) -> None:
    """Show the live view until q, Ctrl-C or Ctrl-D.

    Raises:
        UproxyError: the first answer can't be had; later failures are shown in the view.
    """
    view = _LiveView(uproxy, uproxy.fetch(), time.monotonic())
    with _terminal() as wake, contextlib.suppress(KeyboardInterrupt):
        due = time.monotonic() + UPDATE_EVERY_S
        while True:
            _draw(view)
            for key in _wait(wake, due):
                if key in _QUIT:
                    return
                view.scroll(key)
            if time.monotonic() >= due:
                view.refresh()
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


def _wait(awake: int, due: float) -> list[str]:
    """Return the keys that were pressed; none when it is `due` (monotonic seconds) or after a
    resize."""
    sources: list[Any] = [awake, *([sys.stdin] if sys.stdin.isatty() else [])]
    ready, _, _ = select.select(sources, [], [], max(0.0, due - time.monotonic()))
    if awake in ready:
        os.read(awake, 1024)
    if sys.stdin in ready:
        pressed = os.read(sys.stdin.fileno(), 1024).decode(errors="replace")
        return _KEYS.findall(pressed) or ["q"]  # nothing: the terminal is gone
    return []


def _draw(view: _LiveView) -> None:
    """Draw over what is on the screen, line by line, so that it doesn't flicker."""
    size = terminal_size()
    lines = view.lines(size.columns)
    room = max(1, size.lines - 1)
    view.top = max(0, min(view.top, len(lines) - room))
    shown = lines[view.top : view.top + room]
    shown.append(_footer(view.top, len(lines) - view.top - len(shown)))
    text = "\x1b[K\n".join(_styled(line, size.columns) for line in shown)
    sys.stdout.write(f"\x1b[H{text}\x1b[K\x1b[J")
    sys.stdout.flush()


def _footer(above: int, below: int) -> Line:
    """Return the last line: how many lines don't fit, on the side on which they are."""
    words = ["q quits"]
    if below:
        words.append(f"↓ {below} more line{'' if below == 1 else 's'}")
    if above:
        words.append(f"↑ {above} above")
    return Line("   ".join(words), LineKind.HEADING)


def terminal_size() -> os.terminal_size:
    """Return the terminal's size; 80 by 24 if it doesn't say."""
    # not by shutil, which prefers COLUMNS and LINES: those don't follow a resize
    size = os.get_terminal_size(sys.stdout.fileno())
    return size if size.columns and size.lines else os.terminal_size((80, 24))


def _styled(line: Line, columns: int) -> str:
    text = line.text[:columns]
    style = "" if os.environ.get("NO_COLOR") else _STYLES[line.kind]
    return f"{style}{text}\x1b[0m" if style else text
