"""Tables of figures in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.harness.figures import Spread

NOTHING = "\N{EN DASH}"
"""In a cell that nothing was measured for."""
TO, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


def rows(cells: Iterable[Sequence[str]]) -> str:
    """A table: its head, its alignment, and one line each."""
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def interval(values: Spread, digits: int) -> str:
    """`median (lowest{TO}highest)`, with so many digits behind the point."""
    median, low, high = (f"{each:,.{digits}f}" for each in (values.median, values.low, values.high))
    return f"{median} ({low}{TO}{high})"


def replace(page: str, name: str, text: str) -> str:
    """The page with what stands between `<!-- figures: NAME -->` and `<!-- end: NAME -->`
    replaced.

    Raises:
        ValueError: the page has no place for it, or two.
    """
    pattern = re.compile(
        rf"(<!-- figures: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)", re.DOTALL
    )
    changed, count = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"{count} places for the figures of {name}, where one is needed")
    return changed
