"""What the upload tells people and the link, how it halves, and in which order it tries its lanes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.agents import Telling
from support.disks import TroubledDisk
from support.tills import TestTill
from tillstream_agent import letters as letters_module
from tillstream_agent.journal import Journal, JournalFull, Slice
from tillstream_agent.letters import Letters
from tillstream_agent.sync.answers import Failure, Outcome, interpret
from tillstream_agent.sync.flow import FORMER_S, Rest, Send, UploadFlow
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.refusals import RETRY_S
from tillstream_agent.sync.rewind import Rewind
from tillstream_agent.sync.transport import Response
from tillstream_protocol.codec import encode
from tillstream_protocol.limits import DEFAULT, KIB, Limits
from tillstream_protocol.messages import BatchReply, DeadLetter, EpochRanges, Pace, Range

LIMITS = replace(DEFAULT, sync_interval=0.0, batch=64 * 1024, reserve=0)


class Line:
    """A till and its flow; a test is the server."""

    def __init__(self, folder: Path, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.disk = TroubledDisk(folder)
        self.till = TestTill(folder, limits, self.disk)
        self.journal: Journal
        self.now = 0.0
        self.chance = 0.5

    async def starts(self) -> None:
        self.journal = await self.till.start()
        ready = asyncio.Event()
        self.journal.set_wakeup(ready.set)
        await ready.wait()
        self.telling = Telling()
        self.link = Link(self.till.clock, lambda _link: None)
        self.letters = Letters(self.till.clock)
        self.flow = UploadFlow(
            self.journal, self.telling.events, self.link, lambda: self.chance, self.limits, self.letters
        )

    async def captures(self, count: int = 1) -> None:
        """So many records, all of one size."""
        for _ in range(count):
            name = self.journal.append(os.urandom(100), kind=1)
        await self.journal.synced(name)

    async def becomes_another(self) -> None:
        """The till is enrolled anew: what it has captured so far is the former one's."""
        await self.journal.close()
        self.till.keys.till_id = os.urandom(16)
        await self.starts()

    def sends(self) -> Slice:
        step = self.flow.next(self.now)
        assert isinstance(step, Send), step
        return step.slice

    def acks(self, sent: Slice, *, ms_behind: int = 0, pace: int = 64 * 1024) -> bool:
        held = (Range(sent.first, sent.last),)
        said = self.till.clock.now_ms() - ms_behind
        return self.flow.acknowledged(sent, BatchReply(sent.epoch, held, 0, (), Pace(pace, 0), said), self.now)

    def fails(self, sent: Slice, outcome: Outcome, code: str = "planted", retry_after: float = 0.0) -> bool:
        return self.flow.failed(sent, Failure(outcome, code, "why it was", retry_after), self.now)

    def told(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.telling.lines() if line["event"] == event]


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    opened = Line(tmp_path / "journal")
    await opened.starts()
    yield opened
    await opened.journal.close()


async def test_a_failure_is_told_of_with_the_servers_reason_and_the_wait(line: Line) -> None:
    await line.captures()
    assert not line.fails(line.sends(), "unavailable", "busy", 7.0)
    (told,) = line.told("upload_failed")
    assert (told["outcome"], told["code"], told["reason"], told["retry_s"]) == (
        "unavailable",
        "busy",
        "why it was",
        7.0,
    )
    assert line.link.online is False


async def test_an_answer_about_nothing_that_was_sent_is_called_confused(line: Line) -> None:
    await line.captures()
    sent = line.sends()
    assert not line.acks(replace(sent, epoch=b"?" * 16, first=5, last=4))
    (told,) = line.told("upload_failed")
    assert (told["outcome"], told["code"]) == ("confused", "confused")
    assert told["reason"] == "the answer acknowledges nothing that was sent"


async def test_an_acknowledgement_tells_the_servers_time(line: Line) -> None:
    await line.captures()
    assert line.acks(line.sends(), ms_behind=4321)
    assert line.link.clock_offset_ms == 4321


async def test_that_a_record_was_refused_is_something_to_remember_and_that_it_was_not_is_not(line: Line) -> None:
    await line.captures()
    assert line.fails(line.sends(), "refused") is True
    await line.captures()
    assert line.fails(line.sends(), "unavailable") is False


async def test_a_journal_that_cannot_be_read_is_named(line: Line) -> None:
    await line.captures()
    line.fails(line.sends(), "refused")
    await line.captures()
    line.disk.trouble.read = errno.EIO
    line.flow.next(line.now)
    (told,) = line.told("housekeeping_failed")
    assert told["what"] == "read the journal"
    line.disk.trouble.read = None
    assert line.acks(line.sends())
    line.disk.trouble.read = errno.EIO
    line.now += RETRY_S[0]
    line.flow.next(line.now)
    assert [one["what"] for one in line.told("housekeeping_failed")] == ["read the journal"] * 2


async def test_a_lane_that_cannot_be_read_does_not_keep_the_next_from_being_sent(line: Line) -> None:
    await line.captures()
    line.journal.roll()
    await line.captures()
    line.disk.trouble.unreadable = "0000000002.chunk"
    assert line.sends().lane == "backlog"
    assert line.told("housekeeping_failed")


async def test_what_a_former_enrolment_left_says_nothing_of_the_link(line: Line) -> None:
    await line.captures()
    await line.becomes_another()
    await line.captures()
    live = line.sends()
    assert live.lane == "live"
    line.fails(live, "authentication")
    former = line.sends()
    assert former.lane == "former"
    assert line.acks(former)
    assert line.link.trouble == ("authentication",)
    assert line.told("link_back") == []


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.5), (0.25, 0.75), (0.75, 1.25)])
async def test_the_former_lanes_wait_is_spread_by_half_to_both_sides(line: Line, chance: float, factor: float) -> None:
    await line.captures()
    await line.becomes_another()
    line.chance = chance
    line.fails(line.sends(), "revoked")
    assert line.flow.next(line.now) == Rest(FORMER_S * factor, for_news=True)


async def test_the_former_lane_is_not_sent_before_the_server_asked_for_it(line: Line) -> None:
    await line.captures()
    await line.becomes_another()
    line.fails(line.sends(), "revoked", retry_after=3 * FORMER_S)
    assert line.flow.next(line.now) == Rest(3 * FORMER_S, for_news=True)


async def test_trying_again_takes_back_the_poison_alone_and_only_when_none_is_left(line: Line) -> None:
    await line.captures(2)
    for _ in range(3):
        line.fails(line.sends(), "refused")
    assert len(line.letters.here) == 2
    first, second = line.letters.here
    assert line.link.upload_trouble == "poison"
    assert line.flow.try_again([first]) == 1
    assert line.link.upload_trouble == "poison"
    assert line.flow.try_again([second]) == 1
    assert line.link.upload_trouble == ""
    line.fails(line.sends(), "unavailable")
    assert line.flow.try_again([second]) == 0
    assert line.link.upload_trouble == "unavailable"


async def test_a_refused_batch_is_sent_again_by_halves(line: Line) -> None:
    await line.captures(16)
    sizes = []
    while (sent := line.sends()).first != sent.last:
        sizes.append(sent.last - sent.first + 1)
        line.fails(sent, "refused")
    assert sizes == [16, 8, 4, 2]


async def test_once_the_suspects_are_gone_batches_are_whole_again(line: Line) -> None:
    await line.captures(40)
    sent = line.sends()
    line.fails(replace(sent, last=7, frames=sent.frames[: len(sent.frames) // 5]), "refused")
    line.journal.acknowledge(sent.epoch, [Range(0, 7)])
    again = line.sends()
    assert (again.first, again.last) == (8, 39)


async def test_the_last_of_the_suspects_is_still_one(line: Line) -> None:
    await line.captures(40)
    sent = line.sends()
    line.fails(replace(sent, last=7, frames=sent.frames[: len(sent.frames) // 5]), "refused")
    line.journal.acknowledge(sent.epoch, [Range(0, 6)])
    again = line.sends()
    assert again.first == 7
    assert again.last < 12


# How far a refusal reaches


async def test_two_halves_of_the_suspects_are_told_apart_by_what_is_taken(line: Line) -> None:
    await line.captures(16)
    line.fails(line.sends(), "refused")
    parts = []
    for _ in range(4):
        sent = line.sends()
        parts.append((sent.first, sent.last))
        line.acks(sent)
    assert parts == [(0, 7), (8, 11), (12, 13), (14, 14)]


async def test_once_the_refused_record_is_set_aside_the_rest_goes_in_one_batch(line: Line) -> None:
    await line.captures(40)
    while (sent := line.sends()).last > 0:
        line.fails(sent, "refused")
    line.fails(sent, "refused", "invalid_input")
    (told,) = line.told("records_set_aside")
    assert (told["code"], told["reason"], told["records"], told["dead"]) == ("invalid_input", "why it was", 1, 0)
    assert {letter.kind for letter in line.letters.here.values()} == {1}
    assert line.link.online is True
    rest = line.sends()
    assert (rest.first, rest.last) == (1, 39)


async def test_halving_is_no_wait_and_no_trouble_of_the_links(line: Line) -> None:
    await line.captures(4)
    line.fails(line.sends(), "refused")
    assert (line.link.online, line.link.upload_trouble) == (True, "")
    line.fails(line.sends(), "refused")
    line.fails(line.sends(), "refused")
    assert [one["retry_s"] for one in line.told("upload_failed")] == [0.0, 0.0, 0.0]


async def test_a_batch_too_large_is_sent_by_halves_in_the_former_lane_too(line: Line) -> None:
    await line.captures(16)
    await line.becomes_another()
    sent = line.sends()
    line.fails(sent, "too_large", "http_413")
    half = line.sends()
    assert (half.lane, half.first, half.last) == ("former", 0, 7)
    assert line.link.online is False


async def test_what_is_left_of_a_chunk_that_is_refused_is_counted_whole(line: Line) -> None:
    await line.captures(5)
    sent = line.sends()
    line.journal.acknowledge(sent.epoch, [Range(0, 1)])
    line.fails(line.sends(), "refused", "foreign_chunk")
    (told,) = line.told("records_set_aside")
    assert (told["records"], told["dead"]) == (3, 0)


async def test_records_of_a_former_enrolment_cast_no_doubt_on_the_server(line: Line) -> None:
    await line.captures(5)
    await line.becomes_another()
    for _ in range(20):
        if isinstance(step := line.flow.next(line.now), Send):
            line.fails(step.slice, "refused")
    assert line.journal.queue().aside == 5
    await line.captures(10)
    live = line.sends()
    assert (live.lane, live.first, live.last) == ("live", 0, 9)


async def test_a_refused_record_whose_lane_is_held_back_holds_up_no_other_that_is_due(line: Line) -> None:
    await line.captures(2)
    await line.becomes_another()
    line.fails(line.sends(), "refused")
    refused = line.sends()
    line.fails(refused, "refused")
    line.fails(line.sends(), "authentication")
    line.now = 1.0
    await line.captures()
    today = line.sends()
    line.fails(today, "refused")
    line.now = 2 * RETRY_S[0]
    assert line.flow.next(line.now) == Rest(0.0, for_news=True)
    again = line.sends()
    assert (again.lane, again.epoch, again.first) == ("live", today.epoch, today.first)
    line.acks(again)
    assert line.flow.next(line.now) == Rest(FORMER_S - line.now, for_news=True)
    line.now = FORMER_S
    lanes = {(sent.lane, sent.first) for sent in (line.sends(), line.sends())}
    assert lanes == {("former", 0), ("former", 1)}


async def test_with_a_full_book_a_former_record_holds_up_its_own_lane_alone(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "MOST_HERE", 0)
    await line.captures()
    await line.becomes_another()
    former = line.sends()
    assert former.lane == "former"
    line.fails(former, "refused")
    assert isinstance(line.flow.next(line.now), Rest)
    assert line.link.trouble == ()
    await line.captures()
    assert line.sends().lane == "live"


async def test_with_a_full_book_a_record_of_today_is_trouble_that_was_heard(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "MOST_HERE", 0)
    await line.captures()
    line.fails(line.sends(), "refused")
    assert (line.link.online, line.link.trouble) == (True, ("confused",))
    assert line.flow.next(line.now) == Rest(0.25, for_news=False)


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 30.0), (0.25, 45.0), (0.75, 75.0)])
async def test_a_slow_wait_is_spread_by_half_to_both_sides(line: Line, chance: float, seconds: float) -> None:
    await line.captures()
    line.chance = chance
    line.fails(line.sends(), "authentication")
    assert line.flow.next(line.now) == Rest(seconds, for_news=False)


async def test_what_came_back_and_what_still_waits_is_told(line: Line) -> None:
    await line.captures(3)
    sent = line.sends()
    line.fails(sent, "unavailable")
    line.journal.append(os.urandom(LIMITS.batch + 1), kind=1)
    line.disk.trouble.create = errno.ENOSPC
    assert line.acks(sent)
    line.disk.trouble.create = None
    assert line.told("link_back")[0]["queued"] == 1
    assert [one["what"] for one in line.told("housekeeping_failed")] == ["fresh chunk"]


async def test_every_dead_letter_of_an_answer_is_counted_and_the_batch_is_told_of(line: Line) -> None:
    await line.captures(3)
    sent = line.sends()
    dead = (DeadLetter(0, "cannot_open", "altered"), DeadLetter(2, "cannot_open", "altered"))
    reply = BatchReply(sent.epoch, (Range(0, 2),), 7, dead, Pace(64 * 1024, 0), line.till.clock.now_ms())
    assert line.flow.acknowledged(sent, reply, line.now)
    assert line.telling.counted("dead_letters") == 2
    (told,) = line.told("uploaded")
    assert (told["lane"], told["records"], told["repeated"], told["dead"]) == ("live", 3, 7, 2)


@asynccontextmanager
async def limited(folder: Path, **limits: Any) -> AsyncIterator[Line]:
    opened = Line(folder, replace(LIMITS, **limits))
    await opened.starts()
    yield opened
    await opened.journal.close()


async def test_batches_grow_twofold_at_most_and_never_beyond_what_a_request_may_be(tmp_path: Path) -> None:
    async with limited(tmp_path, batch=1000, batch_body=20 * KIB) as line:
        await line.captures(200)
        sizes = []
        for _ in range(5):
            sent = line.sends()
            sizes.append(len(sent.frames))
            line.acks(sent, pace=1 << 30)
        bounds = (1000, 2000, 4000, 4 * KIB, 4 * KIB)
        assert all(bound / 2 < size <= bound for size, bound in zip(sizes, bounds, strict=True)), sizes


async def test_all_records_of_a_slice_that_are_given_up_at_once_are_counted(tmp_path: Path) -> None:
    async with limited(tmp_path, tries=1) as line:
        await line.captures(3)
        line.fails(line.sends(), "refused", "foreign_chunk")
        assert [(one["records"], one["dead"]) for one in line.told("records_set_aside")] == [(3, 3)]


async def test_the_lane_whose_turn_it_is_goes_first_however_many_were_passed_over(tmp_path: Path) -> None:
    async with limited(tmp_path, batch=1000) as line:
        await line.captures()
        await line.becomes_another()
        await line.captures(40)
        line.journal.roll()
        await line.captures()
        lanes = []
        for _ in range(5):
            sent = line.sends()
            lanes.append(sent.lane)
            if sent.lane == "former":
                line.fails(sent, "revoked")
            else:
                line.acks(sent, pace=1000)
        assert lanes == ["live", "backlog", "former", "backlog", "backlog"]
        line.now += 2 * FORMER_S
        await line.captures()
        assert line.sends().lane == "former"


async def test_a_record_taken_at_last_makes_no_difference_to_suspects_behind_it(line: Line) -> None:
    await line.captures()
    line.fails(line.sends(), "refused")
    await line.captures(16)
    line.fails(line.sends(), "refused")
    line.now += RETRY_S[0]
    again = line.sends()
    assert (again.first, again.last) == (0, 0)
    line.acks(again)
    half = line.sends()
    assert (half.first, half.last) == (1, 8)


async def test_a_rewind_without_room_for_a_fresh_chunk_says_so_and_speaks_of_no_loss(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise JournalFull("the disk is full")

    await line.captures(3)
    sent = line.sends()
    line.acks(sent)
    monkeypatch.setattr(line.journal, "roll", full)
    Rewind(line.journal, line.telling.events, lambda: None).back([EpochRanges(sent.epoch, (Range(0, 2),))])
    assert [one["what"] for one in line.told("housekeeping_failed")] == ["fresh chunk"]
    assert line.told("beyond_retention") == []


@pytest.mark.parametrize("status", [300, 301])
def test_a_status_beyond_success_is_no_acknowledgement(status: int) -> None:
    reply = BatchReply(b"e" * 16, (Range(0, 1),), 0, (), Pace(1024, 0), 5)
    answer = interpret(Response(status, encode(reply)))
    assert isinstance(answer, Failure)
    assert (answer.outcome, answer.code) == ("confused", f"http_{status}")


def test_an_answer_that_cannot_be_read_is_said_to_be_so() -> None:
    answer = interpret(Response(200, b"\xc1"))
    assert isinstance(answer, Failure)
    assert (answer.outcome, answer.code) == ("confused", "invalid_input")
    assert answer.reason.startswith("the answer cannot be read: ")
