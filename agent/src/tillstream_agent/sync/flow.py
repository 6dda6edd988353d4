"""What to send next, and how long to wait: the upload without I/O.

- Live records go first; while a backlog drains, the lanes take turns, and so do records that were refused before.
- Once the server is heard again after trouble with more than one batch waiting, a fresh chunk is begun, so that what
  happens now overtakes what has waited.
- Nothing but an acknowledgement takes a record out of the queue. No refusal ever touches the identity.
- A record that is refused as it is holds up nothing: see `refusals`.
- A run that captured nothing is told of by its header alone, once the backlog has nothing else: later runs name it as
  what they follow.
- What an earlier enrolment left (the lane `former`) is refused without consequence for anything else.
- Every send that brings nothing forward is followed by a wait, or by another batch than before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from tillstream_protocol.backoff import full_jitter
from tillstream_protocol.framing import Frame, scan
from tillstream_protocol.limits import KIB, Limits
from tillstream_protocol.messages import BatchReply, Range
from tillstream_protocol.ranges import contains, count, merge

from ..events import Events
from ..journal import JournalError, Lane, Queue, Slice
from ..letters import Key, Letters, by_epoch
from .answers import ABOUT_THE_CHUNK, Failure, Outcome
from .link import Link
from .refusals import Refusals

Turn = Literal["live", "backlog", "former", "again"]

SLOW_S: Final[Mapping[Outcome, float]] = {"authentication": 60.0, "revoked": 900.0, "version": 300.0}
"""Where only people can help: seconds between tries, spread by half to both sides."""
FORMER_S: Final = 900.0
"""The same where an earlier enrolment's records are refused."""
UNREADABLE_S: Final = 1.0
"""Seconds until a lane is read again that could not be."""
_TURNS: Final[tuple[Turn, ...]] = ("live", "backlog", "former", "again")
_CURRENT: Final[tuple[Lane, ...]] = ("live", "backlog")
_OVERHEAD: Final = 16 * KIB


class SendQueue(Protocol):
    """What the flow needs of the journal."""

    def next_slice(self, lane: Lane, max_bytes: int) -> Slice | None:
        """The oldest frames of a lane that are neither acknowledged nor set aside."""
        ...

    def next_header(self) -> Slice | None:
        """The header of a run that captured nothing, without frames."""
        ...

    def told(self, epoch: bytes) -> None:
        """The server was told of that run."""
        ...

    def lane_of(self, epoch: bytes, seq: int) -> Lane | None:
        """The lane in which a record that is here would be sent."""

    def slice_of(self, epoch: bytes, seq: int) -> Slice | None:
        """One record that is not acknowledged, set aside or not."""
        ...

    def acknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> None:
        """The server holds these."""
        ...

    def set_aside(self, epoch: bytes, seq: int) -> None:
        """Pass a record over from now on."""
        ...

    def take_up(self, epoch: bytes, ranges: Iterable[Range]) -> int:
        """Pass these over no longer; how many there were."""
        ...

    def queue(self) -> Queue:
        """How much waits."""
        ...

    def roll(self) -> None:
        """Begin a fresh chunk."""
        ...


@dataclass(frozen=True, slots=True)
class Send:
    """Send this slice now."""

    slice: Slice


@dataclass(frozen=True, slots=True)
class Rest:
    """Wait `seconds` (None: as long as it takes); new records end the wait only if `for_news`."""

    seconds: float | None
    for_news: bool


@dataclass(frozen=True, slots=True)
class _Suspect:
    """Somewhere from `first` to `last`, in so many bytes, is a record that the server refuses."""

    epoch: bytes
    first: int
    last: int
    bytes: int


class UploadFlow:
    """Decides what to send when. Times are seconds of the monotonic clock; `uniform` gives numbers in [0, 1)."""

    def __init__(
        self,
        queue: SendQueue,
        events: Events,
        link: Link,
        uniform: Callable[[], float],
        limits: Limits,
        letters: Letters,
    ) -> None:
        self._queue = queue
        self._events = events
        self._link = link
        self._uniform = uniform
        self._limits = limits
        self._letters = letters
        self._refusals = Refusals(letters, limits.tries, uniform)
        self._cap = limits.batch
        self._sizes: dict[Lane, int] = {"live": limits.batch, "backlog": limits.batch, "former": limits.batch}
        self._suspects: dict[Lane, _Suspect] = {}
        self._not_before: dict[Lane, float] = {"live": 0.0, "backlog": 0.0, "former": 0.0}
        self._turn = 0
        self._in_trouble = False
        self._backoff = full_jitter(uniform)
        if letters.here:
            link.upload_trouble = "poison"

    def next(self, now: float) -> Send | Rest:
        """What to do now."""
        waits = [wait for lane in self._not_before if (wait := self._not_before[lane] - now) > 0]
        for step in range(len(_TURNS)):
            turn = _TURNS[(self._turn + step) % len(_TURNS)]
            try:
                found = self._refused_before(now, waits) if turn == "again" else self._of_lane(turn, now)
            except JournalError as error:
                self._events.housekeeping_failed("read the journal", error)
                waits.append(UNREADABLE_S)
                continue
            if found is not None:
                self._turn = (self._turn + step + 1) % len(_TURNS)
                return Send(found)
        return Rest(min(waits, default=None), for_news=any(self._not_before[lane] <= now for lane in _CURRENT))

    def acknowledged(self, sent: Slice, reply: BatchReply, now: float) -> bool:
        """Take an answer in. False, and a wait, if it acknowledges nothing of what was sent."""
        held = _within(reply, sent)
        heard = bool(held) if sent.frames else reply.epoch == sent.epoch
        if not heard:
            self.failed(sent, Failure("confused", "confused", "the answer acknowledges nothing that was sent"), now)
            return False
        if sent.frames:
            self._queue.acknowledge(sent.epoch, held)
            self._settle(sent, held, reply)
            self._refusals.acknowledged(now)
        else:
            self._queue.told(sent.epoch)
        self._link.told_time(reply.server_ms)
        self._narrow(sent)
        self._pace(sent.lane, reply, now)
        if sent.lane != "former":
            self._link.upload_done("poison" if self._letters.here else "")
            self._recover()
        return True

    def failed(self, sent: Slice, failure: Failure, now: float) -> bool:
        """Take in that a batch was not acknowledged. True if there is something new to remember of its records."""
        known = self._letters.refusals
        if not sent.frames and failure.outcome in ("refused", "too_large"):
            self._queue.told(sent.epoch)  # nothing would change if it were said again
            wait = 0.0
        elif failure.outcome == "unavailable":
            wait = self._trouble(failure, now, ("live", "backlog", "former"), heard=False)
        elif sent.lane == "former" and not self._is_about_the_records(failure):
            wait = max(FORMER_S * (0.5 + self._uniform()), failure.retry_after)
            self._hold(("former",), now + wait)
        elif failure.outcome in ("refused", "too_large"):
            wait = self._refused(sent, failure, now)
        else:
            wait = self._trouble(failure, now, _CURRENT, heard=True)
        self._events.upload_failed(failure.outcome, failure.code, failure.reason, retry_s=wait)
        return self._letters.refusals != known

    def try_again(self, keys: Iterable[Key]) -> int:
        """Queue records again that were set aside, as if they had never been refused; how many there were."""
        wanted = [key for key in keys if key in self._letters.here]
        taken = sum(self._queue.take_up(epoch, ranges) for epoch, ranges in by_epoch(wanted).items())
        self._refusals.forget(wanted)
        self._letters.forget(wanted)
        if self._link.upload_trouble == "poison" and not self._letters.here:
            self._link.upload_trouble = ""
        return taken

    # What is next

    def _of_lane(self, lane: Lane, now: float) -> Slice | None:
        if self._not_before[lane] > now:
            return None
        if self._refusals.in_doubt:
            return self._queue.next_slice(lane, 1)
        suspect = self._suspects.get(lane)
        if suspect is not None:
            found = self._queue.next_slice(lane, max(1, suspect.bytes // 2))
            if found is None or (found.epoch == suspect.epoch and suspect.first <= found.first <= suspect.last):
                return found
            del self._suspects[lane]
        found = self._queue.next_slice(lane, self._sizes[lane])
        return self._queue.next_header() if found is None and lane == "backlog" else found

    def _refused_before(self, now: float, waits: list[float]) -> Slice | None:
        """The record that was refused before and is to be tried again now."""
        due = self._refusals.next_due()
        if due is None:
            return None
        key, at = due
        if at > now:
            waits.append(at - now)
            return None
        lane = self._queue.lane_of(*key)
        if lane is not None and self._not_before[lane] > now:
            self._refusals.hold(key, self._not_before[lane])
            waits.append(0.0)
            return None
        found = self._read_alone(key)
        if found is None:
            self._refusals.postpone(key, now)
            waits.append(UNREADABLE_S)
        return found

    def _read_alone(self, key: Key) -> Slice | None:
        try:
            return self._queue.slice_of(*key)
        except JournalError as error:
            self._events.housekeeping_failed("read the journal", error)
            return None

    # What an answer means

    def _settle(self, sent: Slice, held: tuple[Range, ...], reply: BatchReply) -> None:
        dead = {letter.seq: letter for letter in reply.dead if contains(held, letter.seq)}
        recovered = self._letters.taken(sent.epoch, held, dead)
        self._refusals.forget(recovered)
        new = 0
        for seq, kind in _kinds(sent) if dead else ():
            if seq in dead:
                new += self._letters.dead((sent.epoch, seq), kind, dead[seq].code, dead[seq].reason)
        self._events.uploaded(sent.lane, count(held), repeated=reply.repeated, dead=new)
        if recovered:
            self._events.recovered(len(recovered))

    def _narrow(self, sent: Slice) -> None:
        """What was just taken is no longer suspected."""
        suspect = self._suspects.get(sent.lane)
        if suspect is None or sent.epoch != suspect.epoch or sent.first < suspect.first:
            return
        left = suspect.bytes - len(sent.frames)
        if sent.last >= suspect.last or left <= 0:
            del self._suspects[sent.lane]
        else:
            self._suspects[sent.lane] = _Suspect(suspect.epoch, sent.last + 1, suspect.last, left)

    def _pace(self, lane: Lane, reply: BatchReply, now: float) -> None:
        """Go on as the server asks; a lane whose batches had to shrink grows back step by step."""
        self._cap = min(reply.pace.max_bytes, self._limits.batch_body - _OVERHEAD)
        self._sizes[lane] = min(self._cap, self._sizes[lane] * 2)
        self._not_before[lane] = now + reply.pace.pause_ms / 1000

    def _recover(self) -> None:
        if not self._in_trouble:
            return
        self._in_trouble = False
        self._backoff = full_jitter(self._uniform)
        waiting = self._queue.queue()
        self._events.link_back(queued=waiting.records)
        if waiting.bytes > self._limits.batch:
            try:
                self._queue.roll()
            except JournalError as error:
                self._events.housekeeping_failed("fresh chunk", error)

    # What a refusal means

    def _is_about_the_records(self, failure: Failure) -> bool:
        return failure.outcome in ("refused", "too_large") and failure.code not in ABOUT_THE_CHUNK

    def _refused(self, sent: Slice, failure: Failure, now: float) -> float:
        """Halve the batch until one record is left; set that aside. Returns how long to wait."""
        current = sent.lane != "former"
        if sent.first != sent.last and failure.code not in ABOUT_THE_CHUNK:
            self._halve(sent, failure)
            if current:
                self._link.upload_failed(self._link.upload_trouble, heard=True)
            return 0.0
        room = not self._letters.full or (sent.epoch, sent.first) in self._letters.here
        if room:
            self._set_aside(sent, failure, now)
        if not room or self._refusals.in_doubt:
            confused = replace(failure, outcome="confused")
            return self._trouble(confused, now, _CURRENT if current else ("former",), heard=True)
        if current:
            self._link.upload_failed("poison", heard=True)
        return 0.0

    def _halve(self, sent: Slice, failure: Failure) -> None:
        if failure.outcome == "too_large":
            self._sizes[sent.lane] = max(1, len(sent.frames) // 2)
        else:
            self._suspects[sent.lane] = _Suspect(sent.epoch, sent.first, sent.last, len(sent.frames))

    def _set_aside(self, sent: Slice, failure: Failure, now: float) -> None:
        """One record, or all of a slice whose chunk is refused as a whole."""
        self._suspects.pop(sent.lane, None)
        self._sizes[sent.lane] = self._cap
        dead = 0
        for seq, kind in _kinds(sent):
            self._queue.set_aside(sent.epoch, seq)
            casts_doubt = seq == sent.first and sent.lane != "former"
            letter = self._refusals.refused(
                (sent.epoch, seq), kind, failure.code, failure.reason, now, casts_doubt=casts_doubt
            )
            dead += self._refusals.is_dead(letter)
        self._events.set_aside(failure.code, failure.reason, records=sent.last - sent.first + 1, dead=dead)

    def _trouble(self, failure: Failure, now: float, lanes: tuple[Lane, ...], *, heard: bool) -> float:
        """Hold lanes back until the trouble may be over. Returns for how long."""
        slow = SLOW_S.get(failure.outcome)
        wait = next(self._backoff) if slow is None else slow * (0.5 + self._uniform())
        wait = max(wait, failure.retry_after)
        self._hold(lanes, now + wait)
        if "live" in lanes:
            self._in_trouble = True
            self._link.upload_failed(failure.outcome, heard=heard)
        return wait

    def _hold(self, lanes: tuple[Lane, ...], until: float) -> None:
        for lane in lanes:
            self._not_before[lane] = max(self._not_before[lane], until)


def _within(reply: BatchReply, sent: Slice) -> tuple[Range, ...]:
    """The part of an acknowledgement that is about what was sent: a server's mistake must not lose a record."""
    if reply.epoch != sent.epoch:
        return ()
    return merge(
        Range(max(part.first, sent.first), min(part.last, sent.last))
        for part in reply.acked
        if part.first <= sent.last and part.last >= sent.first
    )


def _kinds(sent: Slice) -> Iterator[tuple[int, int]]:
    """Seq and kind of every record of a slice, from the clear headers."""
    return ((part.header.seq, part.header.kind) for part in scan(sent.frames) if isinstance(part, Frame))
