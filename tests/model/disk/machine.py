"""A till as a state machine: hypothesis looks for a story after which its journal does not keep what it promised."""

from __future__ import annotations

import errno
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.medium import Manner
from support.simdisk import Judge, Operation, Short, Verdict
from tillstream_agent.journal import JournalError, Lane

from .look import LANES
from .rig import PATIENCE_S, Rig

TROUBLE: Final[tuple[Operation, ...]] = (
    "read",
    "create",
    "append_to",
    "rename",
    "unlink",
    "sync_folder",
    "write",
    "cut",
    "sync",
)
VERDICTS: Final[tuple[Verdict, ...]] = (errno.EIO, errno.ENOSPC, Short(1, errno.ENOSPC), Short(200, errno.EIO))
MANNERS: Final[tuple[Manner, ...]] = ("dropped", "kept", "torn", "reordered")


def planted(trouble: dict[Operation, Verdict]) -> Judge:
    """A judge that fails these calls, writes alone in part."""

    def judge(operation: Operation, _name: str, _index: int) -> Verdict:
        verdict = trouble.get(operation)
        return verdict.code if isinstance(verdict, Short) and operation != "write" else verdict

    return judge


class JournalMachine(RuleBasedStateMachine):
    """One till. After each restart it is held against the list of what it was promised."""

    rig: Rig
    trouble: dict[Operation, Verdict]

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.rig, self.trouble = Rig(seed), {}
        self.rig.start()

    @rule(size=st.integers(0, 1500), spends=st.integers(0, 2))
    def capture(self, size: int, spends: int) -> None:
        if self.rig.capture(size, spends) is None and not self.trouble:
            self.rig.wait(PATIENCE_S)
            assert self.rig.capture(size, spends), "refused, though the disk is well"

    @rule(count=st.integers(2, 8))
    def capture_many(self, count: int) -> None:
        for _ in range(count):
            self.capture(600, 0)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.03, 3.0]))
    def wait(self, seconds: float) -> None:
        self.rig.wait(seconds)

    @rule(back=st.integers(0, 20))
    def ask_safe(self, back: int) -> None:
        known = [fact for fact in self.rig.book.facts.values() if self.rig.knows(fact)]
        if known and not self.rig.ask_safe(fact := known[-1 - back % len(known)]) and not self.trouble:
            self.rig.wait(PATIENCE_S)
            assert self.rig.ask_safe(fact), "not safe, though the disk is well"

    @rule(
        lane=st.sampled_from(LANES),
        size=st.sampled_from([1, 1200, 4096]),
        reply_lost=st.booleans(),
        keep=st.booleans(),
    )
    def send(self, lane: Lane, size: int, *, reply_lost: bool, keep: bool) -> None:
        self.rig.send(lane, size, reply_lost=reply_lost, keep=keep)

    @rule(lane=st.sampled_from(LANES))
    def be_refused(self, lane: Lane) -> None:
        self.rig.refuse_next(lane)

    @precondition(lambda self: self.rig.aside)
    @rule()
    def take_up(self) -> None:
        self.rig.take_up()

    @rule(share=st.sampled_from([0.1, 0.5, 1.0]))
    def restore_the_server(self, share: float) -> None:
        self.rig.restore_server(share)

    @rule(back=st.integers(0, 20))
    def export(self, back: int) -> None:
        facts = list(self.rig.book.facts.values())
        if facts:
            self.rig.export(facts[-1 - back % len(facts)])

    @rule()
    def report_what_is_lost(self) -> None:
        for damage in self.rig.running.damage:
            self.rig.running.reported(damage)

    @rule()
    def roll(self) -> None:
        try:
            self.rig.roll()
        except JournalError:
            assert self.trouble

    @rule()
    def sweep(self) -> None:
        self.rig.sweep()

    @rule(hours=st.sampled_from([-1, 1, 80, -24 * 3650, 24 * 3650]))
    def turn_the_clock(self, hours: int) -> None:
        self.rig.clock.off_ms += hours * 3_600_000

    @rule(operation=st.sampled_from(TROUBLE), verdict=st.sampled_from(VERDICTS))
    def break_the_disk(self, operation: Operation, verdict: Verdict) -> None:
        self.trouble[operation] = verdict
        self.rig.disk.judge = planted(self.trouble)

    @rule(room=st.sampled_from([0, 100, 3000, 6000]))
    def fill_the_disk(self, room: int) -> None:
        self.trouble["free"] = None
        self.rig.fill(room)

    @precondition(lambda self: self.trouble)
    @rule()
    def mend_the_disk(self) -> None:
        self.trouble.clear()
        self.rig.disk.judge = None
        self.rig.disk.capacity = None

    @rule()
    def be_killed(self) -> None:
        self.rig.kill()
        self.mend_the_disk()
        self.rig.check_and_start(self.rig.book.all())

    @rule(manner=st.sampled_from(MANNERS))
    def lose_power(self, manner: Manner) -> None:
        promised = self.rig.book.safe()
        self.rig.cut_power(manner)
        self.mend_the_disk()
        self.rig.check_and_start(promised)

    @rule()
    def stop_in_order(self) -> None:
        self.rig.stop()
        self.mend_the_disk()
        self.rig.check_and_start(self.rig.book.all())

    @rule(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def find_a_bit_flipped(self, where: float, bit: int) -> None:
        self.rig.kill()
        self.mend_the_disk()
        self.rig.flip(where, bit)
        self.rig.check_and_start(self.rig.book.all(), excused=1)

    @invariant()
    def nothing_beyond_the_book_is_queued(self) -> None:
        assert self.rig.running.queue().records <= sum(map(len, self.rig.book.attempts.values()))

    def teardown(self) -> None:
        try:
            if self.rig.journal is not None:
                self.rig.kill()
                self.mend_the_disk()
                self.rig.check_and_start(self.rig.book.all())
        finally:
            self.rig.close()
