"""From the journal to the server.

`UploadFlow` decides, without I/O: what to send next, what an answer means, how long to wait. `Uploader` drives it.

- Live records go first; while a backlog drains, the two lanes take turns.
- Once the server is heard again after trouble with more than one batch waiting, a fresh chunk is begun, so that what
  happens now overtakes what has waited.
- Nothing but an acknowledgement takes a record out of the queue. No refusal ever touches the identity.
- Every send that brings nothing forward is followed by a wait, or by a smaller batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from tillstream_protocol.backoff import full_jitter
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.limits import KIB, Limits
from tillstream_protocol.messages import Batch, BatchReply, Range, decode_batch_reply
from tillstream_protocol.ranges import count, merge
from tillstream_protocol.signing import SignKey, sign_request

from ..clock import Clock
from ..events import Events
from ..journal import JournalError, Queue, Slice
from .link import Link
from .transport import Response, Transport, Unreachable

PATH: Final = "/till/v1/batches"
Lane = Literal["live", "backlog"]
Outcome = Literal["authentication", "confused", "refused", "revoked", "too_large", "unavailable", "version"]

SLOW_S: Final[Mapping[Outcome, float]] = {"authentication": 60.0, "revoked": 900.0, "version": 300.0}
"""Where only people can help: seconds between tries, spread by half to both sides."""
POISON_S: Final = 300.0
"""Seconds between tries of a single record that the server refuses as it is."""
_OVERHEAD: Final = 16 * KIB


class SendQueue(Protocol):
    """What the flow needs of the journal."""

    def next_slice(self, lane: Lane, max_bytes: int) -> Slice | None:
        """The oldest frames of a lane that are not acknowledged."""
        ...

    def acknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> None:
        """The server holds these."""
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
class Failure:
    """Why a batch was not acknowledged. `retry_after` is what the server asked for, in seconds."""

    outcome: Outcome
    code: str
    reason: str
    retry_after: float = 0.0


def interpret(response: Response) -> BatchReply | Failure:
    """What the server's answer to a batch means."""
    if 200 <= response.status < 300:
        try:
            return decode_batch_reply(response.body)
        except InvalidInput as error:
            return Failure("confused", error.code, f"the answer cannot be read: {error.message}")
    told = response.error()
    return Failure(_outcome(response.status, told.code), told.code, told.message, response.retry_after or 0.0)


def _outcome(status: int, code: str) -> Outcome:
    if status >= 500 or status == 429:
        return "unavailable"
    if code == "version_mismatch" or status == 426:
        return "version"
    by_status: dict[int, Outcome] = {401: "authentication", 403: "revoked", 400: "refused", 413: "too_large"}
    return by_status.get(status, "confused")


class UploadFlow:
    """Decides what to send when. Times are seconds of the monotonic clock; `uniform` gives numbers in [0, 1)."""

    def __init__(
        self, queue: SendQueue, events: Events, link: Link, uniform: Callable[[], float], limits: Limits
    ) -> None:
        self._queue = queue
        self._events = events
        self._link = link
        self._uniform = uniform
        self._limits = limits
        self._cap = limits.batch
        self._sizes: dict[Lane, int] = {"live": limits.batch, "backlog": limits.batch}
        self._not_before: dict[Lane, float] = {"live": 0.0, "backlog": 0.0}
        self._last: Lane = "backlog"
        self._poison: dict[tuple[bytes, int], float] = {}
        """Records refused as they are, by epoch and seq, and when each is tried again."""
        self._in_trouble = False
        self._backoff = full_jitter(uniform)

    def next(self, now: float) -> Send | Rest:
        """What to do now. Raises `JournalError`."""
        waits: list[float] = []
        for lane in self._order():
            wait = self._not_before[lane] - now
            if wait > 0:
                waits.append(wait)
                continue
            found = self._queue.next_slice(lane, self._sizes[lane])
            if found is None:
                continue
            due = self._poison.get((found.epoch, found.first))
            if due is None:
                return Send(found)
            if due <= now:
                return Send(self._queue.next_slice(lane, 1) or found)
            waits.append(due - now)
        return Rest(min(waits, default=None), for_news=len(waits) < len(self._not_before))

    def acknowledged(self, sent: Slice, reply: BatchReply, now: float) -> bool:
        """Take an answer in. False, and a wait, if it acknowledges nothing of what was sent."""
        held = _within(reply, sent)
        if not held:
            self.failed(sent, Failure("confused", "confused", "the answer acknowledges nothing that was sent"), now)
            return False
        self._queue.acknowledge(sent.epoch, held)
        self._events.uploaded(sent.lane, count(held), repeated=reply.repeated, dead=len(reply.dead))
        self._link.told_time(reply.server_ms)
        self._poison.pop((sent.epoch, sent.first), None)
        self._link.upload_done("poison" if self._poison else "")
        self._last = sent.lane
        self._pace(sent.lane, reply, now)
        if self._in_trouble:
            self._in_trouble = False
            self._backoff = full_jitter(self._uniform)
            self._catch_up()
        return True

    def failed(self, sent: Slice, failure: Failure, now: float) -> None:
        """Take in that a batch was not acknowledged."""
        if failure.outcome in ("refused", "too_large"):
            wait = self._shrink(sent, now)
            self._link.upload_failed("poison" if self._poison else self._link.upload_trouble, heard=True)
        else:
            wait = self._hold_off(failure, now)
            self._in_trouble = True
            self._link.upload_failed(failure.outcome, heard=failure.outcome != "unavailable")
        self._events.upload_failed(failure.outcome, failure.code, failure.reason, retry_s=wait)

    def _order(self) -> tuple[Lane, Lane]:
        return ("backlog", "live") if self._last == "live" else ("live", "backlog")

    def _pace(self, lane: Lane, reply: BatchReply, now: float) -> None:
        """Go on as the server asks; a lane whose batches had to shrink grows back step by step."""
        self._cap = min(reply.pace.max_bytes, self._limits.batch_body - _OVERHEAD)
        self._sizes[lane] = min(self._cap, self._sizes[lane] * 2)
        self._not_before[lane] = now + reply.pace.pause_ms / 1000

    def _catch_up(self) -> None:
        waiting = self._queue.queue()
        self._events.link_back(queued=waiting.records)
        if waiting.bytes > self._limits.batch:
            self._begin_fresh_chunk()

    def _hold_off(self, failure: Failure, now: float) -> float:
        slow = SLOW_S.get(failure.outcome)
        wait = next(self._backoff) if slow is None else slow * (0.5 + self._uniform())
        wait = max(wait, failure.retry_after)
        for lane in self._not_before:
            self._not_before[lane] = max(self._not_before[lane], now + wait)
        return wait

    def _shrink(self, sent: Slice, now: float) -> float:
        """Halve the batch. A single record that is refused as it is waits, and holds up no live record."""
        if sent.first != sent.last:
            self._sizes[sent.lane] = max(1, len(sent.frames) // 2)
            return 0.0
        wait = POISON_S * (0.5 + self._uniform())
        self._poison[sent.epoch, sent.first] = now + wait
        self._sizes[sent.lane] = self._cap
        if sent.lane == "live":
            self._begin_fresh_chunk()
        return wait

    def _begin_fresh_chunk(self) -> None:
        try:
            self._queue.roll()
        except JournalError as error:
            self._events.housekeeping_failed("fresh chunk", error)


def _within(reply: BatchReply, sent: Slice) -> tuple[Range, ...]:
    """The part of an acknowledgement that is about what was sent: a server's mistake must not lose a record."""
    if reply.epoch != sent.epoch:
        return ()
    return merge(
        Range(max(part.first, sent.first), min(part.last, sent.last))
        for part in reply.acked
        if part.first <= sent.last and part.last >= sent.first
    )


class Uploader:
    """Drives the flow over a transport, for as long as the agent runs. `wake` tells it of new records."""

    def __init__(self, flow: UploadFlow, transport: Transport, device: SignKey, clock: Clock, events: Events) -> None:
        self._flow = flow
        self._transport = transport
        self._device = device
        self._clock = clock
        self._events = events
        self._news = asyncio.Event()
        self.acknowledged = asyncio.Event()
        """Set whenever the server has acknowledged something."""

    def wake(self) -> None:
        """There may be something to send."""
        self._news.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            self._news.clear()
            try:
                step = self._flow.next(self._clock.monotonic())
            except JournalError as error:
                self._events.housekeeping_failed("read the journal", error)
                step = Rest(1.0, for_news=False)
            if isinstance(step, Send):
                await self._send(step.slice)
            else:
                await self._rest(step)

    async def _send(self, found: Slice) -> None:
        answer = await self._exchange(found)
        now = self._clock.monotonic()
        if isinstance(answer, Failure):
            self._flow.failed(found, answer, now)
        elif self._flow.acknowledged(found, answer, now):
            self.acknowledged.set()

    async def _exchange(self, found: Slice) -> BatchReply | Failure:
        created = self._clock.now_ms() // 1000
        body, headers = await asyncio.to_thread(prepare, found, self._device, created)
        try:
            return interpret(await self._transport.post(PATH, body, headers))
        except Unreachable as error:
            return Failure("unavailable", error.code, error.message)

    async def _rest(self, rest: Rest) -> None:
        if not rest.for_news:
            await asyncio.sleep(rest.seconds or 0.0)
            return
        try:
            async with asyncio.timeout(rest.seconds):  # wait_for would lose a cancellation that comes with the news
                await self._news.wait()
        except TimeoutError:
            return


def prepare(found: Slice, device: SignKey, created: int) -> tuple[bytes, dict[str, str]]:
    """A slice as a signed request's body and headers; `created` is in seconds since 1970."""
    body = encode(Batch(found.header, found.frames, found.lane))
    return body, sign_request(device, "POST", PATH, body, created=created)
