"""Money, times and JSON are read exactly, and what was assumed or rounded is said."""

from __future__ import annotations

from datetime import timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from tillstream_protocol.adapters import base
from tillstream_protocol.adapters.base import (
    Notes,
    Setting,
    checked,
    decimal,
    exponent_of,
    list_at,
    load_json,
    moment,
    object_at,
    plain,
    text_at,
)
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.transaction import Moment, Source, Transaction

SETTING = Setting("EUR", ZoneInfo("Europe/Stockholm"))


@pytest.mark.parametrize(
    ("value", "exponent", "minor", "rounded"),
    [
        ("27.83", 2, 2783, []),
        (Decimal("27.830000000000002"), 2, 2783, []),
        (" -0.10 ", 2, -10, []),
        (5, 0, 5, []),
        ("1.234", 3, 1234, []),
        ("1.235", 2, 124, ["total"]),
        ("-1.235", 2, -124, ["total"]),
    ],
)
def test_amounts_are_minor_units_and_what_was_rounded_is_noted(
    value: object, exponent: int, minor: int, rounded: list[str]
) -> None:
    notes = Notes()
    assert notes.minor(value, exponent, "total") == minor
    assert notes.rounded == rounded


@pytest.mark.parametrize("value", ["", "1,5", "abc", None, True, [], "NaN", "Infinity", "1e30"])
def test_what_is_no_number_is_refused_by_its_place(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        decimal(value, "lines[3].qty")
    assert caught.value.field == "lines[3].qty"


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ("1.500", "1.500"),
        ("10.649999999999999", "10.65"),
        ("1E+2", "100"),
        ("-0.5", "-0.5"),
        ("9" * 18 + ".0000000000004", "9" * 18),
        ("9" * 18 + "." + "1" * 13, "9" * 18 + "." + "1" * 12),
        ("123456789012345678.1234567890123", "123456789012345678.123456789012"),
    ],
)
def test_decimals_are_written_as_sent_without_noise(sent: str, written: str) -> None:
    assert plain(Decimal(sent)) == written


def test_a_currency_is_said_or_set_and_then_noted() -> None:
    notes = Notes()
    assert notes.currency("SEK", SETTING, "currency") == "SEK"
    assert notes.ext() is None
    assert notes.currency(None, SETTING, "currency") == "EUR"
    assert notes.ext(shop="x", empty="") == {"shop": "x", "assumed": ["currency"]}
    with pytest.raises(InvalidInput, match="no currency"):
        notes.currency("", Setting(), "currency")


def test_decimals_of_currencies() -> None:
    assert [exponent_of(name) for name in ("EUR", "JPY", "KWD", "CLF")] == [2, 0, 3, 4]


def test_times_have_their_own_offset_or_the_stores() -> None:
    explicit = moment("2026-07-01T12:00:00+02:00", Setting(), "created")
    assert explicit == Moment(1_782_900_000_000, 120, "explicit", "2026-07-01T12:00:00+02:00")
    summer, winter = (moment(f"2026-{month}-01 12:00:00", SETTING, "created") for month in ("07", "01"))
    assert (summer.at, summer.offset_minutes, summer.offset_from) == (1_782_900_000_000, 120, "store")
    assert winter.offset_minutes == 60
    zulu = moment("2026-07-01T10:00:00", SETTING, "created", utc=True)
    assert (zulu.at, zulu.offset_minutes, zulu.offset_from) == (1_782_900_000_000, 0, "explicit")
    odd = moment("2026-07-01T12:00:00", Setting(zone=timezone(timedelta(minutes=345))), "created")
    assert odd.offset_minutes == 345


@pytest.mark.parametrize("text", ["yesterday", "", None, 5])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        moment(text, SETTING, "created_at")
    assert caught.value.field == "created_at"


def test_json_numbers_are_exact() -> None:
    assert load_json(b'{"a": 27.830000000000002, "b": 1}', what="an order") == {
        "a": Decimal("27.830000000000002"),
        "b": 1,
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a": NaN}',
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        rb'["\ud800"]',
        b'["\xed\xa0\x80"]',
        b"[1e99999999999999999999]",
    ],
    ids=range(9),
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_json(data, what="an order")
    assert caught.value.field == "body"


def test_payloads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_PAYLOAD", 2)
    assert load_json(b"{}", what="an order") == {}
    with pytest.raises(TooLarge):
        load_json(b"[ ]", what="an order")


def test_what_stands_at_a_place_has_its_shape() -> None:
    assert object_at({"a": 1}, "x") == {"a": 1}
    assert (list_at([1], "x"), list_at(None, "x")) == ([1], [])
    assert (text_at("a", "x"), text_at(7, "x")) == ("a", "7")
    for read, value in ((object_at, []), (list_at, {}), (text_at, ""), (text_at, None), (text_at, True)):
        with pytest.raises(InvalidInput) as caught:
            read(value, "orders[0].id")
        assert caught.value.field == "orders[0].id"


def test_a_transaction_that_the_canonical_form_would_not_take_is_refused() -> None:
    sale = Transaction(Source("pos"), "sale", "1", "2026-01-02", Moment(0), currency="EUR")
    assert checked(sale) == sale
    for bad, field in ((("x" * 129, "2026-01-02"), "pos_id"), (("1", "2026-02-31"), "business_date")):
        with pytest.raises(InvalidInput) as caught:
            checked(Transaction(Source("pos"), "sale", *bad, Moment(0), currency="EUR"))
        assert caught.value.field == field
