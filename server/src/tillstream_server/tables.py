"""Rows as tables for people: plain text, no colour, columns as wide as what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

MOST: Final = 60
"""Characters of one cell; what is longer is cut."""
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))
_SIZES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, and what stands in it for a row."""

    name: str
    cell: Callable[[Row], str]
    right: bool = False


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The rows under their headings. Control characters, which a till may have sent, are made visible."""
    cells = [[column.name for column in columns], *([_cut(column.cell(row)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(_line(line, widths, columns) for line in cells)


def text(name: str) -> Callable[[Row], str]:
    """A cell that is a field as it stands."""

    def cell(row: Row) -> str:
        value = row[name]
        return "" if value is None else str(value)

    return cell


def visible(value: str) -> str:
    """The same on one line, with nothing in it that a terminal obeys."""
    return "".join(char if char.isprintable() else "�" for char in value)


def moment(ms: int | None) -> str:
    """An instant in UTC, to the second; empty for none, or one that no calendar has."""
    if ms is not None:
        with suppress(OverflowError):
            return (_BEGINNING + timedelta(milliseconds=ms)).strftime("%Y-%m-%d %H:%M:%SZ")
    return ""


def age(ms: int | None, now_ms: int) -> str:
    """How long ago an instant was, in its largest whole unit; `never` for none."""
    if ms is None:
        return "never"
    passed = now_ms - ms
    return next((f"{passed // step} {unit}" for step, unit in _STEPS if passed >= step), "now")


def size(count: int | None) -> str:
    """Bytes in the largest binary unit that they fill."""
    if count is None:
        return ""
    return next((f"{count / step:.1f} {unit}" for step, unit in _SIZES if count >= step), f"{count} B")


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    parts = (
        cell.rjust(width) if column.right else cell.ljust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    )
    return "  ".join(parts).rstrip()


def _cut(value: str) -> str:
    shown = visible(value)
    return shown if len(shown) <= MOST else shown[: MOST - 1] + "…"
