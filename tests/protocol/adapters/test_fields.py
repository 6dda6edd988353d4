"""What is read of an object is read exactly; what is not read is left over, and `ext` can hold it."""

from __future__ import annotations

from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
import pytest

from support.mangling import refusal
from tillstream_protocol.adapters.base import Notes, Setting
from tillstream_protocol.adapters.fields import Fields, extra, local_date, option, originals
from tillstream_protocol.transaction import Ext, Moment


def test_what_was_not_read_is_left_over() -> None:
    fields = Fields({"a": "1", "b": 2, "c": None, "d": "", "e": [], "f": False}, "x")
    assert fields.text("a") == "1"
    assert fields.look("b") == 2
    assert fields.rest(g=3, h=None) == {"b": 2, "f": False, "g": 3}


def test_false_is_nothing_where_the_format_says_so() -> None:
    fields = Fields({"a": False, "b": 0}, "x", false_is_empty=True)
    assert ("a" in fields, "b" in fields) == (False, True)
    assert (fields.text("a"), fields.rest()) == (None, {"b": 0})


def test_a_text_that_is_too_long_is_cut_and_kept_whole() -> None:
    fields = Fields({"a": "y" * 300}, "x")
    assert fields.text("a") == "y" * 256
    assert fields.rest() == {"a": "y" * 300}
    assert refusal(lambda: fields.required("a")).limit == "256 characters"


def test_numbers_are_texts_and_texts_are_numbers() -> None:
    fields = Fields({"a": 7, "b": Decimal("1.50"), "c": " 2.5 "}, "x")
    assert (fields.text("a"), fields.text("b"), fields.plain("c"), fields.plain("d")) == ("7", "1.50", "2.5", None)
    assert (fields.minor("c", Notes(), 2), fields.minor("d", Notes(), 2)) == (250, None)


@pytest.mark.parametrize("value", [True, [], {}], ids=repr)
def test_what_is_no_text_is_refused_unquoted(value: object) -> None:
    problem = refusal(lambda: Fields({"a": value}, "x[1]").text("a"))
    assert (problem.field, "is no text" in problem.message) == ("x[1].a", True)


def test_what_has_to_be_there_is_named() -> None:
    fields = Fields({}, "")
    assert refusal(lambda: fields.required("a")).field == "a"
    assert refusal(lambda: fields.amount("a", Notes(), 2)).field == "a"
    assert refusal(lambda: Fields([], "x")).field == "x"


def test_ext_holds_whatever_is_left() -> None:
    deep = {"a": [[[[2**70, Decimal("2.5")]]]], "b": 2**70, "c": Decimal("1E-30"), "d": Decimal("1.50")}
    held = {name: extra(value) for name, value in deep.items()}
    assert held == {
        "a": [[['[1180591620717411303424, "2.5"]']]],
        "b": "1180591620717411303424",
        "c": "1E-30",
        "d": "1.50",
    }
    assert msgspec.convert(held, Ext) == held
    many = Fields({str(number): number for number in range(300)}, "x").rest()
    assert list(many) == ["rest"]
    assert msgspec.convert(many, Ext) == many


def test_a_date_is_that_of_the_stores_zone() -> None:
    notes, setting = Notes(), Setting(zone=ZoneInfo("Asia/Tokyo"))
    assert local_date(Moment(1_772_665_928_000), setting, notes, "date") == "2026-03-05"
    assert notes.assumed == ["business_date"]
    last = Moment(253_402_300_799_999)
    assert refusal(lambda: local_date(last, setting, notes, "date")).field == "date"


@pytest.mark.parametrize("wrong", [[], {"1": 2}, {1: "A"}], ids=repr)
def test_options_are_maps_from_text_to_text(wrong: object) -> None:
    assert option(Setting(), "products") == {}
    assert option(Setting(options={"products": {"1": "A"}}), "products") == {"1": "A"}
    assert refusal(lambda: option(Setting(options={"products": wrong}), "products")).field == "options.products"


def test_items_have_the_bytes_that_they_were_read_from() -> None:
    data = b'{"a": [{"b": [1.50, "x" ]}]}'
    assert originals(data, ["a", 0, "b"], 2) == [b"1.50", b'"x"']
    assert originals(b"\xef\xbb\xbf[1,2]", [], 2) == [b"1", b"2"]
    assert originals(data, [], 1) == [data]
    assert refusal(lambda: originals(b"[1,", [], 2)).field == "body"
