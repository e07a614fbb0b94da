"""Reads JSON objects that strangers send: what two readers could understand in two ways is refused.

Rules: UTF-8, one object, no member name twice (RFC 7517 §4, RFC 7519 §4), no NaN or Infinity.
"""

from __future__ import annotations

import json


class _RepeatedNameError(Exception):
    pass


def read_object(data: bytes, what: str) -> dict[str, object]:
    """Return the JSON object in `data`, which the caller has bounded; `what` names it in errors.

    Raises:
        ValueError: in one line, why it isn't one.
    """
    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deeply") from error
    except _RepeatedNameError as error:
        raise ValueError(f"{what} repeats a member name") from error
    except ValueError as error:
        raise ValueError(f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{what} is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RepeatedNameError
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
