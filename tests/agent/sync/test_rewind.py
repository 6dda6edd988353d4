"""After a restore the server says what it lacks; exactly that, of what the till had claimed, is queued again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.agents import Telling
from support.tills import TestTill
from tillstream_agent.journal import Journal, JournalFull, Name
from tillstream_agent.sync import rewind
from tillstream_agent.sync.rewind import Rewind, overlap, told
from tillstream_protocol.codec import encode
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import MAX_EPOCH_RANGES, MAX_EPOCHS, EpochRanges, Present, Range, decode_to_server
from tillstream_protocol.ranges import collect, count, covers, merge

LIMITS = replace(DEFAULT, sync_interval=0.0, chunk=4096, reserve=0)
E1, E2, E3 = (bytes([n]) * 16 for n in (1, 2, 3))

seqs = st.sets(st.integers(0, 60))
holdings = st.dictionaries(st.sampled_from([E1, E2, E3]), seqs)


def ranges_of(held: Mapping[bytes, set[int]]) -> tuple[EpochRanges, ...]:
    return tuple(EpochRanges(epoch, collect(sorted(found))) for epoch, found in held.items() if found)


def names_in(parts: Sequence[EpochRanges]) -> set[tuple[bytes, int]]:
    return {(one.epoch, seq) for one in parts for part in one.ranges for seq in range(part.first, part.last + 1)}


@given(holdings, holdings)
def test_only_what_was_claimed_can_be_missing(claimed: dict[bytes, set[int]], missing: dict[bytes, set[int]]) -> None:
    common = overlap(ranges_of(claimed), ranges_of(missing))
    assert names_in(common) == names_in(ranges_of(claimed)) & names_in(ranges_of(missing))
    assert all(one.ranges == collect(sorted(seq for _, seq in names_in([one]))) for one in common)


def test_nothing_is_missing_twice_however_often_it_is_named() -> None:
    claimed = (EpochRanges(E1, (Range(0, 9),)),)
    said = (EpochRanges(E1, (Range(7, 20), Range(3, 8), Range(9, 2))), EpochRanges(E1, (Range(3, 3),)))
    assert overlap(claimed, said) == (EpochRanges(E1, (Range(3, 9),)),)


@dataclass
class Believed:
    """What a till believes acknowledged, in any amount."""

    held: dict[bytes, tuple[Range, ...]]
    former: set[bytes] = field(default_factory=set)

    def acked(self) -> Mapping[bytes, tuple[Range, ...]]:
        return self.held

    def former_epochs(self) -> Collection[bytes]:
        return self.former

    def unacknowledge(self, epoch: bytes, ranges: Sequence[Range]) -> int:
        raise AssertionError

    def roll(self) -> None:
        raise AssertionError


def claim(believed: Believed) -> tuple[EpochRanges, ...]:
    return Rewind(believed, Telling().events, lambda: None).claim()


def present(claimed: tuple[EpochRanges, ...]) -> Present:
    return Present(bytes(16), bytes(8), bytes(64), 1, "1.0", 2**53, 2**53, told(claimed))


def test_the_newest_epochs_are_claimed_newest_first() -> None:
    epochs = [n.to_bytes(16, "big") for n in range(MAX_EPOCHS + 5)]
    claimed = claim(Believed({epoch: (Range(0, 1),) for epoch in epochs}))
    assert [one.epoch for one in claimed] == epochs[:4:-1]
    assert told(claimed) == claimed


def apart(number: int, first: int = 2**40) -> tuple[Range, ...]:
    return tuple(Range(first + n * 2, first + n * 2) for n in range(number))


@pytest.mark.parametrize(("epochs", "ranges", "left"), [(1, 5_005, 5_000), (1_000, 600, 9), (MAX_EPOCHS, 1, 1)])
def test_more_ranges_than_a_message_takes_are_told_as_fewer_that_hold_them_all(
    epochs: int, ranges: int, left: int
) -> None:
    claimed = tuple(EpochRanges(n.to_bytes(16, "big"), apart(ranges)) for n in range(epochs))
    said = present(claimed)
    assert len(encode(said)) <= DEFAULT.push_message
    assert decode_to_server(encode(said)) == said
    assert [one.epoch for one in said.acked] == [one.epoch for one in claimed]
    assert {len(one.ranges) for one in said.acked} == {left}
    assert all(covers(said.acked[0].ranges, one) for one in claimed[0].ranges)


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(1, 12))
def test_the_widest_gaps_are_kept(seqs: set[int], most: int) -> None:
    exact = collect(sorted(seqs))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(rewind, "MAX_EPOCH_RANGES", most)
        ((_, said),) = ((one.epoch, one.ranges) for one in told([EpochRanges(E1, exact)]))
    assert len(said) == min(most, len(exact))
    assert set(seqs) <= {seq for _, seq in names_in([EpochRanges(E1, said)])}
    assert said == merge(said)
    kept = sorted(later.first - former.last for former, later in pairwise(said))
    there = sorted(later.first - former.last for former, later in pairwise(exact))
    assert kept == there[len(there) - len(kept) :]


@pytest.mark.parametrize(("room", "left"), [(176, 8), (175, 4), (100, 4), (99, 2), (62, 2), (61, 1), (43, 1), (0, 1)])
def test_an_epoch_takes_24_bytes_and_a_range_19(monkeypatch: pytest.MonkeyPatch, room: int, left: int) -> None:
    monkeypatch.setattr(rewind, "ROOM", room)
    monkeypatch.setattr(rewind, "MAX_EPOCH_RANGES", 8)
    (said,) = told([EpochRanges(E1, apart(8))])
    assert len(said.ranges) == left


def test_what_the_server_lacks_of_the_gaps_between_is_not_touched() -> None:
    """A till that tells more than it believes takes back no more than it believes."""
    believed = (EpochRanges(E1, apart(MAX_EPOCH_RANGES + 1)),)
    (said,) = told(believed)
    assert count(said.ranges) > count(believed[0].ranges)
    assert overlap(believed, (said,)) == believed


def test_records_of_a_former_till_are_not_claimed_by_this_one() -> None:
    believed = Believed({E1: (Range(0, 5),), E2: (Range(0, 1),), E3: ()}, {E1})
    assert claim(believed) == (EpochRanges(E2, (Range(0, 1),)),)


class Stand:
    """A till whose server has acknowledged records, and forgets some of them."""

    def __init__(self, till: TestTill, journal: Journal) -> None:
        self.till = till
        self.journal = journal
        self.telling = Telling()
        self.changes = 0
        self.rewind = Rewind(journal, self.telling.events, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def sends(self, count: int) -> bytes:
        """Capture so many records and have them acknowledged; their epoch."""
        first = self.journal.position
        for n in range(count):
            self.journal.append(b"%d" % (first.seq + n), kind=1)
        await self.journal.synced(Name(first.epoch, first.seq + count - 1))
        self.till.drain(self.journal)
        return first.epoch

    def queued(self) -> list[bytes]:
        return sorted(self.till.drain(self.journal), key=int)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    till = TestTill(tmp_path, LIMITS)
    stand = Stand(till, await till.start())
    yield stand
    await stand.journal.close()


async def test_what_the_server_lost_is_sent_again_and_nothing_else(stand: Stand) -> None:
    epoch = await stand.sends(10)
    assert stand.rewind.claim() == (EpochRanges(epoch, (Range(0, 9),)),)
    stand.rewind.back([EpochRanges(epoch, (Range(2, 3), Range(7, 7)))])
    assert stand.journal.acked()[epoch] == (Range(0, 1), Range(4, 6), Range(8, 9))
    assert stand.queued() == [b"2", b"3", b"7"]
    assert stand.telling.counted("rewound_records") == 3
    assert stand.telling.counted("beyond_retention_records") == 0
    assert stand.changes == 1


async def test_records_captured_meanwhile_go_ahead_of_those_that_are_sent_again(stand: Stand) -> None:
    epoch = await stand.sends(5)
    stand.rewind.back([EpochRanges(epoch, (Range(0, 4),))])
    stand.journal.append(b"5", kind=1)
    await stand.journal.synced(Name(epoch, 5))
    live = stand.journal.next_slice("live", 1 << 20)
    assert live is not None
    assert (live.first, live.last) == (5, 5)
    assert stand.queued() == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_what_neither_side_has_any_more_is_told_of_and_not_claimed_again(stand: Stand) -> None:
    epoch = await stand.sends(100)
    stand.journal.roll()
    await stand.sends(1)
    stand.till.clock.turn(DEFAULT.retain_age + 1)
    stand.journal.discard(stand.journal.sweep())
    stand.rewind.back([EpochRanges(epoch, (Range(0, 100),))])
    gone = int(stand.telling.counted("beyond_retention_records"))
    assert 0 < gone < 101
    assert stand.telling.counted("rewound_records") == 101 - gone
    assert len(stand.queued()) == 101 - gone
    assert names_in(stand.rewind.claim()) == {(epoch, seq) for seq in range(gone, 101)}
    assert "beyond_retention" in stand.telling.said()


async def test_nothing_missing_changes_nothing(stand: Stand) -> None:
    await stand.sends(3)
    stand.rewind.back([])
    assert stand.queued() == []
    assert stand.changes == 0


async def test_without_room_for_a_fresh_chunk_records_are_queued_again_all_the_same(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise JournalFull("the disk is full")

    epoch = await stand.sends(3)
    monkeypatch.setattr(stand.journal, "roll", full)
    stand.rewind.back([EpochRanges(epoch, (Range(0, 2),))])
    assert "housekeeping_failed" in stand.telling.said()
    assert stand.queued() == [b"0", b"1", b"2"]
