"""An event as one line of text or JSON.

Pure.  Rule: one event is one line, whatever a peer put into its values: characters that
aren't printable are escaped, so that nobody writes lines of their own or moves the cursor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii

Fields = tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """What a line says."""

    at: float
    """Seconds since the epoch."""
    level: str
    scope: str
    """The logger's name, or `access`."""
    message: str
    fields: Fields = ()


def json_line(event: Event) -> str:
    """One JSON object; a field without a value is null, so that every line has the same keys."""
    members = (
        ("time", _time(event.at)),
        ("level", event.level),
        ("scope", event.scope),
        ("message", event.message),
        *event.fields,
    )
    line = ",".join([f'"{name}":{_json_value(value)}' for name, value in members])
    # escapes control characters and all beyond ASCII, but not the one that ASCII ends with
    return f"{{{line}}}".replace("\x7f", "\\u007f")


def text_line(event: Event) -> str:
    """For people: fields as key=value, quoted where needed; a field without a value is left out."""
    fields = (f" {key}={_value(value)}" for key, value in event.fields if value is not None)
    message = _printable(event.message)
    return f"{_time(event.at)} {event.level:<7} {event.scope}: {message}{''.join(fields)}"


def escaped(text: Iterable[str]) -> str:
    """`text` with everything unprintable as a backslash escape."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def _json_value(value: object) -> str:
    # nearly all values are one of these, and json.dumps takes three times as long
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
    text = str(value)
    if text and text.isprintable() and not any(character in ' "=\\' for character in text):
        return text
    quoted = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{_printable(quoted)}"'


def _time(at: float) -> str:
    """RFC 3339, milliseconds, UTC."""
    return f"{_second(int(at))}.{int(at % 1 * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat()
