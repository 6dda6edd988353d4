"""A payload is read part by part, and what nobody asked for is left over, bounded as `ext` is."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest

from support.golden import refusal
from tillstream_protocol.adapters.base import Notes
from tillstream_protocol.adapters.parts import (
    Part,
    bounded,
    documents,
    gtin_of,
    less_change,
    originals,
    personal,
)
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Ext, Tender


def test_what_was_read_is_known_and_the_rest_is_left() -> None:
    part = Part({"id": 7, "who": {"name": "Jo", "age": 3}, "lines": [{"a": 1, "b": 2}, {"a": 3}], "x": Decimal("1.50")})
    assert (part.need("id"), part.part("who").text("name"), part.text("none")) == ("7", "Jo", None)
    assert [one.take("a") for one in part.parts("lines", 5)] == [1, 3]
    assert part.rest() == {"who": {"age": 3}, "lines": [{"b": 2}, {}], "x": "1.50"}
    assert part.rest({"more": "y"})["more_said"] == "y"


def test_what_was_only_looked_at_is_left() -> None:
    part = Part({"a": "1", "b": 2, "c": None, "d": "", "e": [], "f": False}, "x")
    assert (part.text("a"), part.look("b"), part.look("d")) == ("1", 2, None)
    assert part.again().text("b") == "2"
    assert part.rest({"g": 3, "h": None}) == {"b": 2, "f": False, "g": 3}


def test_false_is_nothing_where_the_format_says_so() -> None:
    part = Part({"a": False, "b": 0, "c": {"d": False}}, "x", false_is_nothing=True)
    assert (part.look("a"), part.look("b"), part.part("c").look("d")) == (None, 0, None)
    assert (part.text("a"), part.rest()) == (None, {"b": 0})


def test_numbers_are_texts_and_texts_are_numbers() -> None:
    part = Part({"a": 7, "b": Decimal("1.50"), "c": " 2.5 ", "d": Decimal("1E-30")}, "x")
    assert [part.text(name) for name in "abd"] == ["7", "1.50", "1E-30"]
    assert (part.plain("c"), part.plain("e"), part.amount("c"), part.amount("e")) == ("2.5", None, 250, None)


@pytest.mark.parametrize("read", [Part.need, Part.need_number, Part.need_amount], ids=lambda read: read.__name__)
def test_what_has_to_be_there_is_named(read: Callable[[Part, str], object]) -> None:
    for value in ({}, {"a": None}, {"a": ""}):
        problem = refusal(lambda value=value: read(Part(value, "x[1]"), "a"))  # type: ignore[misc]
        assert (problem.field, problem.message) == ("x[1].a", "is missing")


def test_a_list_has_its_limit() -> None:
    assert refusal(lambda: Part({"a": [1, 2, 3]}, "x").items("a", 2)).limit == "2"
    assert Part({}).items("a", 2) == []


@pytest.mark.parametrize(
    ("scan", "gtin"), [("4006381333931", "4006381333931"), ("123", None), ("", None), (None, None)]
)
def test_what_was_scanned_may_be_a_gtin(scan: str | None, gtin: str | None) -> None:
    assert gtin_of(scan) == gtin


def test_a_rest_always_fits_into_ext() -> None:
    deep = {"a": {"b": {"c": {"d": {"e": 1}}}}, "big": 10**30, "assumed": "theirs"} | {f"n{i}": i for i in range(500)}
    told = bounded(deep)
    assert msgspec.convert(told, Ext) == told
    assert told["a"] == {"b": {"c": {"d": '{"e": 1}'}}}
    assert (told["big"], told["assumed_said"]) == (str(10**30), "theirs")
    assert '"n499": 499' in told["more"]


def test_a_text_without_room_is_cut_and_left_whole() -> None:
    part = Part({"name": "n" * 300, "sku": "s" * 65})
    assert (part.text("name"), part.code("sku")) == ("n" * 256, None)
    assert part.rest() == part.fields
    with pytest.raises(InvalidInput, match="300 characters"):
        part.need("name")


def test_addresses_are_told_field_by_field_and_what_is_no_text_stays() -> None:
    home = Part({"city": "Lund", "zip": 22100, "tags": ["x"], "long": "l" * 5_000, "default": True}, "order.home")
    assert personal(home) == {"home.city": "Lund", "home.zip": "22100"}
    assert home.rest() == {"tags": ["x"], "long": "l" * 5_000, "default": True}
    assert personal(Part({})) is None


@pytest.mark.parametrize(
    ("data", "places"),
    [
        (b'{"id": 1}', [""]),
        (b'{"order": {"id": 1}}', ["order"]),
        (b'[{"id": 1}, {"id": 2}]', ["[0]", "[1]"]),
        (b'{"orders": [{"id": 1}]}', ["orders[0]"]),
        (b'{"orders": []}', []),
        (b'{"orders": {"id": 1}}', ["orders"]),
    ],
)
def test_documents_stand_bare_wrapped_or_in_a_list(data: bytes, places: list[str]) -> None:
    assert [part.where for part, _ in documents(data, "orders", "order", what="x")] == places


@pytest.mark.parametrize("data", [b"7", b'{"order": 7}', b'{"orders": null}', b"[7]", "[{}]".encode("utf-16")])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(documents(data, "orders", "order", what="x"))
    assert caught.value.field


def test_items_have_the_bytes_that_they_were_read_from() -> None:
    data = b'{"a": [{"b": [1.50, "x" ]}]}'
    assert originals(data, ["a", 0, "b"]) == [b"1.50", b'"x"']
    assert originals(b"\xef\xbb\xbf[1,2]", []) == [b"1", b"2"]
    assert originals(data, ["a"]) == [data]
    assert refusal(lambda: originals(b"[1,", [])).field == "body"


def test_errors_do_not_quote_what_may_name_a_person() -> None:
    part = Part({"who": "Jo Example", "mail": ["jo@example.org"], "agreed": "Jo", "lines": "Jo"})
    for read in (
        lambda: part.part("who"),
        lambda: part.text("mail"),
        lambda: part.flag("agreed"),
        lambda: part.parts("lines", 5),
    ):
        with pytest.raises(InvalidInput) as caught:
            read()
        assert "Jo" not in caught.value.message
        assert "jo@" not in caught.value.message


def test_change_comes_off_the_last_cash_that_has_so_much() -> None:
    notes = Notes()
    paid = (Tender("Cash", 500), Tender("card", 900), Tender("petty cash", 10))
    first, second, third = less_change(paid, 120, notes)
    assert (first.amount, first.tendered, first.change) == (380, 500, 120)
    assert (second, third, notes.assumed) == (*paid[1:], ["tenders.change"])


@pytest.mark.parametrize(("change", "paid"), [(0, "cash"), (-5, "cash"), (501, "cash"), (5, "card"), (5, "method 7")])
def test_change_that_no_cash_can_have_given_changes_nothing(change: int, paid: str) -> None:
    notes = Notes()
    assert less_change([Tender(paid, 500)], change, notes) == (Tender(paid, 500),)
    assert notes.assumed == []
