"""Draws columns of a benchmark: a bar up to the median, a line from the lowest to the highest."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.harness.benchmark import Benchmark, Column
from benchmarks.harness.figures import Round, Spread, series, spread

_WIDTH, _LEFT, _RIGHT = 760, 220, 110
_HEAD, _TOP, _ROW, _BAR = 40, 24, 26, 16
_STYLE = (
    ".h{font:600 15px system-ui,sans-serif;fill:#1b2330}"
    ".c{font:600 13px system-ui,sans-serif;fill:#1b2330}"
    ".t{font:13px system-ui,sans-serif;fill:#1b2330}"
    ".bar{fill:#6b4fbb}.ours{fill:#0b7a75}.range{stroke:#1b2330;stroke-width:1.5}"
)
_OURS = "uproxy"


def chart(benchmark: Benchmark, rounds: Sequence[Round]) -> str:
    """Return an SVG with a panel for each drawn column, and in it a row for each kind of proxy
    that has a figure; bars start at zero."""
    top, panels = _HEAD, []
    for key in benchmark.charts:
        column = next(each for each in benchmark.columns if each.key == key)
        height, panel = _panel(benchmark, column, rounds, top)
        panels.append(panel)
        top += height
    title = escape(benchmark.title)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
            f'aria-label="{title}"><style>{_STYLE}</style>',
            f'<rect width="{_WIDTH}" height="{top}" fill="#fbfcfd"/>',
            f'<text class="h" x="16" y="26">{title}</text>',
            *panels,
            "</svg>\n",
        )
    )


def _panel(
    benchmark: Benchmark, column: Column, rounds: Sequence[Round], top: int
) -> tuple[int, str]:
    """Return the panel's height in pixels, and its elements."""
    rows = [
        (kind.key, kind.title, spread(values))
        for kind in benchmark.kinds
        if (values := series(rounds, kind.key, column.key))
    ]
    most = max((row[2].high for row in rows), default=0) or 1
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    title = escape(f"{column.table}: {column.title}" if column.table else column.title)
    body = [f'<text class="c" x="16" y="{top + 12}">{title}</text>']
    body += [_row(top + _TOP + index * _ROW, row, column, scale) for index, row in enumerate(rows)]
    return _TOP + _ROW * len(rows) + 12, "\n".join(body)


def _row(top: int, row: tuple[str, str, Spread], column: Column, scale: float) -> str:
    key, title, values = row
    middle = top + _BAR / 2
    low, mid, high = (round(each * scale, 1) for each in (values.low, values.median, values.high))
    kind = "ours" if key.startswith(_OURS) else "bar"
    return (
        f'<text class="t" x="{_LEFT - 10}" y="{middle + 4:g}" text-anchor="end">{escape(title)}'
        f'</text><rect class="{kind}" x="{_LEFT}" y="{top}" width="{mid:g}" height="{_BAR}"/>'
        f'<path class="range" d="M{_LEFT + low:g} {middle:g} H{_LEFT + high:g}"/>'
        f'<text class="t" x="{_LEFT + max(mid, high) + 8:g}" y="{middle + 4:g}">'
        f"{values.median:,.{column.digits}f}</text>"
    )
