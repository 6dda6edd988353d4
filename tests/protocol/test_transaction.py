"""The canonical transaction refuses what is no number, date or currency, and keeps what does not add up."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol import transaction as transaction_module
from tillstream_protocol.codec import encode, json_decoder, msgpack_decoder
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.transaction import Transaction, check, idempotency_key, reconcile

decode = json_decoder(Transaction, limit=DEFAULT.hook_body)

LINE = {"seq": 1, "amount": 1000}
TAX = {"code": "A", "amount": 70}

FULL: dict[str, Any] = {
    "type": "transaction",
    "source": {"system": "pos", "version": "9", "adapter": "canonical", "adapter_version": "1"},
    "kind": "sale",
    "pos_id": "1001",
    "business_date": "2026-02-28",
    "begin": {"at": 1_767_349_700_000},
    "end": {"at": 1_767_349_800_000, "offset_minutes": 60, "offset_from": "explicit", "text": "2026-01-02 11:30"},
    "currency": "EUR",
    "total": 1150,
    "totals": {"gross": 1200, "discount": 50, "tax": 60, "rounding": 0},
    "retailer": "r1",
    "store": "s1",
    "till": "t1",
    "links": [{"relation": "previous_receipt", "pos_id": "1000", "business_date": "2026-02-27"}],
    "lines": [
        {
            "seq": 1,
            "amount": 1100,
            "quantity": "-1.5",
            "price": "+7.33333",
            "regular_price": "8",
            "hierarchy": ["food", "coffee"],
            "discounts": [{"amount": 50, "rate": "4.5"}],
            "taxes": [{"code": "A", "rate": "5", "amount": 40}],
            "ext": {"weighed": True, "scale": {"id": 7, "readings": [1.5, None]}},
        }
    ],
    "discounts": [{"amount": 0, "rate": "0"}],
    "taxes": [{"code": "A", "rate": "5", "base": 1100, "amount": 60}],
    "tenders": [{"type": "card", "amount": 1150, "foreign_rate": "1.1", "card": "123456******1234"}],
    "customer": {
        "identifiers": [{"scheme": "loyalty", "value": "4711"}],
        "personal": {"street": "somewhere"},
        "consents": [{"purpose": "offers", "level": 3}],
        "points": {"earned": "11", "used": "0", "balance": "120.5"},
    },
    "fiscal": {"system": "de-tse", "counter": "55"},
    "ext": {"weather": "rain"},
}


def sale(**changes: Any) -> Transaction:
    return decode(msgspec.json.encode({**FULL, **changes}))


def test_a_full_transaction_is_taken_whole_and_comes_back_from_msgpack() -> None:
    taken = sale()
    check(taken)
    assert msgspec.json.decode(msgspec.json.encode(taken)) == FULL
    assert msgpack_decoder(Transaction, limit=DEFAULT.hook_body)(encode(taken)) == taken


def refused(transaction: Transaction) -> InvalidInput:
    with pytest.raises(InvalidInput) as error:
        check(transaction)
    return error.value


def at(path: list[str | int], value: object) -> dict[str, Any]:
    """The full transaction with one value replaced."""
    document: Any = msgspec.json.decode(msgspec.json.encode(FULL))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return {"document": document}


DECIMALS: list[tuple[list[str | int], str]] = [
    (["lines", 0, "quantity"], "lines[0].quantity"),
    (["lines", 0, "price"], "lines[0].price"),
    (["lines", 0, "regular_price"], "lines[0].regular_price"),
    (["lines", 0, "discounts", 0, "rate"], "lines[0].discounts[0].rate"),
    (["lines", 0, "taxes", 0, "rate"], "lines[0].taxes[0].rate"),
    (["discounts", 0, "rate"], "discounts[0].rate"),
    (["taxes", 0, "rate"], "taxes[0].rate"),
    (["tenders", 0, "foreign_rate"], "tenders[0].foreign_rate"),
    (["customer", "points", "earned"], "customer.points.earned"),
    (["customer", "points", "used"], "customer.points.used"),
    (["customer", "points", "balance"], "customer.points.balance"),
]
NO_NUMBERS = ["1,5", "1e3", "NaN", ".5", "5.", "--1", " 1", "1\n", "1\x00", "1\x002", "\x00", "٣", "1" * 19]


@pytest.mark.parametrize(("path", "field"), DECIMALS, ids=[field for _, field in DECIMALS])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_decimal_number_is_refused_by_its_place(path: list[str | int], field: str, value: str) -> None:
    error = refused(decode(msgspec.json.encode(at(path, value)["document"])))
    assert error.field == field
    assert error.limit is not None


def test_what_was_fine_before_does_not_make_anything_else_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_module, "_FINE", {None})
    monkeypatch.setattr(transaction_module, "_MOST_REMEMBERED", 20)

    def priced(*prices: str) -> Transaction:
        return sale(lines=[{"seq": n, "amount": 1, "price": price} for n, price in enumerate(prices)])

    for number in range(10):
        check(priced("1.49", f"{number}.50"))
        assert "price" in str(refused(priced("1.49", "1.49x", f"{number}.50")).field)
        assert "price" in str(refused(priced("1.49", "2\x003")).field)
    assert "1.49" in transaction_module._FINE
    assert "1.49x" not in transaction_module._FINE
    assert 10 < len(transaction_module._FINE) <= 20


@pytest.mark.parametrize("price", ["7.77", None])
def test_no_text_at_all_is_no_decimal_wherever_it_stands(price: str | None) -> None:
    whole = sale(lines=[{"seq": 0, "amount": 1, "quantity": "7.5", "price": price}, {"seq": 1, "amount": 1}])
    given = msgspec.structs.replace(whole, lines=(whole.lines[0], msgspec.structs.replace(whole.lines[1], price="")))
    assert refused(given).field == "lines[1].price"
    assert "" not in transaction_module._FINE


@given(st.text("0123456789.+-\x00e٣", min_size=1, max_size=32))
def test_a_quantity_that_passes_is_a_finite_number(text: str) -> None:
    line = {"seq": 1, "amount": 1, "quantity": text}
    transaction = sale(lines=[line, line])
    try:
        check(transaction)
    except InvalidInput:
        return
    assert Decimal(text).is_finite()
    assert text.isascii()


@pytest.mark.parametrize(
    "date", ["2026-02-29", "2026-13-01", "2026-00-10", "2026-1-001", "0000-01-01", "2026-W01-1", "२०२६-01-01", "x" * 10]
)
def test_a_day_that_was_never_is_no_business_date(date: str) -> None:
    error = refused(sale(business_date=date))
    assert (error.field, error.limit) == ("business_date", "YYYY-MM-DD")
    link = {"relation": "original", "pos_id": "1", "business_date": date}
    assert refused(sale(links=[*FULL["links"], link])).field == "links[1].business_date"


def test_a_leap_day_is_a_date_and_a_link_needs_none() -> None:
    check(sale(business_date="2028-02-29", links=[{"relation": "voids", "pos_id": "1"}]))


@pytest.mark.parametrize("currency", ["eur", "E1R", "ÄÖÜ"])
def test_what_is_no_currency_is_refused(currency: str) -> None:
    error = refused(sale(currency=currency))
    assert (error.field, error.limit) == ("currency", "three letters A to Z")


def test_the_agent_fills_in_the_currency_before_it_checks() -> None:
    with pytest.raises(InvalidInput):
        sale(currency="")
    document = {key: value for key, value in FULL.items() if key != "currency"}
    assert refused(decode(msgspec.json.encode(document))).field == "currency"


def test_the_bare_minimum_is_enough() -> None:
    keep = ("source", "kind", "pos_id", "business_date", "end", "currency")
    check(decode(msgspec.json.encode({key: FULL[key] for key in keep})))


def test_what_is_left_out_is_no_bad_number() -> None:
    sparse = sale(
        lines=[{**LINE, "discounts": [{"amount": 1}], "taxes": [TAX]}],
        discounts=[{"amount": 1}],
        taxes=[TAX],
        tenders=[{"type": "cash", "amount": 1}, {"type": "card", "amount": 1, "foreign_rate": "1,1"}],
        customer={"points": {"used": "5"}},
    )
    assert refused(sparse).field == "tenders[1].foreign_rate"


def test_one_sale_has_one_key_whatever_its_revision() -> None:
    assert idempotency_key(sale()) == ("pos", "s1", "t1", "2026-02-28", "1001")
    assert idempotency_key(sale(revision=3, total=1)) == idempotency_key(sale())


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"lines": [LINE], "total": 1000}, True),
        ({"lines": [LINE], "total": 999}, False),
        ({"lines": [LINE, {**LINE, "seq": 2, "void": True}], "total": 1000}, True),
        ({"lines": [LINE], "discounts": [{"amount": 100}], "total": 900}, True),
        ({"lines": [LINE], "taxes": [TAX], "total": 1070}, True),
        ({"lines": [LINE], "taxes": [{**TAX, "included": True}], "total": 1000}, True),
        ({"lines": [{**LINE, "taxes": [TAX]}], "taxes": [TAX], "total": 1070}, True),
        ({"lines": [{**LINE, "taxes": [{**TAX, "included": True}]}], "total": 1000}, True),
        ({"lines": [LINE], "totals": {"rounding": -2, "tip": 50}, "total": 1048}, True),
        ({"lines": [LINE], "kind": "return", "total": 1000}, True),
        ({"lines": [], "total": 1000}, None),
        ({"lines": [LINE], "kind": "suspend", "total": 1000}, None),
    ],
)
def test_a_sale_says_whether_it_adds_up(changes: dict[str, Any], verdict: bool | None) -> None:
    plain: dict[str, Any] = {"totals": None, "discounts": [], "taxes": []}
    assert reconcile(sale(**{**plain, **changes})) is verdict
