"""Formats an event as one line of text or JSON.

Pure.  Rule: one event is one line.  Peers choose some of the values, so characters that aren't
printable are escaped: nobody can forge a line or move a terminal's cursor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii

Fields = tuple[tuple[str, object], ...]
"""(name, value) of each additional field, in order."""


@dataclass(frozen=True, slots=True)
class Event:
    """One log event before it is formatted."""

    at: float
    """Seconds since the Unix epoch."""
    level: str
    scope: str
    """The logger's name; `access` for the access log."""
    message: str
    fields: Fields = ()


def json_line(event: Event) -> str:
    """Format an event as one JSON object; a field whose value is None becomes null, so that all
    lines have the same keys."""
    members = (
        ("time", _time(event.at)),
        ("level", event.level),
        ("scope", event.scope),
        ("message", event.message),
        *event.fields,
    )
    line = ",".join([f'"{name}":{_json_value(value)}' for name, value in members])

    # the JSON encoder escapes control characters and all beyond ASCII, but not DEL (0x7f)
    return f"{{{line}}}".replace("\x7f", "\\u007f")


def text_line(event: Event) -> str:
    """Format an event for people: fields as key=value, quoted where needed, those with None
    left out."""
    fields = (f" {key}={_value(value)}" for key, value in event.fields if value is not None)
    message = _printable(event.message)
    return f"{_time(event.at)} {event.level:<7} {event.scope}: {message}{''.join(fields)}"


def escaped(text: Iterable[str]) -> str:
    """Return `text` with each unprintable character replaced by a backslash escape."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def _json_value(value: object) -> str:
    """Encode one value as JSON."""
    # nearly all values have one of these types, and json.dumps takes three times as long
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    if type(value) is int:
        return str(value)
    return json.dumps(value, default=str)


def _printable(text: str) -> str:
    return text if text.isprintable() else escaped(text)


def _value(value: object) -> str:
    """Format one value for text lines, with quotes if it has spaces, quotes, `=` or
    backslashes."""
    text = str(value)
    if text and text.isprintable() and not any(character in ' "=\\' for character in text):
        return text
    quoted = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{_printable(quoted)}"'


def _time(at: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC with milliseconds."""
    return f"{_second(int(at))}.{int(at % 1 * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(at: int) -> str:
    """Format whole seconds without the time zone; cached, as most lines share their second."""
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat()
