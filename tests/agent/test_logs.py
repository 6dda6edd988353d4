"""The end of the log is kept in the state folder, bounded, and can be followed."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest

from tillstream_agent.logs import FORMER, NAME, KeptLog, LogReader, kept_lines


def test_what_is_said_goes_to_both_places(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = KeptLog(stream, tmp_path, 1000)
    log.write("one\n")
    log.write("two\n")
    log.flush()
    assert stream.getvalue() == "one\ntwo\n"
    assert kept_lines(tmp_path) == ["one", "two"]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    log.close()
    assert not stream.closed


def test_no_more_is_kept_than_was_asked_for_and_it_is_the_newest(tmp_path: Path) -> None:
    log = KeptLog(io.StringIO(), tmp_path, 100)
    for number in range(100):
        log.write(f"line {number:04}\n")
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 100
    kept = kept_lines(tmp_path)
    assert kept == [f"line {number:04}" for number in range(100 - len(kept), 100)]
    assert len(kept) >= 5


def test_a_later_run_goes_on_where_the_former_ended(tmp_path: Path) -> None:
    for text in ("one\n", "two\n"):
        log = KeptLog(io.StringIO(), tmp_path, 1000)
        log.write(text)
        log.close()
    assert kept_lines(tmp_path) == ["one", "two"]


def test_nothing_is_kept_where_nothing_should_be(tmp_path: Path) -> None:
    KeptLog(io.StringIO(), tmp_path, 0).write("one\n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        kept_lines(tmp_path)


def test_a_log_that_cannot_be_written_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    folder, stream = tmp_path / "later", io.StringIO()
    log = KeptLog(stream, folder, 1000)
    log.write("one\n")
    folder.mkdir()
    log.write("two\n")
    assert stream.getvalue() == "one\ntwo\n"
    assert kept_lines(folder) == ["two"]


def test_a_log_whose_former_part_cannot_be_put_aside_goes_on(tmp_path: Path) -> None:
    (tmp_path / FORMER).mkdir()
    stream = io.StringIO()
    log = KeptLog(stream, tmp_path, 20)
    for _ in range(5):
        log.write("0123456\n")
    assert stream.getvalue().count("\n") == 5


async def said(reader: LogReader, last: str) -> list[str]:
    """What is followed up to a line."""
    found = []
    async for line in reader.follow(lambda _: asyncio.sleep(0)):
        found.append(line)
        if line == last:
            break
    return found


async def test_what_is_said_later_can_be_followed_over_the_turn_of_the_file(tmp_path: Path) -> None:
    log = KeptLog(io.StringIO(), tmp_path, 60)
    log.write("before\n")
    reader = LogReader(tmp_path)
    following = asyncio.create_task(said(reader, "the last"))
    expected = [f"line {number}" for number in range(20)] + ["the last"]
    for line in expected:
        log.write(line + "\n")
        for _ in range(5):
            await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert await following == expected
    reader.close()


async def test_nothing_is_missed_or_told_twice_between_reading_and_following(tmp_path: Path) -> None:
    log = KeptLog(io.StringIO(), tmp_path, 1000)
    log.write("before\nbeg")
    reader = LogReader(tmp_path)
    assert reader.lines == ["before"]
    log.write("un\n")
    log.write("the last\n")
    async with asyncio.timeout(30):
        assert await said(reader, "the last") == ["begun", "the last"]
    reader.close()


def test_a_log_that_is_turned_while_it_is_opened_is_not_told_twice(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("one\n")
    os.link(tmp_path / NAME, tmp_path / FORMER)
    assert kept_lines(tmp_path) == ["one"]
