"""A member's figures as rows of the table, and back."""

from __future__ import annotations

import pytest

from tillstream_server.ledger.bodies import LedgerDamaged
from tillstream_server.pipeline.figures import Figures
from tillstream_server.pipeline.members import Member, read


def bought(*categories: tuple[str, int, int], at_ms: int = 5, amount: int = 100) -> Figures:
    return Figures(
        hour_ms=0, currency="EUR", amount=amount, lines=1, visit=True, at_ms=at_ms, categories=list(categories)
    )


def test_a_row_is_the_same_in_whatever_order_a_member_bought() -> None:
    rows = set()
    for order in ((0, 1, 2), (2, 1, 0)):
        member = Member()
        for index in order:
            member.apply(
                (bought(("TOYS", 1, 5)), bought(("FOOD", 2, 7)), bought(("FOOD", 1, 1), ('É"', 1, 2)))[index], 1
            )
        rows.add(member.purses["EUR"].row())
    assert rows == {(3, 3, 300, 5, '{"FOOD":[3,8],"TOYS":[1,5],"É\\"":[1,2]}')}


def test_a_category_of_which_nothing_is_left_is_gone() -> None:
    member = Member()
    member.apply(bought(("FOOD", 1, 100), ("TOYS", 1, 7)), 1)
    member.apply(bought(("FOOD", 2, 300), at_ms=9), 1)
    assert member.facts("EUR", 10, None)["member.categories"] == ("FOOD", "TOYS")
    member.apply(bought(("FOOD", 1, 100), ("TOYS", 1, 7)), -1)
    assert member.facts("EUR", 10, None)["member.categories"] == ("FOOD",)
    assert member.purses["EUR"].row() == (1, 1, 100, 9, '{"FOOD":[2,300]}')


def test_what_a_row_holds_is_read_again() -> None:
    member = Member()
    member.apply(bought(("FOOD", 2, 300)), 1)
    row = member.purses["EUR"].row()
    members = read([(b"m", "EUR", *row), (b"n", "EUR", *row)], [(b"n", "EUR", 3), (b"n", "EUR", 4)], {b"n"})
    assert members[b"m"].purses == member.purses
    assert members[b"n"].purses["EUR"].visits_at == [3, 4]


def test_categories_that_do_not_decode_are_said_to_be_damaged() -> None:
    with pytest.raises(LedgerDamaged, match="categories"):
        read([(b"m", "EUR", 1, 1, 100, 5, '{"FOOD":')], [], set())
