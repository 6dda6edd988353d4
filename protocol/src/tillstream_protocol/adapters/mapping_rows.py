"""The sales of a CSV or JSON export, taken apart by a mapping: each with its rows and its bytes."""

from __future__ import annotations

import copy
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ..errors import InvalidInput
from .base import load_json
from .mapping_format import Mapping
from .parts import bounded, originals

_LINES: Final = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
"""Lines with their ends, as CSV has them: what else Unicode calls a line's end is text."""
_WITH_SOURCES: Final = ("sale", "line", "tenders", "discounts", "taxes", "identifiers", "personal")


@dataclass(slots=True)
class Row:
    """A row of CSV or an object of JSON, and which of its sources were read."""

    values: Any
    where: str
    between: str
    """What stands between place and source in an error."""
    read: set[str] = field(default_factory=set)

    def get(self, source: str) -> Any:
        """A source's value; None where it is missing or empty."""
        if source.startswith("="):
            return source[1:] or None
        self.read.add(source)
        value = self.values.get(source) if self.between == ", " else _walk(self.values, source.split("."))
        return None if value == "" else value

    def place(self, source: str) -> str:
        """Where a source stands."""
        return f"{self.where}{self.between}{source}" if self.where else source

    def rest(self, known: frozenset[str] = frozenset()) -> dict[str, Any]:
        """What was not read, as `ext` can hold it."""
        if self.between == ", ":
            left = self.values.items()
            return bounded({name: value for name, value in left if name not in self.read and name not in known})
        left = copy.deepcopy(self.values)
        for source in self.read | known:
            *path, last = source.split(".")
            holder = _walk(left, path)
            if isinstance(holder, dict):
                holder.pop(last, None)
            elif isinstance(holder, list) and last.isdecimal() and int(last) < len(holder):
                holder[int(last)] = None
        return bounded(left)


@dataclass(slots=True)
class Sale:
    """What belongs to one sale, and its bytes in the input."""

    header: Row
    lines: list[Row]
    original: bytes
    known: frozenset[str] = frozenset()
    """Columns that lines share with their sale: they are not the lines' rest."""


def _walk(value: Any, path: list[str]) -> Any:
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and len(step) < 6 and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def sales_of(data: bytes, mapping: Mapping) -> list[Sale]:
    """The sales of an export, in the order in which they begin. Raises `InvalidInput`."""
    return list(_csv_sales(data, mapping) if mapping.format == "csv" else _json_sales(data, mapping))


# JSON


def _json_sales(data: bytes, mapping: Mapping) -> Iterator[Sale]:
    value = load_json(data, what="JSON")
    path = mapping.sales.split(".") if mapping.sales else []
    found = _walk(value, path)
    if not path and isinstance(found, dict):
        yield _json_sale(found, "", data, mapping)
        return
    if not isinstance(found, list):
        raise InvalidInput("there is no list of sales", field=mapping.sales or "body")
    for index, (one, original) in enumerate(zip(found, originals(data, path), strict=True)):
        yield _json_sale(one, f"{mapping.sales}[{index}]", original, mapping)


def _json_sale(value: Any, where: str, original: bytes, mapping: Mapping) -> Sale:
    if not isinstance(value, dict):
        raise InvalidInput("is not an object", field=where)
    header = Row(value, where, ".")
    if not mapping.lines:
        return Sale(header, [], original)
    lines = _walk(value, mapping.lines.split("."))
    if not isinstance(lines, list) and lines is not None:
        raise InvalidInput("is not a list of lines", field=header.place(mapping.lines))
    rows = []
    for index, one in enumerate(lines or []):
        place = f"{header.place(mapping.lines)}[{index}]"
        if not isinstance(one, dict):
            raise InvalidInput("is not an object", field=place)
        rows.append(Row(one, place, "."))
    return Sale(header, rows, original)


# CSV


def _csv_sales(data: bytes, mapping: Mapping) -> Iterator[Sale]:
    try:
        text = data.decode(mapping.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"this is not {mapping.encoding}", field="body") from error
    lines = _LINES.findall(text)
    found = _csv_rows(lines, mapping)
    _, start, names = next(found, (0, 0, []))
    if len(set(names)) != len(names) or not names:
        raise InvalidInput("there is no header of different names", field="row 1")
    _require_columns(mapping, names)
    shared = frozenset(source for place, source in _sources(mapping) if not place.startswith("mapping.line"))
    groups: dict[object, list[tuple[Row, str]]] = {}
    for first, after, cells in found:
        if len(cells) != len(names):
            raise InvalidInput(f"{len(cells)} cells", field=f"row {first + 1}", limit=f"{len(names)}, as in the header")
        row = Row(dict(zip(names, map(str.strip, cells), strict=True)), f"row {first + 1}", ", ")
        groups.setdefault(_key(row, mapping), []).append((row, "".join(lines[first:after])))
    head = "".join(lines[:start])
    for members in groups.values():
        rows = [row for row, _ in members]
        original = (head + "".join(written for _, written in members)).encode(mapping.encoding)
        if mapping.line is None:
            yield Sale(rows[0], [], original)
        else:
            yield Sale(_header(rows, shared), rows, original, shared)


def _csv_rows(lines: list[str], mapping: Mapping) -> Iterator[tuple[int, int, list[str]]]:
    """The rows that are not blank: their first physical line, the one after their last, and their cells."""
    reader = csv.reader(lines, delimiter=mapping.separator, strict=True)
    first = 0
    try:
        for cells in reader:
            if any(cells):
                yield first, reader.line_num, cells
            first = reader.line_num
    except csv.Error as error:
        raise InvalidInput(f"this is no CSV: {error}", field=f"row {first + 1}") from error


def _key(row: Row, mapping: Mapping) -> object:
    """What rows of one sale have in common; a row that is a sale stands alone."""
    sale = mapping.sale
    if mapping.rows == "sales":
        return row.where
    return tuple(row.get(source) for source in (sale.pos_id, sale.store, sale.till, sale.business_date) if source)


def _header(rows: list[Row], shared: frozenset[str]) -> Row:
    """What the rows say of their sale. Raises `InvalidInput` where they contradict each other."""
    values: dict[str, str] = {}
    for row in rows:
        for name in shared:
            if row.values[name] and values.setdefault(name, row.values[name]) != row.values[name]:
                raise InvalidInput("differs from another row of the same sale", field=row.place(name))
    return Row(values, rows[0].where, ", ")


def _sources(mapping: Mapping) -> Iterator[tuple[str, str]]:
    """Every source of a mapping that is no constant, and the mapping's field where it stands."""
    told = msgspec.to_builtins(mapping)
    here = [(f"mapping.{name}", told[name]) for name in _WITH_SOURCES if name in told]
    while here:
        place, value = here.pop()
        if isinstance(value, dict):
            here += [(f"{place}.{name}", one) for name, one in value.items()]
        elif isinstance(value, (list, tuple)):
            here += [(f"{place}[{index}]", one) for index, one in enumerate(value)]
        elif isinstance(value, str) and not value.startswith("="):
            yield place, value


def _require_columns(mapping: Mapping, names: list[str]) -> None:
    for place, source in sorted(_sources(mapping)):
        if source not in names:
            raise InvalidInput(f"there is no column {source!r}", field=place)
