"""The base of the rows that the admin server returns, and how they become JSON.

Rules: rows are immutable; field names are the keys that users see (new ones may be added, none
renamed); addresses are text, times are UTC, durations are seconds; a private key is never in a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


class Row:
    """The base of dataclasses that become JSON objects."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values: str, int, float, bool, None, list,
        dict."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return {field.name: plain(getattr(self, field.name)) for field in fields}


def plain(value: object) -> Any:
    """Return `value` in a form that json.dumps accepts; times as RFC 3339 without fractions."""
    if isinstance(value, Row):
        return value.to_json()
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [plain(member) for member in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)


@dataclass(frozen=True, slots=True)
class UnresolvedRow(Row):
    """A name whose last look-up failed; the addresses that it had before are still used."""

    name: str
    reason: str
    since: datetime | None = None
    """When its look-ups began to fail; None: it isn't known."""
