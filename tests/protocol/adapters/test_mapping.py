"""Any CSV or JSON export is read by a mapping, and what is wrong is named: in the mapping, or in the input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.broken_json import broken
from support.golden import ext_of, read_or_refused
from tillstream_protocol.adapters import Reading, Setting, mapping
from tillstream_protocol.adapters.mapping_format import Mapping, SaleFields
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Discount, Link, Tax, reconcile

SALE = {"pos_id": "Id", "total": "Total", "end": ["When"]}
LINES: dict[str, Any] = {"format": "csv", "sale": SALE, "line": {"amount": "Amount", "sku": "Sku", "quantity": "Qty"}}
EXPORT = (
    b"Id,When,Total,Amount,Sku,Qty,Shelf\r\n"
    b'1,2026-03-01T10:00:00+01:00,5.00,3.00,A,1,"top,\nleft"\r\n'
    b"2,2026-03-01T10:05:00+01:00,1.50,1.50,B,0.5,\r\n"
    b"\r\n"
    b"1,,,2.00,C,2,low\r\n"
)


def read(data: bytes, **said: Any) -> list[Reading]:
    return mapping.read(data, Setting("EUR", options={"mapping": said}))


def test_rows_of_one_sale_belong_together_wherever_they_stand() -> None:
    first, second = read(EXPORT, **LINES)
    assert [(line.sku, line.amount, line.quantity) for line in first.transaction.lines] == [
        ("A", 300, "1"),
        ("C", 200, "2"),
    ]
    assert [line.ext for line in first.transaction.lines] == [{"Shelf": "top,\nleft"}, {"Shelf": "low"}]
    assert [reconcile(one.transaction) for one in (first, second)] == [True, True]
    assert ext_of(second.transaction) == {"assumed": ["business_date", "currency"]}


def test_each_sale_keeps_the_header_and_its_own_rows_as_its_original() -> None:
    lines = EXPORT.splitlines(keepends=True)
    first, second = read(EXPORT, **LINES)
    assert first.original == lines[0] + lines[1] + lines[2] + lines[5]
    assert second.original == lines[0] + lines[3]
    alone = b"\xef\xbb\xbf" + lines[0] + lines[3]
    assert [one.original for one in read(alone, **LINES)] == [alone]


def test_a_row_may_be_a_whole_sale() -> None:
    data = b"Id;Total;When;Cash;Mail;Extra;Old;Off\n7;-1.234,50;01.02.2026 9:30;-1.234,50;jo@example.org;x;6;0,50\n"
    said = {
        "format": "csv",
        "rows": "sales",
        "separator": ";",
        "decimal": ",",
        "grouping": ".",
        "time": "%d.%m.%Y %H:%M",
        "sale": {**SALE, "kind": "=R", "original": "Old", "test": "=yes"},
        "kinds": {"R": "return"},
        "tenders": [{"type": "=cash", "amount": "Cash"}],
        "discounts": [{"amount": "Off", "name": "=staff"}],
        "identifiers": {"email": "Mail"},
    }
    (reading,) = read(data, **said)
    back = reading.transaction
    assert (back.kind, back.total, back.business_date, back.test) == ("return", -123_450, "2026-02-01", True)
    assert back.links == (Link("original", "6"),)
    assert (back.tenders[0].amount, back.tenders[0].refund) == (-123_450, True)
    assert back.discounts == (Discount(50, name="staff"),)
    assert back.customer is not None
    assert ext_of(back)["Extra"] == "x"


def test_a_sale_row_may_hold_its_only_line() -> None:
    (reading,) = read(EXPORT.splitlines(keepends=True)[0] + b"1,2026-03-01,2,2,A,1,top\n", **LINES, rows="sales")
    assert reading.transaction.lines[0].ext == {"Shelf": "top"}
    assert ext_of(reading.transaction) == {"assumed": ["business_date", "currency"]}


def test_json_is_read_by_paths() -> None:
    said = {
        "format": "json",
        "lines": "items",
        "time": "unix_ms",
        "types": {"bag": "fee"},
        "sale": {"pos_id": "id", "total": "t.due", "end": ["at"], "store": "shop.no", "revision": "v"},
        "line": {"amount": "a", "type": "=bag", "hierarchy": ["g.0"], "taxes": [{"code": "=VAT", "amount": "tax"}]},
    }
    shop, items = {"no": 5, "name": "N"}, [{"a": 1, "tax": "0.2"}]
    sale = {"id": 1, "t": {"due": 1.2}, "at": 0, "shop": shop, "v": 3, "items": items}
    data = json.dumps([sale, sale | {"id": 2}]).encode()
    first, second = (reading.transaction for reading in read(data, **said))
    assert (first.pos_id, second.pos_id, first.store, first.revision) == ("1", "2", "5", 3)
    assert first.lines[0].taxes == (Tax("VAT", 20),)
    assert (first.lines[0].type, reconcile(first)) == ("fee", True)
    assert ext_of(first)["shop"] == {"name": "N"}


def test_a_mapping_may_be_given_as_its_own_type() -> None:
    given = Mapping("csv", SaleFields("Id", "Total", ("When",)), rows="sales")
    data = b"Id,When,Total\n1,2026-03-01,5\n2,2026-03-01,6\n"
    found = mapping.read(data, Setting("EUR", options={"mapping": given}))
    assert [one.transaction.total for one in found] == [500, 600]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "mapping.format"),
        ({"format": "xml", "sale": SALE}, "mapping.format"),
        ({**LINES, "sale": {"total": "Total", "end": ["When"]}}, "mapping.sale.pos_id"),
        ({**LINES, "colour": 1}, "mapping.colour"),
        ({**LINES, "sale": {**SALE, "total": "Sum"}}, "mapping.sale.total"),
        ({**LINES, "tenders": [{"type": "=cash", "amount": "Cash"}]}, "mapping.tenders[0].amount"),
        ({**LINES, "line": None}, "mapping.line"),
        ({**LINES, "time": "%Q"}, "mapping.time"),
        ({**LINES, "time": "%d%d"}, "mapping.time"),
        ({**LINES, "version": "\ud800"}, "mapping"),
        ({**LINES, "date": "unix"}, "mapping.date"),
        ({**LINES, "grouping": "."}, "mapping.grouping"),
        ({**LINES, "sale": {**SALE, "kind": "Sku"}}, "mapping.kinds"),
        ({**LINES, "kinds": {"R": "refund"}}, "mapping.kinds[...]"),
        ({**LINES, "line": {"amount": "Amount", "type": "Sku"}}, "mapping.types"),
        ({**LINES, "format": "json"}, "mapping.lines"),
    ],
)
def test_a_bad_mapping_is_named_by_its_own_field(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(EXPORT, **said)
    assert caught.value.field == field


def test_without_a_mapping_nothing_is_read() -> None:
    with pytest.raises(InvalidInput) as caught:
        mapping.read(EXPORT, Setting())
    assert caught.value.field == "mapping"


HEAD = EXPORT.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "row 1"),
        (b"Id,Id\n", "row 1"),
        (b"\xff", "body"),
        (HEAD + b"1,2026-03-01,x,1,A,1,\n", "row 2, Total"),
        (HEAD + b"1,2026-03-01,,1,A,1,\n", "row 2, Total"),
        (HEAD + b"1,yesterday,1,1,A,1,\n", "row 2, When"),
        (HEAD + b",2026-03-01,1,1,A,1,\n", "row 2, Id"),
        (HEAD + b"1,2026-03-01,1,1,A,1\n", "row 2"),
        (HEAD + b"1,2026-03-01,1,1,A,1,\n1,,2,1,A,1,\n", "row 3, Total"),
        (HEAD + b'1,2026-03-01,1,1,A,1,"open\n', "row 2"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named_by_row_and_column(data: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(data, **LINES)
    assert caught.value.field == field


JSON_SAID: dict[str, Any] = {
    "format": "json",
    "sales": "day.sales",
    "lines": "items",
    "sale": {"pos_id": "id", "total": "t.due", "end": ["at"], "note": "note", "customer_name": "who"},
    "line": {"amount": "a", "seq": "n", "void": "void"},
    "personal": {"town": "town"},
}
JSON = json.dumps(
    {"day": {"sales": [{"id": 1, "t": {"due": "1"}, "at": "2026-01-01", "items": [{"a": 1, "n": 4, "void": True}]}]}}
).encode()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (b'"day"', b'"night"', "day.sales"),
        (b'"due": "1"', b'"due": []', "day.sales[0].t.due"),
        (b'"a": 1', b'"a": "1,5"', "day.sales[0].items[0].a"),
        (b'"n": 4', b'"n": -4', "day.sales[0].items[0].n"),
        (b'"items": [', b'"items": [1, ', "day.sales[0].items[0]"),
        (b'"sales": [', b'"sales": [1, ', "day.sales[0]"),
    ],
)
def test_what_is_wrong_in_json_is_named_by_its_path(old: bytes, new: bytes, field: str) -> None:
    assert read(JSON, **JSON_SAID)[0].transaction.lines[0].void
    with pytest.raises(InvalidInput) as caught:
        read(JSON.replace(old, new), **JSON_SAID)
    assert caught.value.field == field


@given(st.binary() | st.binary().map(lambda tail: HEAD + tail) | st.text("1,;\"\n-.xA", max_size=60).map(
    lambda tail: HEAD + tail.encode()
))  # fmt: skip
def test_whatever_comes_as_csv_is_read_or_refused_by_name(data: bytes) -> None:
    read_or_refused(mapping.ADAPTER, data, Setting("EUR", options={"mapping": LINES}), in_one_piece=False)


@given(st.binary() | broken(JSON))
def test_whatever_comes_as_json_is_read_or_refused_by_name(data: bytes) -> None:
    read_or_refused(mapping.ADAPTER, data, Setting("EUR", options={"mapping": JSON_SAID}), in_one_piece=False)


@given(broken(json.dumps(LINES).encode()))
def test_whatever_is_set_as_a_mapping_is_taken_or_refused_by_name(said: bytes) -> None:
    setting = Setting("EUR", options={"mapping": json.loads(said)})
    read_or_refused(mapping.ADAPTER, EXPORT, setting, in_one_piece=False)
