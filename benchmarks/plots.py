"""A run as SVG: one file a question. The same figures give the same bytes.

Times are bars from p50 to p99 on a logarithmic scale, with a tick at the median and a dot at p99.9; other figures are
plain bars, scaled within their unit. Text takes the colour of the page, so that it reads on light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from .figures import Answer, Measure, Role, Row, Run
from .tables import by_condition

_WIDTH, _LEFT, _RIGHT, _STEP, _BAR = 1020, 400, 100, 20, 11
_COLOURS: dict[Role, str] = {"ours": "#2a78c8", "rival": "#d07a1c", "floor": "#8a8a8a"}


def draw(run: Run, folder: Path) -> list[Path]:
    """Write a file for each question; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, answer in run.answers.items():
        file = folder / f"{name}.svg"
        file.write_text(picture(name, answer), encoding="utf-8")
        files.append(file)
    return files


def picture(question: str, answer: Answer) -> str:
    """One question's figures."""
    canvas = _Canvas()
    canvas.title(f"{question}: microseconds a call, p50 to p99 (log), a dot at p99.9" if answer.rows else question)
    if answer.rows:
        _times(canvas, answer.rows)
    units = dict.fromkeys(one.unit for one in answer.measures)
    for unit in units:
        _bars(canvas, unit, [one for one in answer.measures if one.unit == unit])
    canvas.legend()
    return canvas.text()


class _Canvas:
    """Lines of SVG from the top down."""

    def __init__(self) -> None:
        self.y = 8
        self._lines: list[str] = []

    def title(self, text: str) -> None:
        """A heading."""
        self.y += 22
        self._lines.append(f'<text x="8" y="{self.y}" class="h">{escape(text)}</text>')
        self.y += 6

    def label(self, text: str) -> None:
        """A row's name, left of where its bar goes."""
        self.y += _STEP
        self._lines.append(f'<text x="{_LEFT - 8}" y="{self.y}" class="e">{escape(_short(text))}</text>')

    def bar(self, left: float, right: float, role: Role) -> None:
        """A bar on the present row."""
        width = max(1.5, right - left)
        place = f'x="{left:.1f}" y="{self.y - _BAR + 1}" width="{width:.1f}" height="{_BAR}"'
        self._lines.append(f'<rect {place} rx="2" fill="{_COLOURS[role]}"/>')

    def tick(self, x: float) -> None:
        """A mark inside the present row's bar."""
        self._lines.append(f'<rect x="{x:.1f}" y="{self.y - _BAR - 1}" width="2.5" height="{_BAR + 4}" class="t"/>')

    def dot(self, x: float, role: Role) -> None:
        """A dot on the present row."""
        place = f'cx="{x:.1f}" cy="{self.y - _BAR / 2 + 1:.1f}"'
        self._lines.append(f'<circle {place} r="3" fill="{_COLOURS[role]}"/>')

    def value(self, x: float, text: str) -> None:
        """A figure right of the present row's bar."""
        self._lines.append(f'<text x="{x + 8:.1f}" y="{self.y}">{escape(text)}</text>')

    def grid(self, marks: Iterable[tuple[float, str]], top: int) -> None:
        """Vertical lines from `top` to here, with their names below."""
        self.y += 16
        for x, name in marks:
            self._lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{self.y - 12}" class="g"/>')
            self._lines.append(f'<text x="{x:.1f}" y="{self.y}" class="m">{escape(name)}</text>')

    def legend(self) -> None:
        """What the colours mean."""
        self.y += 26
        for number, (role, colour) in enumerate(_COLOURS.items()):
            x = _LEFT + 90 * number
            self._lines.append(f'<rect x="{x}" y="{self.y - 10}" width="{_BAR}" height="{_BAR}" fill="{colour}"/>')
            self._lines.append(f'<text x="{x + 16}" y="{self.y}">{role}</text>')

    def text(self) -> str:
        """The whole file."""
        size = f'viewBox="0 0 {_WIDTH} {self.y + 14}" width="{_WIDTH}" height="{self.y + 14}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{_STYLE}</style>\n'
        return head + "\n".join(self._lines) + "\n</svg>\n"


_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.h{font-weight:600;font-size:14px}.e{text-anchor:end}"
    ".m{text-anchor:middle;font-size:10px}.g{stroke:#8886;stroke-width:1}.t{fill:#fff;stroke:#333;stroke-width:.5}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


def _times(canvas: _Canvas, rows: Sequence[Row]) -> None:
    known = [value for row in rows for value in (row.p50, row.p99, row.p999) if value > 0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    high = max(high, low + 1)

    def place(value: float) -> float:
        share = (math.log10(max(value, 10**low)) - low) / (high - low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    top = canvas.y + 8
    for condition, group in by_condition(rows):
        canvas.title(condition)
        for row in group:
            canvas.label(row.subject)
            canvas.bar(place(row.p50), place(row.p99), row.role)
            canvas.tick(place(row.p50))
            canvas.dot(place(row.p999), row.role)
            canvas.value(place(max(row.p99, row.p999)), f"{row.p50:,.0f} / {row.p99:,.0f}")
    canvas.grid([(place(10**power), f"{10**power:,g} µs") for power in range(low, high + 1)], top)


def _bars(canvas: _Canvas, unit: str, measures: Sequence[Measure]) -> None:
    canvas.title(unit)
    largest = max((one.value for one in measures), default=0) or 1
    for one in measures:
        canvas.label(f"{one.subject}, {one.condition}")
        right = _LEFT + max(0.0, one.value) / largest * (_WIDTH - _LEFT - _RIGHT)
        canvas.bar(_LEFT, right, one.role)
        figure = f"{one.value:,.0f}" if abs(one.value) >= 100 else f"{one.value:,.3g}"
        canvas.value(right, figure)


def _short(text: str, most: int = 56) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
