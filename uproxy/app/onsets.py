"""Remembers since when reasons and notes have been so, which their owners don't know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime


class Onsets:
    """Since when each of a few things has been so, as far as it was looked at."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def look(self, reasons: Iterable[str], at: datetime) -> Mapping[str, datetime]:
        """Return since when each of `reasons`, which hold at `at`, has held, by what stands
        before its colon: the rest may change.  All others are forgotten."""
        words = (reason.partition(": ")[0] for reason in reasons)
        self._since = {word: self._since.get(word, at) for word in words}
        return dict(self._since)
