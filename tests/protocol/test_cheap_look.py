"""The cheap look for card numbers never passes over what the careful walk would cut."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tillstream_protocol.cards import OTHER_DIGITS, may_hold_card
from tillstream_protocol.codec import encode
from tillstream_protocol.redaction import _Cutter, cut_bytes, cut_cards
from tillstream_protocol.transaction import Customer, Moment, Source, Transaction

VISA = "4111111111111111"
SALE = Transaction(Source("pos"), "sale", "1", "2026-01-01", Moment(1_700_000_000_000), currency="EUR")
NUMBERS = ["4111111111111111", "378282246310005", "5555555555554444", "4222222222222", "6304000000000000000"]
THAI = str.maketrans("0123456789", "๐๑๒๓๔๕๖๗๘๙")
WIDE = str.maketrans("0123456789", "".join(chr(0xFF10 + digit) for digit in range(10)))
ARABIC = str.maketrans("0123456789", "".join(chr(0x0660 + digit) for digit in range(10)))


def walked(sale: Transaction) -> int:
    """How much the careful walk cuts."""
    cutter = _Cutter()
    cutter.struct(sale)
    return cutter.count


scripts = st.sampled_from([{}, THAI, WIDE, ARABIC])
gaps = st.sampled_from(["", " ", "-", "\u00a0", "  ", "/", "\u2009", "a"])
tracks = st.sampled_from(
    ["999999999999D2512", f";{VISA}=25121010000?", "%B411111111111^AB^", f"%B{VISA}^DOE/J^2512?", "411111111111=1234"]
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A card number or a track in whole or mixed scripts, with gaps, between other things."""
    number = draw(st.sampled_from(NUMBERS) | tracks)
    at = draw(st.integers(0, len(number)))
    written = number[:at].translate(draw(scripts)) + draw(gaps) + number[at:].translate(draw(scripts))
    around = st.sampled_from(["", "1234567890123 ", "Ωρ", "x", "7", " 12/27", "παντα", "é"])
    return draw(around) + written + draw(around)


numbers = st.sampled_from([int(n) for n in NUMBERS]).flatmap(lambda n: st.sampled_from([n, -n, float(n)]))
neighbours = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([207, 463, 975, -49]) | st.floats(allow_nan=False)
keys = st.sampled_from(["a", "π", "n", "Ωρ", "pin-block", "PIN_BLOCK", "pin\tblock", "cvv2", "Track 2 data", "CVC"])
values = st.one_of(texts(), numbers, neighbours, st.text(max_size=5), st.lists(numbers | neighbours, max_size=3))


@given(note=st.none() | texts(), ext=st.dictionaries(keys, values, max_size=4))
@example(None, {"n": 463, "pan": int(VISA)})
@example(None, {"π": int(VISA)})
@example(None, {"pan": -int(VISA)})
@example("1234567890123 4111 1111 1111 1111", {})
@example("999999999999D2512", {})
@example("%B411111111111^AB^", {})
def test_what_the_walk_would_cut_is_walked(note: str | None, ext: dict[str, Any]) -> None:
    sale = msgspec.structs.replace(SALE, note=note, ext=ext or None)
    assert cut_cards(sale, encode(sale))[1] == walked(sale)


@pytest.mark.parametrize(
    "ext",
    [
        {"n": 463, "pan": int(VISA)},
        {"x": 207, "pan": int(VISA)},
        {"π": int(VISA)},
        {"a": "Ωρ", "c": int(VISA)},
        {"pan": -int(VISA)},
        {"pan": float(VISA)},
        {"pin-block": "A1B2C3D4E5F60718"},
        {"pin\tblock": "A1B2C3D4E5F60718"},
        {"a": VISA.translate(THAI)},
        {"a": VISA[:1].translate(WIDE) + VISA[1:]},
        {"a": VISA[:8].translate(ARABIC) + VISA[8:]},
        {"a": "999999999999".translate(WIDE) + "=2512"},
        {"a": "999999999999D2512"},
        {"a": "%B411111111111^AB^"},
        {"a": "1234567890123, 4111111111111111"},
    ],
    ids=str,
)
def test_neither_neighbours_nor_signs_nor_scripts_get_a_number_past_it(ext: dict[str, Any]) -> None:
    sale = msgspec.structs.replace(SALE, ext=ext)
    cut, count = cut_cards(sale, encode(sale))
    assert count == 1
    assert cut != sale


def test_a_secret_among_personal_data_is_dropped() -> None:
    sale = msgspec.structs.replace(SALE, customer=Customer(personal={"PIN-BLOCK": "A1B2C3D4E5F60718", "city": "Oslo"}))
    cut, _ = cut_cards(sale, encode(sale))
    assert cut.customer is not None
    assert cut.customer.personal == {"city": "Oslo"}


@pytest.mark.parametrize("held", [1234567890123, 12.5, float("inf"), -5, 10**17 + 1])
def test_other_numbers_stay_what_they_were(held: float) -> None:
    sale = msgspec.structs.replace(SALE, ext={"n": held})
    assert cut_cards(sale, encode(sale)) == (sale, 0)


def test_every_digit_of_every_script_is_known() -> None:
    known = [chr(point) for point in range(0x80, sys.maxunicode + 1) if unicodedata.category(chr(point)) == "Nd"]
    assert {digit.encode(): b"%d" % unicodedata.digit(digit) for digit in known}.items() <= OTHER_DIGITS.items()


def test_a_message_cut_off_within_a_number_holds_none() -> None:
    assert not may_hold_card(b"\x81\xa1n\xcf\x00\x00")
    assert not may_hold_card(b"\xd9")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("4111\u00a01111\u00a01111\u00a01111", "4111\u00a011**\u00a0****\u00a01111"),
        (
            f"<pan>{VISA.translate(WIDE)}</pan>",
            "<pan>" + VISA[:6].translate(WIDE) + "*" * 18 + VISA[-4:].translate(WIDE) + "</pan>",
        ),
        ("é 4111111111111111", "é 411111******1111"),
    ],
)
def test_original_bytes_are_read_as_utf_8_and_keep_their_places(written: str, kept: str) -> None:
    data, count = cut_bytes(written.encode())
    assert (data.decode(), count) == (kept, 1)
    assert len(data) == len(written.encode())


def test_bytes_that_are_no_utf_8_hide_nothing_among_original_ones() -> None:
    assert cut_bytes(b"\xe9 4111111111111111") == (b"\xe9 411111******1111", 1)
    spaced = "4111\u00a01111\u00a01111\u00a01111".encode()
    assert cut_bytes(b"\xe9" + spaced) == (
        b"\xe9" + spaced.replace(b"1111", b"11**", 1).replace(b"1111", b"****", 1),
        1,
    )


def test_a_name_on_a_track_in_another_encoding_goes_with_it() -> None:
    track = b"%B4111111111111111^DO\xc9/JOS\xe9^2512101?"
    assert cut_bytes(b"\xe9 " + track + b" kept") == (b"\xe9 " + b"*" * len(track) + b" kept", 1)


@pytest.mark.parametrize("text", ["4" * 60_000, "4 " * 30_000, "42 " * 20_000, "000000000000a" * 5_000])
def test_a_body_full_of_digits_is_looked_through(text: str) -> None:
    sale = msgspec.structs.replace(SALE, ext={"a": text, "n": [1e300] * 1_000})
    assert cut_cards(sale, encode(sale))[1] == walked(sale)
