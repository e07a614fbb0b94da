"""Prints the demonstration: headings, check marks, facts, a table.

Rules: a line is printed after what it says was checked; colors and the spinner only on a
terminal, colors only without NO_COLOR (no-color.org); where the encoding has no check marks
there are words instead; lines fit into 96 columns.
"""

from __future__ import annotations

import asyncio
import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

_BOLD, _DIM, _GREEN = "1", "2", "32"
_INDENT, _NAME_WIDTH, _WIDTH = 5, 16, 96
_FRAME_S = 0.1
_CLEAR_LINE = "\r\x1b[K"
_ASCII = str.maketrans({"✓": "ok", "→": "->", "═": "=", "─": "-", "…": ".."})


class Screen:
    """Prints to one stream; raises BrokenPipeError when its reader is gone."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._moving = stream.isatty() and environ.get("TERM") != "dumb"
        self._colored = self._moving and not environ.get("NO_COLOR")
        self._plain = not _can_write("✓═…", stream.encoding)

    def title(self, text: str) -> None:
        """Print the first line."""
        self._line(self._color(_BOLD, text))

    def step(self, number: int, text: str) -> None:
        """Print the heading of a step."""
        self._line("")
        self._line(self._color(_BOLD, f"{number}  {text}"))

    def done(self, text: str) -> None:
        """Print something that has happened and was checked."""
        self._line(f"   {self._color(_GREEN, '✓')} {text}")

    def note(self, text: str) -> None:
        """Print a remark."""
        self._line(f"{'':{_INDENT}}{self._color(_DIM, text)}")

    def fact(self, name: str, value: str) -> None:
        """Print a detail of the last line; a long value continues on further lines."""
        margin = " " * (_INDENT + _NAME_WIDTH)
        # a long path or address isn't broken, so that it can be copied
        first, *others = textwrap.wrap(
            value, _WIDTH - len(margin), break_long_words=False, break_on_hyphens=False
        )
        self._line(f"{'':{_INDENT}}{self._color(_DIM, f'{name:{_NAME_WIDTH}}')}{first}")
        for line in others:
            self._line(f"{margin}{line}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table with columns as wide as their contents."""
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for number, cells in enumerate((head, *rows)):
            padded = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
            text = "  ".join(padded).rstrip()
            self._line(f"{'':{_INDENT}}{text if number else self._color(_DIM, text)}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner and what is being waited for, on a terminal only, while the block
        runs."""
        if not self._moving:
            yield
            return
        spinner = _Spinner(lambda mark: self._write(f"{_CLEAR_LINE}   {mark} {text}"))
        try:
            yield
        finally:
            spinner.stop()
            self._write(_CLEAR_LINE)

    def _line(self, text: str) -> None:
        self._write(f"{_CLEAR_LINE if self._moving else ''}{text}\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text.translate(_ASCII) if self._plain else text)
            self._stream.flush()
        except OSError as error:
            # the pipe's reader is gone, or the terminal is (EIO)
            raise BrokenPipeError("nobody reads this any more") from error

    def _color(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colored else text


class _Spinner:
    """Draws a rotating mark while the event loop runs."""

    def __init__(self, draw: Callable[[str], None]) -> None:
        self._draw = draw
        self._marks = itertools.cycle("|/-\\")
        self._turn()

    def stop(self) -> None:
        self._next.cancel()

    def _turn(self) -> None:
        self._next = asyncio.get_running_loop().call_later(_FRAME_S, self._turn)
        try:
            self._draw(next(self._marks))
        except BrokenPipeError:
            self.stop()  # printing the next line will raise it too


def _can_write(text: str, encoding: str | None) -> bool:
    """Return whether the encoding has all characters of the text."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
