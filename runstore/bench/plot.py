"""The plot: every goal as a bar of its ratio to the limit, drawn as SVG by hand, for it needs no library."""

from html import escape
from math import log10
from statistics import median
from typing import Final

from runstore.bench.figures import Check
from runstore.bench.report import Report, head, number

_LABELS: Final = 430
_BARS: Final = 400
_LINE: Final = 26
_TOP: Final = 74
_DECADES: Final = 1.0
"""The bars reach from a tenth of the goal to ten times it."""


def draw(report: Report) -> str:
    """Draw a report. Right of the middle line a goal is exceeded, left of it missed; the thin line is the range."""
    rows = [(told.name, check) for told in report.rows for check in told.found.checks]
    height = _TOP + _LINE * len(rows) + 20
    width = _LABELS + _BARS + 150
    middle = _LABELS + _BARS / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="12" y="22" font-size="15">runstore: figures beside their goals</text>',
        *(
            f'<text x="12" y="{40 + 15 * place}" fill="#666" font-size="10">{escape(line)}</text>'
            for place, line in enumerate(head(report).splitlines())
        ),
    ]
    for place, (name, check) in enumerate(rows):
        y = _TOP + _LINE * place
        x, low, high = (_x(check, value) for value in (median(check.values), min(check.values), max(check.values)))
        colour = "#2f8f5b" if check.is_met else "#c2543d"
        parts += [
            f'<text x="12" y="{y + 14}">{escape(name)}: {escape(check.what)}</text>',
            f'<rect x="{min(x, middle):.1f}" y="{y + 3}" width="{abs(x - middle):.1f}" height="14" fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 10}" y2="{y + 10}" stroke="#222"/>',
            f'<text x="{_LABELS + _BARS + 8}" y="{y + 14}">{number(median(check.values))}'
            f" ({'≤' if check.at_most else '≥'} {number(check.limit)})</text>",
        ]
    parts.append(
        f'<line x1="{middle}" x2="{middle}" y1="{_TOP - 4}" y2="{height - 16}" stroke="#222" stroke-dasharray="3 3"/>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _x(check: Check, value: float) -> float:
    better = check.limit / max(value, 1e-9) if check.at_most else value / check.limit
    place = max(-_DECADES, min(_DECADES, log10(max(better, 1e-9))))
    return _LABELS + _BARS / 2 * (1 + place / _DECADES)
