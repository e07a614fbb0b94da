"""Tables of figures in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.harness.figures import Spread

NOTHING = "\N{EN DASH}"
"""The contents of a cell for which nothing was measured."""
TO, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


def rows(cells: Iterable[Sequence[str]]) -> str:
    """Return a table; the first row is its head, the second its alignment."""
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def interval(values: Spread, digits: int) -> str:
    """Return `median (lowest{TO}highest)` with this many digits after the decimal point."""
    median, low, high = (f"{each:,.{digits}f}" for each in (values.median, values.low, values.high))
    return f"{median} ({low}{TO}{high})"


def replace(page: str, name: str, text: str) -> str:
    """Return the page with the text between `<!-- figures: NAME -->` and `<!-- end: NAME -->`
    replaced.

    Raises:
        ValueError: the page doesn't have exactly one such place.
    """
    pattern = re.compile(
        rf"(<!-- figures: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)", re.DOTALL
    )
    changed, count = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"{count} places for the figures of {name}, where one is needed")
    return changed
