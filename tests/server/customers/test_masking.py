"""Identifiers that stand in a record's other texts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.pipelining import sale
from tillstream_protocol.codec import encode
from tillstream_protocol.transaction import Identifier, Line, Transaction
from tillstream_server.customers.identity import normalise
from tillstream_server.customers.masking import mask

PHONE = Identifier("phone", "+1 (555) 123-4567")
EMAIL = Identifier("email", "Ann@Example.com")
SHORT = Identifier("loyalty", "1024")


@dataclass
class Masked:
    body: Transaction
    encoded: bytes


def with_normals(*identifiers: Identifier) -> list[tuple[Identifier, str]]:
    return [(identifier, normalise(identifier.scheme, identifier.value)) for identifier in identifiers]


def masked(t: Transaction, *identifiers: Identifier) -> Masked:
    body, encoded = mask(t, encode(t), with_normals(*identifiers))
    assert encoded == encode(body)
    return Masked(body, encoded)


def test_a_body_without_them_comes_back_as_it_is() -> None:
    t = sale()
    encoded = encode(t)
    assert mask(t, encoded, with_normals(PHONE, EMAIL)) == (t, encoded)
    assert mask(t, encoded, [])[1] is encoded


@pytest.mark.parametrize(
    "text",
    [
        "+1 (555) 123-4567",
        "call +15551234567 back",
        "5551234567",
        "1-555-123-4567",
        "0 555.123.4567",
        "00 1 555/1234567",
    ],
)
def test_a_telephone_number_is_found_however_it_is_written(text: str) -> None:
    body = masked(sale(reason=text), PHONE).body
    assert body.reason is not None
    assert "****" in body.reason
    assert not any(digit in body.reason for digit in "0123456789")


def test_letters_match_in_either_case() -> None:
    assert masked(sale(reason="mail ANN@example.COM"), EMAIL).body.reason == "mail ****"


def test_every_level_is_searched() -> None:
    line = Line(seq=0, amount=100, name="card 5551234567", scan="5551234567")
    plain = Identifier("phone", "5551234567")
    body = masked(sale("5551234567", lines=(line,), receipt="R5551234567"), plain).body
    assert (body.pos_id, body.receipt) == ("****", "R****")
    assert (body.lines[0].name, body.lines[0].scan) == ("card ****", "****")


def test_a_short_identifier_leaves_the_names_of_things() -> None:
    line = Line(seq=0, amount=100, sku="1024", gtin="0001024567", name="Article 1024 of 10245", quantity="1024")
    body = masked(sale("1024", lines=(line,), reason="for 1024, again"), SHORT).body
    assert (body.pos_id, body.lines[0].sku, body.lines[0].gtin) == ("1024", "1024", "0001024567")
    assert (body.lines[0].name, body.reason) == ("Article **** of 10245", "for ****, again")
    assert body.lines[0].quantity == "1024"


def test_numbers_dates_and_words_of_ours_stay() -> None:
    names = [Identifier("other", text) for text in ("2026-09-20", "sale", "item", "cash-desk", "12345678")]
    line = Line(seq=0, amount=12345678, quantity="12345678", price="12345678", reason="12345678")
    body = masked(sale(lines=(line,), total=12345678), *names).body
    assert (body.kind, body.business_date, body.total) == ("sale", "2026-09-20", 12345678)
    assert (body.lines[0].quantity, body.lines[0].price, body.lines[0].reason) == ("12345678", "12345678", "****")


def test_three_characters_are_too_few_to_look_for() -> None:
    assert masked(sale(reason="by 123"), Identifier("other", "123")).body.reason == "by 123"


@given(
    st.text("0123456789", min_size=7, max_size=15),
    st.text(max_size=20),
    st.text(max_size=20),
    st.sampled_from(["reason", "receipt", "session", "note"]),
)
def test_no_long_number_survives_in_any_text(number: str, before: str, after: str, field: str) -> None:
    result = masked(sale(**{field: before + number + after}), Identifier("loyalty", number))
    assert number.encode() not in result.encoded
