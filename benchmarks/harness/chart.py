"""One column of a benchmark as a drawing: a bar to the median, a line from lowest to highest."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.harness.benchmark import Benchmark, Column
from benchmarks.harness.figures import Round, Spread, series, spread

_WIDTH, _LEFT, _RIGHT = 760, 220, 110
_TOP, _ROW, _BAR = 52, 38, 20
_STYLE = (
    ".h{font:600 15px system-ui,sans-serif;fill:#1b2330}"
    ".t{font:13px system-ui,sans-serif;fill:#1b2330}"
    ".bar{fill:#6b4fbb}.ours{fill:#0b7a75}.range{stroke:#1b2330;stroke-width:1.5}"
)


def chart(benchmark: Benchmark, rounds: Sequence[Round]) -> str:
    """SVG with a row for every kind of proxy that has a figure; a bar's scale begins at zero."""
    column = next(each for each in benchmark.columns if each.key == benchmark.chart)
    rows = [
        (kind.key, kind.title, spread(values))
        for kind in benchmark.kinds
        if (values := series(rounds, kind.key, column.key))
    ]
    most = max((row[2].high for row in rows), default=0) or 1
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    height = _TOP + _ROW * len(rows) + 8
    body = [_row(index, row, column, scale) for index, row in enumerate(rows)]
    title = escape(f"{benchmark.title}: {column.title}")
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
            f'aria-label="{title}"><style>{_STYLE}</style>',
            f'<rect width="{_WIDTH}" height="{height}" fill="#fbfcfd"/>',
            f'<text class="h" x="16" y="30">{title}</text>',
            *body,
            "</svg>\n",
        )
    )


def _row(index: int, row: tuple[str, str, Spread], column: Column, scale: float) -> str:
    key, title, values = row
    top = _TOP + index * _ROW
    middle = top + _BAR / 2
    low, mid, high = (round(each * scale, 1) for each in (values.low, values.median, values.high))
    kind = "ours" if key.startswith("uproxy") else "bar"
    return (
        f'<text class="t" x="{_LEFT - 10}" y="{middle + 4:g}" text-anchor="end">{escape(title)}'
        f'</text><rect class="{kind}" x="{_LEFT}" y="{top}" width="{mid:g}" height="{_BAR}"/>'
        f'<path class="range" d="M{_LEFT + low:g} {middle:g} H{_LEFT + high:g}"/>'
        f'<text class="t" x="{_LEFT + high + 8:g}" y="{middle + 4:g}">'
        f"{values.median:,.{column.digits}f}</text>"
    )
