"""A screen tells the kind of an identifier and its last characters, and never anything of a card's number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_agent.display.member import Mode, Strip, known, tail_of
from tillstream_protocol.transaction import Identifier

SECRET = b"s" * 32
LOYALTY = Identifier("loyalty", "9840007160042")
PHONE = Identifier("phone", "+49 151 12345678")


@pytest.mark.parametrize(
    ("identifier", "tail"),
    [
        (LOYALTY, "0042"),
        (PHONE, "5678"),
        (Identifier("loyalty", "4711"), "11"),
        (Identifier("loyalty", "12-34-56-78"), "78"),
        (Identifier("loyalty", "123456789"), "789"),
        (Identifier("loyalty", "123"), ""),
        (Identifier("email", "ada.canary@example.org"), "ary"),
        (Identifier("email", "a@example.org"), ""),
        (Identifier("other", "----"), ""),
    ],
)
def test_the_tail_is_two_to_four_characters_and_little_of_the_whole(identifier: Identifier, tail: str) -> None:
    assert tail_of(identifier) == tail


@given(st.text(min_size=1, max_size=256))
def test_at_most_four_characters_and_at_most_half_of_it_are_told(value: str) -> None:
    tail = tail_of(Identifier("loyalty", value))
    assert len(tail) <= 4
    assert len(tail) * 2 <= len(value)


@pytest.mark.parametrize(
    ("mode", "strip"), [("tail", Strip("loyalty", "0042")), ("kind", Strip("loyalty", "")), ("none", None)]
)
def test_the_setting_says_how_much_is_told(mode: Mode, strip: Strip | None) -> None:
    somebody = known([LOYALTY], SECRET, mode)
    assert somebody is not None
    assert somebody.strip == strip


@pytest.mark.parametrize(
    "identifier",
    [
        Identifier("card", "tok_9f8e7d6c5b"),
        Identifier("loyalty", "4111111111111111"),
        Identifier("other", "4111 1111 1111 1111"),
    ],
)
def test_of_what_may_be_a_card_number_no_digit_is_told(identifier: Identifier) -> None:
    somebody = known([identifier], SECRET, "tail")
    assert somebody is not None
    assert somebody.strip == Strip(identifier.scheme, "")


def test_the_key_means_nothing_elsewhere() -> None:
    somebody, again, elsewhere = (known([PHONE], secret, "tail") for secret in (SECRET, SECRET, b"t" * 32))
    assert somebody is not None
    assert again is not None
    assert elsewhere is not None
    assert somebody.key == again.key != elsewhere.key
    assert "5678" not in somebody.key


def test_one_identifier_in_common_is_the_same_person() -> None:
    by_phone, by_both, by_card = (known(ids, SECRET, "tail") for ids in ([PHONE], [LOYALTY, PHONE], [LOYALTY]))
    assert by_phone is not None
    assert by_both is not None
    assert by_card is not None
    assert by_phone.is_same(by_both)
    assert not by_phone.is_same(by_card)
    assert by_phone.joined(by_both).is_same(by_card)
    assert by_phone.joined(by_both).key == by_phone.key


def test_nobody_is_nobody() -> None:
    assert known([], SECRET, "tail") is None
