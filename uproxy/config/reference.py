"""Generates the configuration reference in Markdown from the table of fields."""

from __future__ import annotations

import json
from collections.abc import Iterator

from uproxy.config.fields import SETTINGS
from uproxy.config.kinds import Kind, ListOf, MapOf, Nullable, WordOr
from uproxy.config.nodes import join
from uproxy.config.records import Field, Record, ShortFor
from uproxy.config.reload import RESTART_KEYS

_HEAD = """# Every setting

Written by the table that reads the file (`uproxy/config/fields.py`); `uproxy schema` prints the
same as JSON Schema.  Durations: `500ms 5s 10m 1h`, `0` is off.  Addresses: `127.0.0.1:8080`,
`[::1]:8080`, `db.internal:5432`, `unix:///run/app.sock` or `unix:/run/app.sock`; `systemd:NAME` to
listen.
Keys marked ↻ need a restart; everything else follows a reload.

| key | value | default | meaning |
|---|---|---|---|
"""


def reference_markdown() -> str:
    """Return the whole page."""
    return _HEAD + "".join(_rows(SETTINGS, ""))


def _rows(record: Record, path: str) -> Iterator[str]:
    """Yield a table row for each setting of a record, and for those inside it."""
    for field in record.fields:
        where = join(path, field.name)
        inner, suffix = _inner_kind(field.kind)
        default = "required" if field.required else _default(field)
        key = f"`{where}`{' ↻' if where in RESTART_KEYS else ''}"
        words = field.kind.words.replace("|", "\\|")
        yield f"| {key} | {words} | {default} | {field.doc} |\n"
        if isinstance(inner, Record):
            yield from _rows(inner, where + suffix)


def _default(field: Field) -> str:
    if field.default is None:
        return ""
    plain = field.default if isinstance(field.default, str) else json.dumps(field.default)
    return f"`{plain}`"


def _inner_kind(kind: Kind) -> tuple[Kind, str]:
    """Return the kind of the values inside a list, mapping or alternative, and their path's
    suffix."""
    if isinstance(kind, Nullable | WordOr | ShortFor):
        return kind.item, ""
    if isinstance(kind, ListOf):
        inner, _ = _inner_kind(kind.item)
        return inner, "[]"
    return (kind.item, ".NAME") if isinstance(kind, MapOf) else (kind, "")
