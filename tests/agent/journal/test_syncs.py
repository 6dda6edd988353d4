"""Each sync of the journal is needed: a disk that only pretends to do it breaks a promise, and this harness sees it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from model.disk.book import Broken, Fact
from model.disk.rig import Rig
from support.simdisk import Judge, Operation, Verdict
from tillstream_agent.journal import Name
from tillstream_agent.journal.doubts import Doubts
from tillstream_agent.journal.inherited import RENEW_AFTER_S

Pretence = Callable[[Rig], Judge]
"""Which syncs the disk only pretends to do."""


def nothing(_rig: Rig) -> Judge:
    return lambda _operation, _name, _index: None


def naming(name: str, before: str | None = None) -> Pretence:
    """The folder's sync that makes a new name firm."""

    def pretence(rig: Rig) -> Judge:
        def judge(operation: Operation, _name: str, _index: int) -> Verdict:
            return "lie" if operation == "sync_folder" and (before, name) in rig.disk.unsettled_names() else None

        return judge

    return pretence


def syncing(name: str) -> Pretence:
    """A file's own sync."""
    return lambda _rig: lambda operation, asked, _index: "lie" if (operation, asked) == ("sync", name) else None


def syncing_its_footer(name: str) -> Pretence:
    """A file's own sync, once it has its footer."""

    def pretence(rig: Rig) -> Judge:
        def judge(operation: Operation, asked: str, _index: int) -> Verdict:
            return "lie" if (operation, asked) == ("sync", name) and b"TSFT" in rig.disk.image()[name] else None

        return judge

    return pretence


ONE, TWO, TORN, COPY = "0000000001.chunk", "0000000002.chunk", "0000000001.torn", "0000000001.new"


def captured(rig: Rig) -> Fact:
    fact = rig.capture(50)
    assert fact is not None
    return fact


def says_safe(rig: Rig, fact: Fact) -> None:
    assert rig.ask_safe(fact)


def loses_power(rig: Rig, promised: frozenset[Name] | None = None) -> None:
    kept = rig.book.safe() if promised is None else promised
    rig.cut_power("dropped")
    rig.check_and_start(kept)


def safe_means_safe(rig: Rig) -> None:
    says_safe(rig, captured(rig))
    loses_power(rig)


def sent_means_safe(rig: Rig) -> None:
    captured(rig)
    rig.wait(1)
    assert rig.send("live", 4096) == 1


def what_a_killed_run_left_is_safe_before_it_is_sent(rig: Rig) -> None:
    captured(rig)
    killed_and_started(rig)
    rig.wait(1)
    assert rig.send("backlog", 4096) == 1


def what_a_killed_run_left_is_safe_when_it_is_said_so(rig: Rig) -> None:
    fact = captured(rig)
    killed_and_started(rig)
    says_safe(rig, fact)
    loses_power(rig)


def what_a_killed_run_could_not_sync_is_safe_when_it_is_said_so(rig: Rig) -> None:
    """Whatever the next run is told by a disk that has forgotten what it dropped."""
    fact = captured(rig)
    failing: Operation
    for failing in ("sync", "sync_folder"):
        rig.disk.judge = lambda operation, _name, _index, failing=failing: errno.EIO if operation == failing else None
        killed_and_started(rig)
        rig.wait(1)
    rig.disk.judge = None
    killed_and_started(rig)
    says_safe(rig, fact)
    loses_power(rig)


def what_is_in_a_closed_chunk_is_safe_when_it_is_said_so(rig: Rig) -> None:
    fact = captured(rig)
    rig.roll()
    says_safe(rig, fact)
    loses_power(rig)


def a_run_that_ended_in_order_loses_nothing(rig: Rig) -> None:
    captured(rig)
    rig.stop()
    loses_power(rig, rig.book.all())


def what_moved_after_a_failed_sync_is_safe_when_it_is_said_so(rig: Rig) -> None:
    fact = captured(rig)
    fails_a_sync(rig)
    says_safe(rig, fact)
    loses_power(rig)


def what_was_written_anew_after_a_failed_sync_is_safe_when_it_is_said_so(rig: Rig) -> None:
    fact = captured(rig)
    killed_and_started(rig)
    fails_a_sync(rig)
    says_safe(rig, fact)
    loses_power(rig)


def what_was_written_anew_late_is_safe_when_it_is_said_so(rig: Rig) -> None:
    fact = captured(rig)
    killed_and_started(rig)
    fails_a_sync(rig, 2)
    rig.wait(1)
    rig.wait(RENEW_AFTER_S)
    says_safe(rig, fact)
    loses_power(rig)


def a_chunk_that_was_finished_ended_well(rig: Rig) -> None:
    captured(rig)
    rig.stop()
    rig.cut_power("dropped")
    rig.start()
    if not rig.running.clean_end:
        raise Broken("its end has to be looked at again")


def a_chunk_that_was_finished_later_stays_finished(rig: Rig) -> None:
    captured(rig)
    killed_and_started(rig)
    rig.wait(1)
    rig.cut_power("dropped")
    if b"TSFT" not in rig.disk.image()[ONE]:
        raise Broken("its frames have to be searched again")
    rig.start()


def a_torn_tail_is_kept(rig: Rig) -> None:
    captured(rig)
    rig.kill()
    whole = rig.disk.image()[ONE]
    rig.disk.put(ONE, whole + b"torn")
    rig.start()
    for damage in rig.running.damage:
        rig.running.reported(damage)
    rig.wait(1)
    kept = rig.disk.power_cut("dropped", rig.random).image()
    if b"torn" not in (kept.get(TORN), kept[ONE][len(whole) : len(whole) + 4]):
        raise Broken("the torn tail is gone")


def fails_a_sync(rig: Rig, times: int = 1) -> None:
    """The next sync fails, or the next two; then the disk goes on pretending as before."""
    pretends, failed = rig.disk.judge, 0

    def judge(operation: Operation, name: str, index: int) -> Verdict:
        nonlocal failed
        if operation == "sync" and failed < times:
            failed += 1
            return errno.EIO
        return pretends(operation, name, index) if pretends is not None else None

    rig.disk.judge = judge


def killed_and_started(rig: Rig) -> None:
    rig.kill()
    rig.start()


@dataclass(frozen=True, slots=True)
class Needed:
    """A sync, and what breaks without it."""

    pretence: Pretence
    story: Callable[[Rig], None]


NEEDED = {
    "the folder, once a chunk was created": Needed(naming(ONE), safe_means_safe),
    "the open chunk, before a record is called safe": Needed(syncing(ONE), safe_means_safe),
    "the open chunk, before a record is sent": Needed(syncing(ONE), sent_means_safe),
    "a chunk that was closed, before its records are called safe": Needed(
        syncing(ONE), what_is_in_a_closed_chunk_is_safe_when_it_is_said_so
    ),
    "a chunk of an earlier run, before it is sent": Needed(
        syncing(ONE), what_a_killed_run_left_is_safe_before_it_is_sent
    ),
    "a chunk of an earlier run, before its records are called safe": Needed(
        syncing(ONE), what_a_killed_run_left_is_safe_when_it_is_said_so
    ),
    "the folder, before what a killed run left is called safe": Needed(
        naming(ONE), what_a_killed_run_left_is_safe_when_it_is_said_so
    ),
    "the last chunk, at the end of a run": Needed(syncing(ONE), a_run_that_ended_in_order_loses_nothing),
    "the chunk that takes records whose file failed": Needed(
        syncing(TWO), what_moved_after_a_failed_sync_is_safe_when_it_is_said_so
    ),
    "the folder, once that chunk was created": Needed(
        naming(TWO), what_moved_after_a_failed_sync_is_safe_when_it_is_said_so
    ),
    "the copy that takes the place of a chunk of an earlier run whose sync failed": Needed(
        syncing(COPY), what_was_written_anew_late_is_safe_when_it_is_said_so
    ),
    "the footer, at the end of a run": Needed(syncing_its_footer(ONE), a_chunk_that_was_finished_ended_well),
    "the footer that an earlier run had no time for": Needed(
        syncing_its_footer(ONE), a_chunk_that_was_finished_later_stays_finished
    ),
    "the folder, once that copy took its place": Needed(
        naming(ONE, before=COPY), what_was_written_anew_after_a_failed_sync_is_safe_when_it_is_said_so
    ),
    "the copy of a torn tail, before the tail is cut": Needed(syncing(TORN), a_torn_tail_is_kept),
    "the folder, once that copy was created": Needed(naming(TORN), a_torn_tail_is_kept),
}


def lives(story: Callable[[Rig], None], pretence: Pretence) -> None:
    rig = Rig(1)
    rig.disk.judge = pretence(rig)
    try:
        rig.start()
        story(rig)
    finally:
        rig.close()


@pytest.mark.parametrize("name", NEEDED)
def test_without_this_sync_a_promise_is_broken(name: str) -> None:
    with pytest.raises(Broken):
        lives(NEEDED[name].story, NEEDED[name].pretence)


def test_a_run_that_dies_while_its_syncs_fail_warns_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(what_a_killed_run_could_not_sync_is_safe_when_it_is_said_so, nothing)
    monkeypatch.setattr(Doubts, "mark", lambda _doubts, _number: None)
    with pytest.raises(Broken):
        lives(what_a_killed_run_could_not_sync_is_safe_when_it_is_said_so, nothing)


@pytest.mark.parametrize(
    "story", dict.fromkeys(needed.story for needed in NEEDED.values()), ids=lambda story: story.__name__
)
def test_with_all_of_them_none_is(story: Callable[[Rig], None]) -> None:
    lives(story, nothing)
