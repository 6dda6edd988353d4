"""When a refused record is tried again, to the second, and which refusals count."""

from __future__ import annotations

from support.tills import TurnedClock
from tillstream_agent.letters import Key, Letters
from tillstream_agent.sync.refusals import DOUBT, RETRY_S, UNPROVEN_S, Refusals

EPOCH = b"e" * 16


class Book:
    """Refusals with a chance that a test sets."""

    def __init__(self, tries: int = 3) -> None:
        self.chance = 0.5
        self.letters = Letters(TurnedClock())
        self.refusals = self.reopened(tries)

    def reopened(self, tries: int = 3) -> Refusals:
        return Refusals(self.letters, tries, lambda: self.chance)

    def refuse(self, seq: int, now: float = 0.0, *, casts_doubt: bool = False, kind: int = 2) -> float:
        """A record is refused: when it is to be tried again, or infinity if it is not."""
        key = (EPOCH, seq)
        self.refusals.refused(key, kind, "code", "why", now, casts_doubt=casts_doubt)
        due = self.refusals.next_due()
        return due[1] if due is not None and due[0] == key else float("inf")


def key(seq: int) -> Key:
    return EPOCH, seq


def test_the_waits_are_spread_by_half_to_both_sides() -> None:
    for chance, factor in ((0.0, 0.5), (0.25, 0.75), (0.75, 1.25)):
        book = Book()
        book.chance = chance
        assert book.refuse(1, 100.0) == 100.0 + RETRY_S[0] * factor


def test_a_refusal_counts_only_if_something_was_taken_since_the_last_one_that_did() -> None:
    book = Book()
    assert book.refuse(1) == RETRY_S[0]
    assert book.refuse(1, 1000.0) == 1000.0 + UNPROVEN_S
    assert book.letters.here[key(1)].tries == 1
    book.refusals.acknowledged(2000.0)
    assert book.refuse(1, 2000.0) == 2000.0 + RETRY_S[1]
    assert book.refuse(1, 3000.0) == 3000.0 + UNPROVEN_S, "what was taken before it counted is no proof"
    book.refusals.acknowledged(4000.0)
    assert book.refuse(1, 4000.0) == float("inf")
    assert (book.letters.here[key(1)].tries, book.letters.here[key(1)].kind) == (3, 2)


def test_a_record_that_begins_anew_counts_at_once() -> None:
    book = Book()
    book.refuse(1)
    book.refusals.forget([key(1)])
    book.letters.forget([key(1)])
    assert book.refusals.next_due() is None
    assert book.refuse(1, 10.0) == 10.0 + RETRY_S[0]
    assert book.letters.here[key(1)].tries == 1


def test_a_record_that_cannot_be_read_is_put_off() -> None:
    book = Book()
    book.refuse(1)
    book.refusals.postpone(key(1), 100.0)
    assert book.refusals.next_due() == (key(1), 100.0 + UNPROVEN_S)


def test_after_a_restart_what_is_not_dead_is_tried_at_once_and_what_is_dead_is_not() -> None:
    book = Book(tries=1)
    book.refuse(1)
    assert book.reopened(tries=1).next_due() is None
    assert book.reopened(tries=2).next_due() == (key(1), 0.0)


def test_doubt_takes_different_records_and_ends_with_the_first_that_is_taken() -> None:
    book = Book()
    for _ in range(DOUBT):
        book.refuse(1, casts_doubt=True)
    assert not book.refusals.in_doubt
    for seq in range(2, DOUBT + 1):
        assert not book.refusals.in_doubt
        book.refuse(seq, casts_doubt=True)
    doubted = [book.refusals.in_doubt]
    book.refusals.acknowledged(7.0)
    assert [*doubted, book.refusals.in_doubt] == [True, False]
    assert book.refusals.next_due() == (key(1), 7.0), "what was set aside meanwhile is tried again at once"


def test_what_is_forgotten_casts_doubt_no_longer() -> None:
    book = Book()
    for seq in range(DOUBT):
        book.refuse(seq, casts_doubt=True)
    book.refusals.forget([key(0)])
    assert not book.refusals.in_doubt


def test_without_doubt_an_acknowledgement_hurries_nothing() -> None:
    book = Book()
    due = book.refuse(1, casts_doubt=True)
    book.refusals.acknowledged(7.0)
    assert book.refusals.next_due() == (key(1), due)
