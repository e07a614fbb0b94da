"""Lines of text for a terminal: tables, durations, sizes.  Pure.

A `Line` has a kind, and the caller decides how the kind looks.
"""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GAP = 2
"""Spaces between columns."""
NARROWEST = 8
"""Characters to which a column can be narrowed."""


class LineKind(enum.Enum):
    """What a line is, for its style."""

    TITLE = enum.auto()
    HEADING = enum.auto()
    PLAIN = enum.auto()
    GOOD = enum.auto()
    NOTE = enum.auto()
    BAD = enum.auto()


@dataclass(frozen=True, slots=True)
class Line:
    """One line, without a newline."""

    text: str
    kind: LineKind = LineKind.PLAIN


def printable(value: Any) -> Any:
    """Return `value` with each unprintable character (control, text direction) replaced by
    U+FFFD."""
    if isinstance(value, str):
        return "".join(char if char.isprintable() else "\ufffd" for char in value)
    if isinstance(value, dict):
        return {printable(key): printable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [printable(member) for member in value]
    return value


def table(heading: str, rows: list[Sequence[str]], width: int | None) -> list[Line]:
    """Return a heading and the rows as a table."""
    lines = [Line(""), Line(heading, LineKind.HEADING)]
    if not rows:
        return [*lines, Line("none")]
    widths = _widths(rows, width)
    for row in rows:
        cells = (cut(cell, room).ljust(room) for cell, room in zip(row, widths, strict=True))
        lines.append(Line((" " * GAP).join(cells).rstrip()))
    return lines


def wrapped(
    text: str, width: int | None, indent: str, kind: LineKind = LineKind.PLAIN
) -> list[Line]:
    """Return the text in as many lines of `width` characters as it takes, the further ones behind
    `indent`; None: in one."""
    if width is None:
        return [Line(text, kind)]
    lines = textwrap.wrap(text, max(width, 2 * len(indent)), subsequent_indent=indent)
    return [Line(line, kind) for line in lines]


def _widths(rows: list[Sequence[str]], width: int | None) -> list[int]:
    """Return the widths of the columns; if they don't fit into `width`, narrow the widest ones."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + GAP * (len(widths) - 1) > width:
        widest = widths.index(max(widths))
        if widths[widest] <= NARROWEST:
            break  # too narrow for a table: the line is cut
        widths[widest] -= 1
    return widths


def cut(text: str, width: int | None) -> str:
    """Return `text` cut to `width` characters, a SPIFFE ID in its middle."""
    if width is None or len(text) <= width:
        return text
    if text.startswith("spiffe://") and width > NARROWEST:
        # keep the trust domain and the end of the path
        head = width // 2
        return f"{text[:head]}…{text[head + 1 - width :]}"
    return text[: width - 1] + "…" if width > 1 else text[:width]


def span(seconds: float) -> str:
    """Return seconds in the two largest units that fit."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Return bytes in the largest unit that fits."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def counted(count: int, word: str) -> str:
    """Return a number of things in words: `1 peer`, `2 peers`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
