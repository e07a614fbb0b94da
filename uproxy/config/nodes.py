"""The tree of a parsed configuration file: nodes that know where they were written.

It has no YAML syntax and no settings.  `document` builds the tree, overrides and variables make
changed copies, and all mistakes about the text are made here.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from uproxy.model import Mistake

_SHOWN = 80
"""The most characters of a value that a mistake quotes."""

_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


class Style(enum.Enum):
    """How a scalar was written, which decides how its type is determined."""

    PLAIN = enum.auto()
    """Without quotes: YAML's core schema determines the type."""
    QUOTED = enum.auto()
    """In quotes: text."""
    NULL = enum.auto()
    FREE = enum.auto()
    """From the environment or --set, or with a variable in it: any type its field accepts."""


class Type(enum.StrEnum):
    """The type of a scalar, in words for mistakes."""

    NULL = "null"
    BOOL = "a boolean"
    INT = "a number"
    FLOAT = "a decimal number"
    TEXT = "text"
    FREE = "a value"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written: line and column of the file, or the variable or option
    (`source`)."""

    line: int | None = None
    column: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value."""

    text: str
    style: Style
    place: Place
    written: str = ""
    """The text in the file, if variables were replaced in it."""

    @property
    def type(self) -> Type:
        """The type by YAML 1.2's core schema (§10.3.2)."""
        if self.style is Style.PLAIN:
            return core_type(self.text)
        return {Style.NULL: Type.NULL, Style.FREE: Type.FREE}.get(self.style, Type.TEXT)


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping, where the key was written, and its value."""

    key: str
    place: Place
    node: Node


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping whose keys are text and unique, in the order written."""

    entries: tuple[Entry, ...]
    place: Place

    def get(self, key: str) -> Node | None:
        """Return the value of `key`; None if there is none."""
        return next((entry.node for entry in self.entries if entry.key == key), None)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, in the order written."""
        return tuple(entry.key for entry in self.entries)


Node = Scalar | ListNode | MapNode

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = frozenset({"true", "True", "TRUE", "false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def core_type(text: str) -> Type:
    """Return the type of an unquoted scalar."""
    if text in NULLS:
        return Type.NULL
    if text in _BOOL:
        return Type.BOOL
    if _INT.fullmatch(text):
        return Type.INT
    return Type.FLOAT if _FLOAT.fullmatch(text) else Type.TEXT


def join(path: str, step: str | int) -> str:
    """Return the path of a child: `destinations.orders-db`, `inbound[0]`,
    `bundles["example.org"]`."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    if not _SIMPLE_KEY.fullmatch(step):
        return f'{path}["{clip(step)}"]'
    return f"{path}.{step}" if path else step


def lines_of(text: str) -> tuple[str, ...]:
    """Return the lines of a file without their ends, numbered as YAML 1.1's line breaks (§4.2)
    have it, and so the marks of PyYAML."""
    return tuple(_LINE_BREAK.split(text))


def clip(text: str) -> str:
    """Return text shortened and made printable, for one line of a log."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def mistake(path: str, at: Node | Place, reason: str, nearest: str | None = None) -> Mistake:
    """Return a mistake about a node, with its value as written, or about a place in the file."""
    place = at if isinstance(at, Place) else at.place
    value = None
    if isinstance(at, Scalar) and at.style is not Style.NULL:
        value = clip(at.written or at.text)
        if at.written and at.written != at.text:
            reason = f"{reason} (variables replaced: {clip(at.text)!r})"
    if place.source:
        reason = f"{reason} (from {place.source})"
    return Mistake(path, reason, value, place.line, place.column, nearest)
