"""Card numbers never reach the disk whole; numbers of other things are left alone."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol import cards
from tillstream_protocol.cards import cut_numbers, is_card_number
from tillstream_protocol.codec import encode
from tillstream_protocol.redaction import cut_bytes, cut_cards
from tillstream_protocol.transaction import (
    Customer,
    Identifier,
    Line,
    Moment,
    Source,
    Tender,
    Transaction,
)

VISA = "4111111111111111"
AMEX = "378282246310005"
RUN = r"\d(?:[ .-]{0,3}\d){12,}"
MASTER = "5555555555554444"
MASTER_2 = "2223003122003222"

SALE = Transaction(
    source=Source("pos"),
    kind="sale",
    pos_id="1",
    business_date="2026-01-01",
    end=Moment(1_700_000_000_000),
    currency="EUR",
)


def cut(**fields: object) -> tuple[Transaction, int]:
    sale = msgspec.structs.replace(SALE, **fields)
    return cut_cards(sale, encode(sale))


@pytest.mark.parametrize("number", [VISA, AMEX, MASTER, MASTER_2, "6011111111111117", "3530111333300000"])
def test_a_card_number_is_cut_to_first_six_and_last_four_wherever_text_is_free(number: str) -> None:
    masked = number[:6] + "*" * (len(number) - 10) + number[-4:]
    sale, count = cut(
        note=f"paid with {number}.",
        tenders=(Tender(type="card", amount=1, card=number, reference=f"x{number}"),),
        lines=(Line(seq=0, amount=1, name=number),),
        ext={"a": {"b": [number]}},
    )
    assert number not in encode(sale).decode("latin-1")
    assert sale.note == f"paid with {masked}."
    assert sale.tenders[0].card == masked
    assert sale.tenders[0].reference == f"x{masked}"
    assert sale.lines[0].name == masked
    assert sale.ext == {"a": {"b": [masked]}}
    assert count == 5


def test_separators_do_not_hide_a_card_number() -> None:
    sale, count = cut(note="4111 1111 1111 1111 / 4111-1111-1111-1111")
    assert sale.note == "4111 11** **** 1111 / 4111-11**-****-1111"
    assert count == 2


HIDDEN = [
    "4111 1111 1111 1111 12/27",
    "4111111111111111 123",
    "378282246310005 1227",
    "6011111111111117 9",
    "5 4111 1111 1111 1111",
    "till 5 4111111111111111",
    "4111111111111111-27",
    "4111.1111.1111.1111",
    "4111  1111  1111  1111",
    "4111\u00a01111\u00a01111\u00a01111",
    "4111_1111_1111_1111",
    "4111/1111/1111/1111",
    "\uff14\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_neither_neighbours_nor_separators_nor_scripts_hide_a_card_number(text: str) -> None:
    sale, count = cut(note=text, ext={"a": text}, tenders=(Tender(type=text, amount=1),))
    assert count >= 3
    notes = (sale.note or "", str((sale.ext or {})["a"]), sale.tenders[0].type)
    assert all(note.count("*") >= 5 for note in notes)


def test_a_long_number_without_a_break_is_no_card() -> None:
    long = "4111111111111111" * 2
    assert cut(note=long)[1] == 0


@given(
    st.text(alphabet="0123456789", max_size=4),
    st.sampled_from([VISA, AMEX, MASTER]),
    st.text(alphabet="0123456789/ ", max_size=8),
    st.sampled_from([" ", "-", "/", ". "]),
)
def test_no_digits_around_a_card_number_hide_it(before: str, number: str, after: str, gap: str) -> None:
    sale, count = cut(note=f"{before}{gap}{number}{gap}{after}")
    assert count >= 1
    assert number not in (sale.note or "")


def test_a_number_that_is_no_text_is_cut_too() -> None:
    sale, count = cut(ext={"pan": int(VISA), "list": [int(VISA)]})
    assert sale.ext == {"pan": "411111******1111", "list": ["411111******1111"]}
    assert count == 2


def test_verification_values_and_tracks_are_dropped() -> None:
    track_1 = f"%B{VISA}^DOE/JANE^2512101?"
    track_2 = f";{VISA}=25121010000?"
    sale, count = cut(ext={"cvv": "123", "Track2": "x", "kept": "y"}, note=f"a{track_1}b{track_2}c")
    assert sale.ext == {"kept": "y"}
    assert sale.note == "abc"
    assert count == 4


def test_skus_gtins_and_the_pos_own_ids_are_never_touched() -> None:
    before = cut(
        pos_id=VISA,
        sequence=VISA,
        lines=(Line(seq=0, amount=1, sku=VISA, gtin=VISA, scan="4006381333931"),),
    )
    assert before[1] == 0
    assert before[0].pos_id == VISA
    assert before[0].lines[0].sku == VISA


def test_a_scan_that_is_no_gtin_is_free_text() -> None:
    sale, count = cut(lines=(Line(seq=0, amount=1, scan=VISA),))
    assert sale.lines[0].scan == "411111******1111"
    assert count == 1


def test_a_card_number_given_as_identifier_is_left_out_since_cut_it_would_name_many() -> None:
    sale, count = cut(
        customer=Customer(identifiers=(Identifier("card", VISA), Identifier("loyalty", "4111111111111111")))
    )
    assert sale.customer is not None
    assert sale.customer.identifiers == (Identifier("loyalty", VISA),)
    assert count == 1


def test_what_holds_no_card_number_comes_back_as_it_was() -> None:
    sale = msgspec.structs.replace(SALE, note="order 1234567890123, phone 5551234567", ext={"n": 1234567890123})
    same, count = cut_cards(sale, encode(sale))
    assert same is sale
    assert count == 0


def test_in_original_bytes_the_digits_are_overwritten_in_place() -> None:
    data, count = cut_bytes(f"<pan>{VISA}</pan>;{AMEX}=2512101?".encode())
    assert data == b"<pan>411111******1111</pan>" + b"*" * 25
    assert count == 2


@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_the_luhn_digit_decides(digits: str) -> None:
    valid = [d for d in "0123456789" if is_card_number("4" + digits[:14].ljust(14, "0") + d)]
    assert len(valid) == 1


@given(st.text(alphabet="4152 -aé0", max_size=60), st.sampled_from([VISA, AMEX, MASTER]))
def test_no_surrounding_text_hides_a_number_from_the_cheap_look(text: str, number: str) -> None:
    note = f"{text}x{number}x{text}"
    sale, count = cut(note=note)
    assert count >= 1
    assert number not in (sale.note or "")


def test_two_cards_as_keys_stay_two_entries() -> None:
    cards = [number for number in (f"411111{middle:06}1111" for middle in range(200)) if is_card_number(number)][:3]
    sale, count = cut(ext={"by": {card: index for index, card in enumerate(cards)}})
    assert count == 3
    assert sale.ext == {"by": {"411111******1111": 0, "411111******1111*": 1, "411111******1111**": 2}}


def test_secrets_in_json_as_text_go_with_the_rest_of_it_kept() -> None:
    sale, count = cut(ext={"deep": '{"cvv": "123", "brand": "x"}', "xml": "<cvv>99</cvv>"})
    assert (sale.ext, count) == ({"deep": '{"cvv": "***", "brand": "x"}', "xml": "<cvv>**</cvv>"}, 2)


def test_bit_fields_that_look_like_cards_are_none() -> None:
    bits = 4919338167972134933
    assert is_card_number(str(bits))
    sale, count = cut(ext={"ftSignatureType": bits, "n": bits})
    assert (sale.ext, count) == ({"ftSignatureType": bits, "n": "491933*********4933"}, 1)


@given(
    st.lists(
        st.sampled_from([VISA, AMEX, "4222222222222", "4", "3 7", "5 5 5 5", "\u0664\u0661", "6304"])
        | st.text("0123456789", min_size=1, max_size=21),
        max_size=30,
    ),
    st.lists(st.sampled_from(["", " ", "-", " . ", "    ", "x"]), min_size=1, max_size=5),
)
def test_exactly_the_cards_among_all_stretches_of_whole_groups_are_cut(groups: list[str], gaps: list[str]) -> None:
    text = "".join(f"{group}{gaps[place % len(gaps)]}" for place, group in enumerate(groups))
    cut, count = cut_numbers(text)
    stretches = [places for run in re.finditer(RUN, text) for places in cards_in(run)]
    starred = {place for places in stretches for place in places[6:-4]}
    assert count == len(stretches)
    assert cut == "".join("*" if place in starred else character for place, character in enumerate(text))


def cards_in(run: re.Match[str]) -> list[list[int]]:
    """The places of each card's digits in a run, by trying every stretch of its groups."""
    groups = [range(found.start() + run.start(), found.end() + run.start()) for found in re.finditer(r"\d+", run[0])]
    found = []
    for first in range(len(groups)):
        for last in range(first, min(first + 19, len(groups))):
            places = [place for group in groups[first : last + 1] for place in group]
            if is_card_number("".join(str(int(run.string[place])) for place in places)):
                found.append(places)
    return found


@given(st.from_regex(cards._ISSUER, fullmatch=True))
def test_every_number_of_an_issuer_begins_with_two_digits_that_are_looked_for(number: str) -> None:
    assert number[:2] in cards._BEGINNINGS
    assert number[0] in cards._FIRST_DIGITS


def test_two_digits_that_are_looked_for_begin_some_issuers_number() -> None:
    for beginning in cards._BEGINNINGS:
        tails = (f"{tail:02}" for tail in range(100))
        ways = (f"{beginning}{tail}".ljust(size, "0") for tail in tails for size in range(13, 20))
        assert any(cards._ISSUER.fullmatch(way) for way in ways), beginning
