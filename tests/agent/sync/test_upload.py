"""The upload flow, on a real journal and without a network: what is sent when, and what an answer means."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.agents import Telling
from support.disks import TroubledDisk
from support.tills import TestTill
from tillstream_agent.journal import Journal, Lane, Slice
from tillstream_agent.letters import Letters
from tillstream_agent.sync.answers import Failure, Outcome, interpret
from tillstream_agent.sync.flow import SLOW_S, Rest, Send, UploadFlow
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.transport import Response
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import ErrorBody
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import BatchReply, DeadLetter, Pace, Range

LIMITS = replace(DEFAULT, sync_interval=0.0, batch=2048)
FAST = Pace(2048, 0)
HALF = 0.5


class Line:
    """A till, its flow, and the server's answers as a test gives them."""

    def __init__(self, folder: Path) -> None:
        self.telling = Telling()
        self.disk = TroubledDisk(folder)
        self.till = TestTill(folder, LIMITS, self.disk)
        self.journal: Journal
        self.flow: UploadFlow
        self.now = 0.0

    async def starts(self) -> None:
        self.journal = await self.till.start()
        self.link = Link(self.till.clock, lambda _link: None)
        self.letters = Letters(self.till.clock)
        self.flow = UploadFlow(self.journal, self.telling.events, self.link, lambda: HALF, LIMITS, self.letters)

    async def captures(self, count: int = 1, size: int = 100) -> None:
        for number in range(count):
            name = self.journal.append(number.to_bytes(4, "big") + b"x" * size, kind=1)
        await self.journal.synced(name)

    def sends(self) -> Slice:
        step = self.flow.next(self.now)
        assert isinstance(step, Send), step
        return step.slice

    def rests(self) -> Rest:
        step = self.flow.next(self.now)
        assert isinstance(step, Rest), step
        return step

    def acks(self, sent: Slice, pace: Pace = FAST, dead: tuple[DeadLetter, ...] = (), **changes: Any) -> bool:
        reply = BatchReply(sent.epoch, (Range(sent.first, sent.last),), 0, dead, pace, self.till.clock.now_ms())
        return self.flow.acknowledged(sent, msgspec.structs.replace(reply, **changes), self.now)

    def trouble(self) -> list[str]:
        return list(self.link.trouble)

    def fails(self, sent: Slice, outcome: Outcome = "unavailable", retry_after: float = 0.0) -> None:
        self.flow.failed(sent, Failure(outcome, outcome, "planted", retry_after), self.now)

    def drains(self) -> list[tuple[Lane, int]]:
        """Everything there is, acknowledged at once: the lane and last seq of each batch."""
        sent: list[tuple[Lane, int]] = []
        while isinstance(step := self.flow.next(self.now), Send):
            sent.append((step.slice.lane, step.slice.last))
            assert self.acks(step.slice)
        return sent


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    opened = Line(tmp_path / "journal")
    await opened.starts()
    yield opened
    await opened.journal.close()


async def test_with_nothing_to_send_it_rests_until_there_is(line: Line) -> None:
    assert line.rests() == Rest(None, for_news=True)
    await line.captures()
    assert (line.sends().first, line.sends().last) == (0, 0)


async def test_what_is_acknowledged_is_not_sent_again(line: Line) -> None:
    await line.captures(3)
    assert line.acks(line.sends())
    assert line.rests() == Rest(None, for_news=True)
    assert line.journal.queue().records == 0
    assert line.telling.counted("acked_records") == 3
    assert line.telling.counted("sync_batches", outcome="acked") == 1
    assert line.link.online


async def test_what_is_not_acknowledged_is_sent_again(line: Line) -> None:
    await line.captures(3)
    sent = line.sends()
    line.fails(sent)
    line.now += 60
    assert line.sends().first == sent.first
    assert line.journal.queue().records == 3


async def test_a_part_acknowledged_leaves_the_rest(line: Line) -> None:
    await line.captures(4)
    assert line.acks(line.sends(), acked=(Range(0, 0), Range(2, 2)))
    left = [(s.first, s.last) for s in (line.sends(),)]
    assert left == [(1, 1)]
    assert line.journal.queue().records == 2


async def test_more_than_was_sent_is_never_believed(line: Line) -> None:
    await line.captures(40)
    sent = line.sends()
    assert sent.last < 39
    assert line.acks(sent, acked=(Range(0, 1000), Range(5, 6)))
    assert line.journal.queue().records == 39 - sent.last
    assert line.sends().first == sent.last + 1


@pytest.mark.parametrize("changes", [{"acked": ()}, {"acked": (Range(50, 60),)}, {"epoch": b"?" * 16}])
async def test_an_answer_about_something_else_is_trouble(line: Line, changes: dict[str, Any]) -> None:
    await line.captures()
    assert not line.acks(line.sends(), **changes)
    assert line.journal.queue().records == 1
    assert not line.rests().for_news
    assert line.telling.counted("sync_batches", outcome="confused") == 1
    assert line.trouble() == ["confused"]


async def test_dead_letters_are_acknowledged_and_told_of(line: Line) -> None:
    await line.captures(2)
    assert line.acks(line.sends(), dead=(DeadLetter(1, "cannot_open", "altered"),))
    assert line.journal.queue().records == 0
    assert line.telling.counted("dead_letters") == 1
    assert "dead_letters" in line.telling.said()


async def test_trouble_is_waited_out_longer_each_time_and_news_does_not_shorten_it(line: Line) -> None:
    await line.captures()
    waits: list[float | None] = []
    for _ in range(9):
        line.fails(line.sends())
        rest = line.rests()
        assert not rest.for_news
        waits.append(rest.seconds)
        line.now += rest.seconds or 0.0
    assert waits == [HALF * bound for bound in (0.5, 1, 2, 4, 8, 16, 32, 60, 60)]
    assert not line.link.online


async def test_the_server_may_ask_for_a_longer_wait(line: Line) -> None:
    await line.captures()
    line.fails(line.sends(), retry_after=120.0)
    assert line.rests().seconds == 120.0


async def test_after_success_waiting_begins_anew(line: Line) -> None:
    await line.captures(2)
    for _ in range(5):
        line.fails(line.sends())
        line.now += 60
    assert line.acks(line.sends())
    await line.captures()
    line.fails(line.sends())
    assert line.rests().seconds == 0.25


@pytest.mark.parametrize("outcome", ["authentication", "revoked", "version"])
async def test_where_only_people_can_help_it_asks_slowly_and_keeps_everything(line: Line, outcome: Outcome) -> None:
    await line.captures()
    line.fails(line.sends(), outcome)
    assert line.rests() == Rest(SLOW_S[outcome], for_news=False)
    assert line.trouble() == [outcome]
    assert line.link.online
    line.now += SLOW_S[outcome]
    assert line.acks(line.sends())
    assert line.trouble() == []


async def test_back_after_an_outage_live_records_overtake_the_backlog(line: Line) -> None:
    await line.captures(200)
    line.fails(line.sends())
    line.now += 60
    assert line.acks(line.sends())
    assert line.journal.backlog_exists()
    await line.captures(1)
    lanes = [lane for lane, _ in line.drains()]
    assert "live" in lanes[:2]
    assert lanes.count("live") == 1
    assert line.journal.queue().records == 0


async def test_the_lanes_take_turns_so_that_neither_starves(line: Line) -> None:
    await line.captures(100)
    line.journal.roll()
    await line.captures(100)
    lanes = [lane for lane, _ in line.drains()]
    together = min(lanes.count("live"), lanes.count("backlog"))
    assert together > 2
    assert lanes[: 2 * together] == ["live", "backlog"] * together


async def test_after_a_short_trouble_no_fresh_chunk_is_begun(line: Line) -> None:
    await line.captures(2)
    line.fails(line.sends())
    line.now += 60
    assert line.acks(line.sends())
    assert not line.journal.backlog_exists()
    assert "link_back" in line.telling.said()


async def test_a_fresh_chunk_that_cannot_be_had_is_done_without(line: Line) -> None:
    await line.captures(200)
    line.fails(line.sends())
    line.now += 60
    line.disk.trouble.create = errno.ENOSPC
    assert line.acks(line.sends())
    line.disk.trouble.create = None
    assert "housekeeping_failed" in line.telling.said()
    line.drains()
    assert line.journal.queue().records == 0


async def test_the_servers_pace_is_kept_by_lane(line: Line) -> None:
    await line.captures(60)
    line.journal.roll()
    await line.captures(60)
    first = line.sends()
    assert first.lane == "live"
    assert line.acks(first)
    backlog = line.sends()
    assert backlog.lane == "backlog"
    assert line.acks(backlog, Pace(2048, 5_000))
    while isinstance(step := line.flow.next(line.now), Send):
        assert step.slice.lane == "live"
        line.acks(step.slice)
    assert step == Rest(5.0, for_news=True)
    line.now += 5
    assert line.sends().lane == "backlog"


async def test_batches_become_as_large_as_the_server_asks_but_not_larger_than_fits(line: Line) -> None:
    await line.captures(400)
    sizes = []
    while isinstance(step := line.flow.next(line.now), Send):
        sizes.append(len(step.slice.frames))
        line.acks(step.slice, Pace(10_000, 0))
    assert sizes[0] <= 2048
    assert sizes[1] > 2048
    assert max(sizes) <= 10_000


async def test_a_batch_that_is_too_large_is_halved_and_grows_back(line: Line) -> None:
    await line.captures(100)
    whole = line.sends()
    line.fails(whole, "too_large")
    half = line.sends()
    assert len(half.frames) <= len(whole.frames) // 2
    assert half.first == whole.first
    assert line.acks(half)
    assert len(line.sends().frames) > len(half.frames)


async def test_a_lane_that_cannot_be_read_is_told_of_and_tried_again(line: Line) -> None:
    await line.captures(1)
    line.disk.trouble.read = errno.EIO
    assert line.rests() == Rest(1.0, for_news=True)
    assert "housekeeping_failed" in line.telling.said()
    line.disk.trouble.read = None
    line.now += 1
    assert line.acks(line.sends())


async def test_trouble_with_one_lane_lets_the_other_have_its_turn(line: Line) -> None:
    await line.captures(1)
    line.journal.roll()
    await line.captures(1)
    lanes = []
    for _ in range(4):
        sent = line.sends()
        lanes.append(sent.lane)
        line.fails(sent)
        line.now += 60
    assert lanes == ["live", "backlog", "live", "backlog"]


def answer(status: int, code: str, **headers: float) -> Response:
    return Response(status, msgspec.json.encode({"error": ErrorBody(code, "why")}), headers.get("retry_after"))


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (400, "invalid_input", "refused"),
        (400, "version_mismatch", "version"),
        (400, "foreign_chunk", "refused"),
        (400, "bad_signature", "confused"),
        (400, "unsigned", "confused"),
        (401, "unsigned", "authentication"),
        (401, "bad_signature", "authentication"),
        (401, "unknown_device", "authentication"),
        (403, "revoked", "revoked"),
        (404, "not_found", "confused"),
        (413, "too_large", "too_large"),
        (426, "version", "version"),
        (429, "busy", "unavailable"),
        (500, "error", "unavailable"),
        (503, "busy", "unavailable"),
    ],
)
def test_each_refusal_means_what_it_says(status: int, code: str, outcome: Outcome) -> None:
    assert interpret(answer(status, code, retry_after=7.0)) == Failure(outcome, code, "why", 7.0)


def test_an_answer_without_an_error_body_is_understood_by_its_status() -> None:
    assert interpret(Response(502, b"<html>")) == Failure(
        "unavailable", "http_502", "the server answered with status 502", 0.0
    )
    nonsense = interpret(Response(200, b"\xc1"))
    assert isinstance(nonsense, Failure)
    assert nonsense.outcome == "confused"


def test_a_good_answer_is_an_acknowledgement() -> None:
    reply = BatchReply(b"e" * 16, (Range(0, 1),), 0, (), FAST, 5)
    assert interpret(Response(200, encode(reply))) == reply


def test_a_refusal_in_words_that_are_not_a_servers_is_no_judgement_on_a_record() -> None:
    page = interpret(Response(400, b"<html>"))
    assert isinstance(page, Failure)
    assert (page.outcome, page.code) == ("confused", "http_400")


def test_a_proxy_that_has_no_room_for_a_batch_is_understood() -> None:
    page = interpret(Response(413, b"<html>"))
    assert isinstance(page, Failure)
    assert page.outcome == "too_large"


async def restarted(line: Line, runs: int = 1) -> None:
    """The till starts again, so many times."""
    for _ in range(runs):
        await line.journal.close()
        await line.starts()


async def test_a_run_that_captured_nothing_is_told_of_by_its_header_once(line: Line) -> None:
    empty = line.journal.position.epoch
    await restarted(line)
    sent = line.sends()
    assert (sent.epoch, sent.frames, sent.lane) == (empty, b"", "backlog")
    assert ChunkHeader.decode(sent.header).epoch == empty == line.journal.parent.epoch
    assert line.journal.queue().records == 0
    assert line.acks(sent, acked=())
    assert line.rests() == Rest(None, for_news=True)
    assert line.telling.counted("acked_records") == 0


async def test_every_empty_run_is_told_of_and_none_that_holds_a_record(line: Line) -> None:
    await line.captures()
    assert line.drains() == [("live", 0)]
    await restarted(line, 3)
    assert line.drains().count(("backlog", -1)) == 2


async def test_records_go_ahead_of_headers(line: Line) -> None:
    await restarted(line)
    await line.captures()
    assert [line.sends().frames != b"" for _ in range(2)] == [True, False]


async def test_a_header_that_did_not_arrive_is_sent_again_and_one_that_is_refused_is_not(line: Line) -> None:
    await restarted(line)
    sent = line.sends()
    line.fails(sent)
    line.now += 1000
    again = line.sends()
    assert again == sent
    assert not line.acks(again, epoch=bytes(16)), "an answer about another epoch"
    line.now += 1000
    line.fails(line.sends(), "refused")
    assert line.rests() == Rest(None, for_news=True)
    assert line.letters.here == {}


async def test_an_empty_chunk_stays_until_its_run_is_told_of(line: Line) -> None:
    await restarted(line)
    assert line.journal.sweep().chunks == ()
    await restarted(line)
    line.drains()
    assert line.journal.sweep().chunks == (1, 2)


# Runs that captured nothing


async def restarts(line: Line) -> None:
    await line.journal.close()
    await line.starts()


async def test_an_empty_run_is_told_of_after_everything_of_the_backlog(line: Line) -> None:
    await restarts(line)
    await line.captures(2)
    await restarts(line)
    while not line.journal.inherited_safe:
        await asyncio.sleep(0.005)
    first = line.sends()
    assert (first.lane, bool(first.frames)) == ("backlog", True)
    assert line.acks(first)
    header = line.sends()
    assert (header.lane, header.frames) == ("backlog", b"")
    assert line.acks(header)
    assert line.rests() == Rest(None, for_news=True)


@pytest.mark.parametrize("outcome", ["refused", "too_large"])
async def test_an_empty_run_that_the_server_refuses_is_not_told_of_again(line: Line, outcome: Outcome) -> None:
    await restarts(line)
    await restarts(line)
    refused = line.sends()
    line.fails(refused, outcome)
    other = line.sends()
    assert other.epoch != refused.epoch
    assert line.acks(other)
    assert line.rests() == Rest(None, for_news=True)
    assert not line.letters.here
    assert line.trouble() == []
    (failed,) = [said for said in line.telling.lines() if said["event"] == "upload_failed"]
    assert failed["retry_s"] == 0


async def test_an_empty_run_is_told_of_again_where_the_server_was_not_heard(line: Line) -> None:
    await restarts(line)
    line.fails(line.sends())
    line.now += 60
    assert line.acks(line.sends())
