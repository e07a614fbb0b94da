"""Reads JSON objects that strangers send: what two readers could understand in two ways is refused.

Rules: UTF-8, one object, no member name twice (RFC 7517 §4, RFC 7519 §4), no NaN or Infinity, and
not nested more deeply than MAX_DEPTH.  Python's own reader has a bound, too, that depends on its
version, and on how much of the stack is in use.
"""

from __future__ import annotations

import json
import re
from typing import Final

MAX_DEPTH: Final = 100
"""Objects and arrays inside each other (RFC 8259 §9 leaves the bound to the reader)."""

_NESTING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|([\[{])|([\]}])', re.DOTALL)
"""A string, which may lack its end, or what opens or closes an object or array.  No byte is looked
at twice."""


class _RepeatedNameError(Exception):
    pass


def read_object(data: bytes, what: str) -> dict[str, object]:
    """Return the JSON object in `data`, which the caller has bounded; `what` names it in errors.

    Raises:
        ValueError: in one line, why it isn't one.
    """
    if _is_deep(data):
        raise ValueError(f"{what} is nested more than {MAX_DEPTH} deep")
    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except _RepeatedNameError as error:
        raise ValueError(f"{what} repeats a member name") from error
    except ValueError as error:
        raise ValueError(f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{what} is not a JSON object")
    return found


def _is_deep(data: bytes) -> bool:
    """Whether it is nested more deeply than MAX_DEPTH."""
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _NESTING.finditer(data):
        depth += (found[1] is not None) - (found[2] is not None)
        if depth > MAX_DEPTH:
            return True
    return False


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RepeatedNameError
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
