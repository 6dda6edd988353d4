"""Records that the server refuses, on a real journal: they hold up nothing, and no refusal by mistake costs one."""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.agents import Telling
from support.disks import TroubledDisk
from support.tills import TestTill
from tillstream_agent import letters as letters_module
from tillstream_agent.journal import Journal, Slice
from tillstream_agent.letters import Letter, Letters
from tillstream_agent.sync.answers import Failure, Outcome
from tillstream_agent.sync.flow import FORMER_S, Rest, Send, UploadFlow
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.refusals import DOUBT, RETRY_S, UNPROVEN_S
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import BatchReply, DeadLetter, Pace, Range

LIMITS = replace(DEFAULT, sync_interval=0.0, batch=64 * 1024)
PACE = Pace(64 * 1024, 0)
HALF = 0.5
Judge = Callable[[Slice], Failure | None]

BROKEN = Failure("refused", "invalid_input", "the proxy is broken")


def refusing(*seqs: int, outcome: Outcome = "refused", code: str = "invalid_input") -> Judge:
    """A server that takes everything but these."""

    def judge(sent: Slice) -> Failure | None:
        bad = any(sent.first <= seq <= sent.last for seq in seqs)
        return Failure(outcome, code, "it cannot be taken") if bad else None

    return judge


def willing(_sent: Slice) -> Failure | None:
    return None


def broken(_sent: Slice) -> Failure | None:
    return BROKEN


class Line:
    """A till, its flow, and a server that a test gives its judgement."""

    def __init__(self, folder: Path) -> None:
        self.telling = Telling()
        self.disk = TroubledDisk(folder)
        self.till = TestTill(folder, LIMITS, self.disk)
        self.now = 0.0
        self.sent: list[Slice] = []
        self.sent_at: list[float] = []
        self.letters = Letters(self.till.clock)
        self.acked: dict[bytes, tuple[Range, ...]] = {}
        self.journal: Journal
        self.flow: UploadFlow

    async def starts(self) -> None:
        """A new run that remembers what the one before wrote down."""
        self.letters = Letters(self.till.clock, self.letters.here.values(), 0)
        self.journal = await self.till.start(self.acked, aside=self.letters.aside())
        ready = asyncio.Event()
        self.journal.set_wakeup(ready.set)
        await ready.wait()
        self.link = Link(self.till.clock, lambda _link: None)
        self.flow = UploadFlow(self.journal, self.telling.events, self.link, lambda: HALF, LIMITS, self.letters)

    async def ends(self) -> None:
        """The run is over, and what was acknowledged is written down."""
        self.acked = dict(self.journal.acked())
        await self.journal.close()

    async def captures(self, count: int = 1) -> None:
        for _ in range(count):
            name = self.journal.append(os.urandom(100), kind=1)
        await self.journal.synced(name)

    def meets(self, judge: Judge) -> Rest:
        """Send until there is nothing to send now."""
        while isinstance(step := self.flow.next(self.now), Send):
            self.sent.append(step.slice)
            self.sent_at.append(self.now)
            failure = judge(step.slice)
            if failure is not None:
                self.flow.failed(step.slice, failure, self.now)
            else:
                self.acks(step.slice)
        return step

    def meets_for(self, judge: Judge, seconds: float) -> None:
        """The same for a while, waiting as long as it says."""
        until = self.now + seconds
        while (rest := self.meets(judge).seconds) is not None and self.now + rest <= until:
            self.now += max(rest, 0.001)
        self.now = until

    def acks(self, sent: Slice, *dead: DeadLetter) -> None:
        held = (Range(sent.first, sent.last),)
        reply = BatchReply(sent.epoch, held, 0, dead, PACE, self.till.clock.now_ms())
        assert self.flow.acknowledged(sent, reply, self.now)

    def left(self) -> int:
        """How many records the server has not acknowledged."""
        queue = self.journal.queue()
        return queue.records + queue.aside

    def tries(self, seq: int) -> int:
        """How often a record was sent alone."""
        return sum((one.first, one.last) == (seq, seq) for one in self.sent)

    def kept(self) -> dict[int, Letter]:
        return {seq: letter for (_, seq), letter in self.letters.here.items()}


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    opened = Line(tmp_path / "journal")
    await opened.starts()
    yield opened
    await opened.journal.close()


async def test_one_record_of_a_thousand_that_is_refused_holds_up_nothing_behind_it(line: Line) -> None:
    await line.captures(1000)
    line.meets(refusing(500))
    queue = line.journal.queue()
    assert (queue.records, queue.aside, line.now) == (0, 1, 0.0)
    whole = next(one for one in line.sent if one.first <= 500 <= one.last)
    largest = max(one.last - one.first + 1 for one in line.sent)
    assert len(line.sent) < 1000 / (whole.last - whole.first + 1) + 2 * math.log2(largest) + 3
    assert line.link.trouble == ("poison",)


async def test_it_is_a_dead_letter_after_three_tries_alone_and_is_then_left_alone(line: Line) -> None:
    await line.captures(1000)
    for _ in range(40):
        line.meets_for(refusing(500), 60.0)
        await line.captures()
    letter = line.kept()[500]
    assert (letter.tries, letter.code, letter.reason) == (3, "invalid_input", "it cannot be taken")
    assert line.tries(500) == 3
    assert line.telling.counted("given_up_records") == 1
    line.meets(refusing(500))
    assert line.meets(refusing(500)) == Rest(None, for_news=True)


async def test_its_tries_lie_ever_further_apart(line: Line) -> None:
    await line.captures(3)
    assert line.meets(refusing(0)) == Rest(RETRY_S[0], for_news=True)
    await line.captures()
    line.meets(refusing(0))
    line.now += RETRY_S[0]
    assert line.meets(refusing(0)) == Rest(RETRY_S[1], for_news=True)


async def test_asked_for_it_is_sent_again_and_taken_when_the_server_can(line: Line) -> None:
    await line.captures(1000)
    poison = (3, 4, 500, 999)
    for _ in range(20):
        line.meets_for(refusing(*poison), 60.0)
        await line.captures()
    line.meets(refusing(*poison))
    assert sorted(line.kept()) == sorted(poison)
    assert line.flow.try_again(list(line.letters.here)) == 4
    assert (line.link.trouble, line.journal.queue().aside) == ((), 0)
    line.meets(willing)
    assert line.left() == 0
    assert line.letters.here == {}


async def test_asked_for_too_early_it_is_refused_again_and_its_tries_begin_anew(line: Line) -> None:
    await line.captures(10)
    line.meets(refusing(5))
    line.flow.try_again(list(line.letters.here))
    await line.captures()
    line.meets(refusing(5))
    assert line.kept()[5].tries == 1
    assert line.left() == 1


async def test_a_record_that_is_taken_at_a_later_try_is_no_longer_in_the_book(line: Line) -> None:
    await line.captures(10)
    line.meets(refusing(5))
    line.now += RETRY_S[0]
    line.meets(willing)
    assert line.kept() == {}
    assert line.left() == 0
    assert line.telling.counted("recovered_records") == 1
    assert line.link.trouble == ()


@settings(max_examples=25, deadline=None)
@given(poison=st.sets(st.integers(0, 79), max_size=12))
async def test_whichever_records_are_refused_all_others_arrive(
    poison: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    line = Line(tmp_path_factory.mktemp("line"))
    await line.starts()
    await line.captures(80)
    line.meets_for(refusing(*poison), 3600.0)
    assert set(line.kept()) == poison
    assert line.left() == len(poison)
    await line.journal.close()


async def test_a_server_that_refuses_everything_makes_no_dead_letters(line: Line) -> None:
    await line.captures(300)
    for _ in range(30):
        line.meets_for(broken, 600.0)
        await line.captures()
    assert {letter.tries for letter in line.letters.here.values()} == {1}
    assert list(line.link.trouble) == ["confused"]
    assert line.telling.counted("given_up_records") == 0
    line.meets_for(willing, 61.0)
    assert line.left() == 0
    assert line.letters.here == {}
    assert list(line.link.trouble) == []


async def test_a_server_that_refuses_everything_is_asked_ever_more_rarely(line: Line) -> None:
    await line.captures(50)
    line.meets_for(broken, 600.0)
    alone = [at for one, at in zip(line.sent, line.sent_at, strict=True) if one.first == one.last]
    waits = [after - before for before, after in itertools.pairwise(alone[DOUBT - 1 :])]
    assert waits[:8] == [0.25, 0.5, 1, 2, 4, 8, 16, 30]
    assert set(waits[8:]) <= {0.0, 30.0}
    assert len(line.sent) < 60


async def test_a_record_alone_with_a_broken_server_is_no_dead_letter_however_often_it_is_refused(line: Line) -> None:
    await line.captures(1)
    line.meets_for(broken, 20 * UNPROVEN_S)
    assert line.tries(0) > 10
    assert line.kept()[0].tries == 1
    line.meets_for(willing, 2 * UNPROVEN_S)
    assert line.left() == 0


async def test_several_refused_in_a_row_are_walked_past(line: Line) -> None:
    poison = range(12)
    await line.captures(100)
    line.meets_for(refusing(*poison), 600.0)
    assert sorted(line.kept()) == list(poison)
    assert line.left() == len(poison)
    assert line.link.trouble == ("poison",)


async def test_what_is_left_when_a_whole_chunk_is_refused_is_set_aside_without_halving(line: Line) -> None:
    await line.captures(50)
    line.meets(refusing(0, code="foreign_chunk"))
    assert len(line.sent) == 1
    assert line.journal.queue().aside == 50
    await line.captures()
    line.meets(willing)
    assert line.left() == 50
    line.now += RETRY_S[0]
    line.meets(willing)
    assert line.left() == 0


async def test_a_record_that_is_too_large_for_the_server_is_found_too(line: Line) -> None:
    await line.captures(50)
    line.meets(refusing(7, outcome="too_large", code="http_413"))
    assert line.kept()[7].code == "http_413"
    assert line.left() == 1


async def test_a_restart_remembers_what_is_set_aside_and_how_often_it_was_tried(line: Line) -> None:
    await line.captures(10)
    line.meets(refusing(5))
    await line.ends()
    await line.starts()
    assert line.link.trouble == ("poison",)
    assert line.journal.queue().aside == 1
    line.meets(refusing(5))
    assert line.kept()[5].tries == 1  # nothing was taken between, so this one did not count
    await line.captures()
    line.meets(willing)
    line.now += UNPROVEN_S
    line.meets(refusing(5))
    assert line.kept()[5].tries == 2


async def test_a_restart_without_its_book_tries_the_record_anew(line: Line) -> None:
    await line.captures(10)
    line.meets(refusing(5))
    await line.ends()
    line.letters = Letters(line.till.clock)
    await line.starts()
    assert line.journal.queue().aside == 0
    line.meets(willing)
    assert line.left() == 0


async def test_a_book_that_is_full_sets_nothing_more_aside(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_module, "MOST_HERE", 2)
    await line.captures(10)
    line.meets_for(broken, 600.0)
    assert line.journal.queue().aside == 2
    assert line.link.trouble == ("confused",)
    line.meets_for(willing, 400.0)
    assert line.left() == 0


async def test_a_refused_record_that_cannot_be_read_now_is_tried_later(line: Line) -> None:
    await line.captures(10)
    line.meets(refusing(5))
    line.now += RETRY_S[0]
    line.disk.trouble.read = errno.EIO
    assert line.meets(willing).seconds == 1.0
    line.disk.trouble.read = None
    line.now += 2 * UNPROVEN_S
    line.meets(willing)
    assert line.left() == 0


async def test_a_dead_letter_of_the_servers_is_remembered_with_its_kind(line: Line) -> None:
    await line.captures(3)
    step = line.flow.next(0.0)
    assert isinstance(step, Send)
    line.acks(step.slice, DeadLetter(1, "cannot_open", "altered"), DeadLetter(77, "what", "not sent"))
    (letter,) = line.letters.at_server.values()
    assert (letter.seq, letter.kind, letter.kept, letter.code) == (1, 1, "server", "cannot_open")
    assert line.left() == 0
    assert line.link.trouble == ()


async def test_a_repeat_that_is_still_a_dead_letter_is_counted_once_and_a_good_copy_settles_it(line: Line) -> None:
    await line.captures(3)
    step = line.flow.next(0.0)
    assert isinstance(step, Send)
    line.acks(step.slice, DeadLetter(1, "cannot_open", "altered"))
    for dead, left in (((DeadLetter(1, "cannot_open", "again"),), 1), ((), 0)):
        line.journal.unacknowledge(step.slice.epoch, [Range(1, 1)])
        again = line.flow.next(0.0)
        assert isinstance(again, Send)
        line.acks(again.slice, *dead)
        assert line.letters.server_total == left
    assert line.telling.counted("dead_letters") == 1


# What an earlier enrolment left


async def former(line: Line, count: int = 3) -> None:
    """Records of an earlier enrolment, and the till as another one."""
    await line.captures(count)
    await line.ends()
    line.till.keys.till_id = os.urandom(16)
    await line.starts()


async def test_what_an_earlier_enrolment_left_is_sent_in_a_lane_of_its_own(line: Line) -> None:
    await former(line)
    await line.captures(2)
    line.meets(willing)
    assert sorted(one.lane for one in line.sent) == ["former", "live"]
    assert line.left() == 0


@pytest.mark.parametrize("code", ["authentication", "revoked", "foreign_chunk", "version", "confused"])
async def test_its_refusal_touches_nothing_else(line: Line, code: str) -> None:
    await former(line)
    await line.captures(2)

    def judge(sent: Slice) -> Failure | None:
        outcomes: dict[str, Outcome] = {
            "authentication": "authentication",
            "revoked": "revoked",
            "version": "version",
            "confused": "confused",
        }
        return Failure(outcomes.get(code, "refused"), code, "no") if sent.lane == "former" else None

    rest = line.meets(judge)
    assert (rest.seconds, rest.for_news) == (FORMER_S, True)
    assert line.link.trouble == ()
    assert (line.left(), line.journal.queue().aside) == (3, 0)
    await line.captures()
    line.meets(judge)
    assert line.left() == 3
    line.now += FORMER_S
    line.meets(willing)
    assert line.left() == 0


async def test_one_refused_record_of_an_earlier_enrolment_holds_up_none_of_its_others(line: Line) -> None:
    await former(line, 20)
    line.meets(lambda sent: BROKEN if sent.lane == "former" and sent.first <= 7 <= sent.last else None)
    assert sorted(line.kept()) == [7]
    assert line.left() == 1


async def test_a_server_that_is_down_is_left_alone_by_the_former_lane_too(line: Line) -> None:
    await former(line)
    assert line.meets(lambda _: Failure("unavailable", "busy", "later", 7.0)) == Rest(7.0, for_news=False)
    assert len(line.sent) == 1


# The book


def test_the_book_remembers_the_newest_of_the_servers_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_module, "MOST_AT_SERVER", 3)
    book = Letters(TestTill(Path()).clock)
    for seq in range(5):
        assert book.dead((b"e" * 16, seq), 1, "code", "why")
    assert [seq for _, seq in book.at_server] == [2, 3, 4]
    assert (book.server_total, book.unnamed) == (5, 2)
    changes = book.changes()
    assert sorted(letter.seq for letter in changes.put) == [2, 3, 4]
    assert sorted(seq for _, seq in changes.drop) == [0, 1]
    assert not book.changes()
    book.give_back(changes)
    assert book.changes() == changes


@given(st.lists(st.integers(0, 30)), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_whatever_is_taken_is_out_of_the_book(refused: list[int], taken: list[tuple[int, int]]) -> None:
    book = Letters(TestTill(Path()).clock)
    for seq in refused:
        book.refused((b"e" * 16, seq), 1, "code", "why", counts=True)
    left = set(refused)
    for first, length in taken:
        gone = book.taken(b"e" * 16, [Range(first, first + length)])
        assert {seq for _, seq in gone} == {seq for seq in left if first <= seq <= first + length}
        left -= {seq for _, seq in gone}
    assert {seq for _, seq in book.here} == left
    assert book.taken(b"f" * 16, [Range(0, 100)]) == []
