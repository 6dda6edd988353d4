"""Where a file without a header belongs, and which place a new epoch follows, told by the files round it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from support.stories import chunk_header
from support.tills import Diary
from tillstream_agent.journal import FolderDisk
from tillstream_agent.journal.chunks import Chunk
from tillstream_agent.journal.damage import Damage, Evidence, Piece, find_losses
from tillstream_agent.journal.headless import Headless, place_headless
from tillstream_agent.journal.recovery import Found, _Survey
from tillstream_protocol.framing import NO_EPOCH
from tillstream_protocol.messages import Range

OURS, OTHERS = b"t" * 16, b"u" * 16
A, B, X, Y = (bytes([65 + n]) * 16 for n in range(4))


def chunk(
    number: int, epoch: bytes, first: int, end: int, parent: bytes = NO_EPOCH, at: int = 0, till: bytes = OURS
) -> Chunk:
    """A chunk that holds the seqs from `first` to before `end`."""
    header = chunk_header(number, epoch=epoch, first_seq=first, till=till, parent=parent, parent_position=at)
    return Chunk(number, header, b"", present=(Range(first, end - 1),) if end > first else (), closed=True)


def headless(*claims: tuple[bytes, int], number: int = 5, present: tuple[Range, ...] = ()) -> Headless:
    return Headless(f"{number:010d}.chunk", number, claims, present, empty=False)


@pytest.mark.parametrize("present", [(), (Range(5, 6),), (Range(7, 9),)])
def test_what_both_copies_say_is_believed_if_its_frames_allow_it(present: tuple[Range, ...]) -> None:
    placed = place_headless(headless((A, 5), (A, 5), present=present), [chunk(1, A, 0, 3)])
    assert (placed.epoch, placed.first) == (A, 5)


def test_a_first_seq_that_its_own_frames_contradict_is_not_believed() -> None:
    placed = place_headless(headless((A, 9), (A, 9), present=(Range(7, 8),)), [chunk(1, A, 0, 3)])
    assert (placed.epoch, placed.first) == (A, 3)


def test_one_copy_alone_is_not_believed_about_its_first_seq() -> None:
    assert place_headless(headless((A, 9)), [chunk(1, A, 0, 3)]).first == 3
    assert place_headless(headless((A, 9), (A, 8)), [chunk(1, A, 0, 3)]).first == 3


def test_two_copies_that_agree_on_the_epoch_outweigh_what_comes_after() -> None:
    assert place_headless(headless((X, 0), (X, 0)), [chunk(9, B, 4, 5)]).epoch == X


@pytest.mark.parametrize(("first", "epoch"), [(0, A), (1, B), (2, B)])
def test_without_a_claim_it_belongs_to_what_the_chunk_after_it_goes_on_with(first: int, epoch: bytes) -> None:
    assert place_headless(headless(), [chunk(9, B, first, first + 2, parent=A)]).epoch == epoch


def test_of_two_claims_the_one_that_is_known_counts_before_the_chunk_after_it() -> None:
    around = [chunk(1, A, 0, 3), chunk(9, B, 2, 4)]
    assert place_headless(headless((X, 3), (A, 3)), around).epoch == A
    assert place_headless(headless((X, 3), (Y, 3)), around).epoch == B


@pytest.mark.parametrize(("end", "claimed", "epoch"), [(3, 3, A), (3, 9, X), (1, 1, A), (0, 0, X)])
def test_of_two_unknown_claims_a_first_seq_that_fits_the_chunk_before_tells(
    end: int, claimed: int, epoch: bytes
) -> None:
    assert place_headless(headless((X, claimed), (Y, 4)), [chunk(1, A, 0, end)]).epoch == epoch


def test_with_no_claim_and_nothing_behind_it_belongs_to_what_is_before() -> None:
    assert place_headless(headless(), [chunk(1, A, 0, 3)]).epoch == A
    assert place_headless(headless(), []).epoch == NO_EPOCH


def follows(
    folder: Path,
    chunks: list[Chunk],
    lost: Sequence[Piece] = (),
    acked: Mapping[bytes, Sequence[Range]] | None = None,
    till: bytes | None = OURS,
) -> tuple[bytes, int]:
    """The place that a new epoch of this till follows."""
    survey = _Survey(FolderDisk(folder), Diary(), Found(chunks=chunks), acked or {}, None)
    survey._follow(till, lost)
    return survey.found.parent, survey.found.parent_position


def lost(number: int, epoch: bytes, first: int, present: tuple[Range, ...] = ()) -> Piece:
    return Piece("", number, epoch, first, present, headless=True)


def test_a_new_epoch_follows_the_newest_of_its_own_till(tmp_path: Path) -> None:
    chunks = [chunk(1, A, 0, 3), chunk(2, B, 0, 2), chunk(3, X, 0, 9, till=OTHERS)]
    assert follows(tmp_path, chunks) == (B, 2)
    assert follows(tmp_path, chunks, till=None) == (X, 9)
    assert follows(tmp_path, []) == (NO_EPOCH, 0)


def test_it_follows_the_end_of_the_epoch_even_if_its_newest_file_ends_earlier(tmp_path: Path) -> None:
    assert follows(tmp_path, [chunk(1, A, 0, 6), chunk(2, A, 3, 5)]) == (A, 6)


def test_what_was_acknowledged_beyond_what_is_there_counts_too(tmp_path: Path) -> None:
    acked = {A: (Range(0, 1), Range(5, 9)), B: (Range(0, 99),)}
    assert follows(tmp_path, [chunk(1, A, 0, 3)], acked=acked) == (A, 10)


def test_a_headless_file_that_is_newer_is_followed_and_an_older_one_is_not(tmp_path: Path) -> None:
    chunks = [chunk(3, A, 0, 3)]
    assert follows(tmp_path, chunks, [lost(4, B, 0, (Range(0, 6),))]) == (B, 7)
    assert follows(tmp_path, chunks, [lost(2, B, 0, (Range(0, 6),))]) == (A, 3)
    assert follows(tmp_path, chunks, [lost(4, NO_EPOCH, 0)]) == (A, 3)


def test_with_nothing_but_a_headless_file_that_is_followed(tmp_path: Path) -> None:
    assert follows(tmp_path, [], [lost(1, B, 0)]) == (B, 0)
    assert follows(tmp_path, [], [lost(1, B, 0), lost(2, A, 4)]) == (A, 4)


def test_the_latest_position_that_a_later_epoch_names_is_the_end_of_the_one_before(tmp_path: Path) -> None:
    chunks = [chunk(1, A, 0, 1), chunk(2, B, 0, 1, parent=A, at=4), chunk(3, X, 0, 1, parent=A, at=2)]
    survey = _Survey(FolderDisk(tmp_path), Diary(), Found(chunks=chunks), {}, None)
    survey._name_losses([Piece(c.name, c.number, c.epoch, c.header.first_seq, c.present) for c in chunks])
    assert survey.found.damage == [Damage("0000000001.chunk", 1, A, 1, 3, "missing_chunk")]


@pytest.mark.parametrize(("silent", "named"), [(1, True), (3, True), (5, False)])
def test_a_file_that_says_nothing_explains_only_what_is_missing_round_it(silent: int, *, named: bool) -> None:
    pieces = [
        Piece("0000000002.chunk", 2, A, 0, (Range(0, 1),)),
        Piece("0000000004.chunk", 4, A, 2, (Range(2, 2),)),
        Piece("0000000007.chunk", 7, B, 5, (Range(5, 6),)),
    ]
    found = find_losses(Evidence(pieces, {}, {}, [silent], {}))
    assert found == ([Damage("0000000007.chunk", 7, B, 0, 4, "missing_chunk")] if named else [])


def test_nothing_is_missed_before_a_file_that_may_belong_elsewhere() -> None:
    lost = Piece("0000000004.chunk", 4, A, 3, (Range(3, 4),), headless=True)
    assert find_losses(Evidence([lost], {}, {}, [], {})) == [
        Damage("0000000004.chunk", 4, A, 3, 4, "damaged_header"),
    ]


@pytest.mark.parametrize(("silent", "named"), [((), True), ((500,), False)])
def test_what_is_missing_after_the_last_file_may_be_in_any_later_one(silent: tuple[int, ...], *, named: bool) -> None:
    last = Piece("0000000004.chunk", 4, A, 0, (Range(0, 2),))
    found = find_losses(Evidence([last], {A: 5}, {}, silent, {}))
    assert found == ([Damage("0000000004.chunk", 4, A, 3, 4, "missing_chunk")] if named else [])


def test_a_tail_before_a_file_that_goes_on_where_it_began_held_nothing() -> None:
    torn = Piece("0000000004.chunk", 4, A, 0, (Range(0, 2),), tail=True)
    following = Piece("0000000005.chunk", 5, A, 3, ())
    assert find_losses(Evidence([torn, following], {}, {}, [], {})) == []


def test_a_tail_holds_no_more_than_the_next_epoch_leaves_room_for() -> None:
    torn = Piece("0000000004.chunk", 4, A, 0, (Range(0, 2),), tail=True)
    assert find_losses(Evidence([torn], {A: 5}, {}, [], {})) == [
        Damage("0000000004.chunk", 4, A, 3, 4, "damaged_frame"),
    ]


def test_a_last_file_without_a_header_or_a_frame_may_have_held_any_number() -> None:
    lost = Piece("0000000004.chunk", 4, A, 3, (), headless=True)
    assert find_losses(Evidence([lost], {}, {}, [], {})) == [
        Damage("0000000004.chunk", 4, A, 3, None, "damaged_header"),
    ]


@pytest.mark.parametrize("last", [None, 5])
def test_a_tail_that_nothing_follows_held_what_it_claims_or_any_number(last: int | None) -> None:
    torn = Piece("0000000004.chunk", 4, A, 0, (Range(0, 2),), tail=True, tail_last=last)
    assert find_losses(Evidence([torn], {}, {}, [], {})) == [
        Damage("0000000004.chunk", 4, A, 3, last, "torn_tail"),
    ]


def test_what_an_empty_file_should_have_held_is_named_with_it_and_in_its_epoch() -> None:
    pieces = [
        Piece("0000000004.chunk", 4, A, 0, (Range(0, 2),)),
        Piece("0000000006.chunk", 6, A, 5, (Range(5, 5),)),
    ]
    assert find_losses(Evidence(pieces, {}, {}, [], {5: "0000000005.chunk"})) == [
        Damage("0000000005.chunk", 5, A, 3, 4, "damaged_header"),
    ]
