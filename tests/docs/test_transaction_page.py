"""The reference of the canonical transaction says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT, Struct

from tillstream_protocol import transaction
from tillstream_protocol.codec import json_decoder
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.transaction import Transaction, check, reconcile

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "transaction.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```json transaction\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
STRUCTS = {
    name: kind
    for name, kind in vars(transaction).items()
    if isinstance(kind, type) and issubclass(kind, Struct) and kind.__module__ == transaction.__name__
}

decode = json_decoder(Transaction, limit=DEFAULT.hook_body)


def rows(name: str) -> list[list[str]]:
    """The table of a struct's fields: name, type, default, meaning."""
    lines = PAGE.split(f"| `{name}` | type |", 1)[1].splitlines()[2:]
    end = next(index for index, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[:end]]


def as_shown(default: object) -> str:
    if default is None or isinstance(default, bool):
        return f"`{msgspec.json.encode(default).decode()}`"
    if default == "":
        return '`""`'
    return {(): "none"}.get(default, "") if isinstance(default, tuple) else str(default)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_every_field_is_listed_with_its_default(name: str) -> None:
    listed = rows(name)
    fields = msgspec.structs.fields(STRUCTS[name])
    assert [row[0].strip("`") for row in listed] == [field.name for field in fields]
    for row, field in zip(listed, fields, strict=True):
        wanted = "required" if field.default is NODEFAULT else as_shown(field.default)
        assert row[2] in (wanted, f"`{wanted}`"), field.name


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_every_choice_is_listed(name: str) -> None:
    for row, field in zip(rows(name), msgspec.structs.fields(STRUCTS[name]), strict=True):
        kind = msgspec.inspect.type_info(field.type)
        if isinstance(kind, msgspec.inspect.LiteralType):
            assert set(re.findall(r"`(\w+)`", row[1])) == set(kind.values)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_the_number_of_items_is_that_of_the_code(name: str) -> None:
    for row, field in zip(rows(name), msgspec.structs.fields(STRUCTS[name]), strict=True):
        kind = msgspec.inspect.type_info(field.type)
        if isinstance(kind, msgspec.inspect.VarTupleType):
            assert row[1].startswith(f"up to {kind.max_length:,} "), field.name


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_taken_and_adds_up(example: str) -> None:
    sale = msgspec.structs.replace(decode(example.encode()), currency="EUR")
    check(sale)
    assert reconcile(sale) is True


def test_the_complete_example_uses_every_field() -> None:
    given: dict[str, set[str]] = {name: set() for name in STRUCTS}

    def note(plain: Any, typed: object) -> None:
        if isinstance(typed, Struct):
            given[type(typed).__name__] |= set(plain)
            for name, value in plain.items():
                note(value, getattr(typed, name))
        elif isinstance(typed, tuple):
            for one, item in zip(plain, typed, strict=True):
                note(one, item)

    note(msgspec.json.decode(EXAMPLES[0]), decode(EXAMPLES[0].encode()))
    missing = {name: set(STRUCTS[name].__struct_fields__) - used for name, used in given.items()}
    assert {name: fields for name, fields in missing.items() if fields} == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"total": "19.80"}, "total"),
        ({"total": 10**16}, "total"),
        ({"lines": [{"seq": 1, "amount": 1, "quantity": "1,5"}]}, "lines[0].quantity"),
        ({"business_date": "2026-02-30"}, "business_date"),
        ({"currency": "eur"}, "currency"),
        ({"note": "x" * 4001}, "note"),
        ({"ext": {"a": {"b": {"c": {"d": {"e": 1}}}}}}, "ext"),
    ],
)
def test_what_the_page_says_is_refused_is_refused_by_its_place(change: dict[str, Any], field: str) -> None:
    given = {**msgspec.json.decode(EXAMPLES[1]), "currency": "EUR", **change}
    with pytest.raises(InvalidInput) as refused:
        check(decode(msgspec.json.encode(given)))
    assert (refused.value.field or "").startswith(field)
