"""`POST /till/v1/batches`: from a request to an acknowledgement.

The reply leaves after the commit, never before; what the commit set off is pushed beside it. Whatever is refused is
counted by its reason. A revoked device's batch is quarantined first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from aiohttp import web

from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import Damaged, InvalidInput, TillstreamError
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.signing import BadSignature

from ..clock import Clock
from ..devices import Device, Devices
from ..events import Events
from ..ledger.database import Database, LedgerFault
from ..pipeline.opening import ForeignChunk
from ..pipeline.outcome import Outcome
from ..pipeline.process import Pipeline
from . import dead_letters, quarantine
from .dead_letters import Letter, Replayed
from .flow import Flow
from .hub import Hub
from .requests import Revoked, UnknownDevice, body_of, sender_of

ReadAgain = Callable[[Letter], Awaitable[bool | None]]
"""Whether a letter was taken; None for one that it does not know how to read."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes batches from tills, from the quarantine, from dead letters, and from a file that somebody brings."""

    database: Database
    devices: Devices
    pipeline: Pipeline
    hub: Hub
    flow: Flow
    clock: Clock
    events: Events

    async def post(self, request: web.Request) -> web.Response:
        """One batch in, its acknowledgement out."""
        try:
            reply = await self._receive(request)
        except web.HTTPRequestEntityTooLarge:
            self.events.batch_refused("too_large", "body")
            raise
        except TillstreamError as error:
            self.events.batch_refused(_outcome(error), error.code)
            raise
        except Exception:
            self.events.batch_refused("failed", "unexpected_error")
            raise
        return web.Response(body=encode(reply), content_type=messages.CONTENT_TYPE)

    async def _receive(self, request: web.Request) -> messages.BatchReply:
        body = await body_of(request)
        sender = await sender_of(request, body, self.devices)
        with self.flow.one():  # entered by enrolled devices only, and never while a body is still on its way
            if sender.revoked:
                await self._set_aside(sender, body)
            await self.devices.heard(sender)
            return await self.take(sender, messages.decode_batch(body))

    async def _set_aside(self, sender: Device, body: bytes) -> None:
        messages.decode_batch(body)
        async with self.database.write() as conn:
            await quarantine.hold(conn, sender.till_id, "revoked", body, self.clock.now_ms())
        raise Revoked("this till is revoked", hint="ask head office; the queue is kept")

    async def take(self, sender: Device, batch: messages.Batch) -> messages.BatchReply:
        """Take what a till sends, and say so. The till knows nothing of it before it has the reply, and sends again.

        Raises what `Pipeline.process` does, and `ForeignChunk` for a chunk of another till.
        """
        start = self.clock.monotonic()
        header = ChunkHeader.decode(batch.header)
        outcome = await self._process(await self._writer(sender, header), header, batch)
        seconds = self.clock.monotonic() - start
        self.events.batch_taken(batch.lane, outcome.counts, seconds, whole=not outcome.gaps)
        self.events.came_in(outcome.tally.bodies, outcome.tally.transactions, outcome.tally.amounts)
        return messages.BatchReply(
            epoch=header.epoch,
            acked=outcome.reply_acked,
            repeated=outcome.repeated,
            dead=outcome.dead,
            pace=self.flow.pace(batch.lane),
            server_ms=self.clock.now_ms(),
        )

    async def _process(self, writer: Device, header: ChunkHeader, batch: messages.Batch) -> Outcome:
        try:
            outcome = await self.pipeline.process(writer, batch)
        except BadSignature as error:  # the chunk's; the request's own signature was good
            raise ForeignChunk("the chunk's header is not its device's", field="header") from error
        for till_id, push in outcome.pushes:
            self.hub.send(till_id, push)
        for seq in outcome.conflicts:
            self.events.conflict(header.till, header.epoch, seq)
        for alarm in outcome.alarms:
            self.events.alarm(alarm.kind, alarm.till_id, alarm.epoch)
        for reason in outcome.lost:
            self.events.records_lost(header.till, reason)
        return outcome

    async def _writer(self, sender: Device, header: ChunkHeader) -> Device:
        """The device that wrote the chunk: the sender, or one that spoke for the same till before it."""
        if header.till != sender.till_id:
            raise ForeignChunk("the chunk was written by another till", field="header.till")
        if header.device_key_id == sender.key_id:
            return sender
        return await self._former(header)

    async def _former(self, header: ChunkHeader) -> Device:
        """The device that wrote a chunk, if it spoke for the chunk's till, whenever that was."""
        writer = await self.devices.find(header.device_key_id)
        if writer is None or writer.till_id != header.till:
            raise ForeignChunk("the chunk's device never spoke for this till", field="header.device_key_id")
        return replace(writer, revoked=False)

    async def take_imported(self, batch: messages.Batch) -> Outcome:
        """Take a batch that somebody carried here: the signature in its chunk's header vouches for it.

        Raises `UnknownDevice`, or what `Pipeline.process` does.
        """
        header = ChunkHeader.decode(batch.header)
        if await self.devices.find(header.device_key_id) is None:
            hint = "import it at the server that the till is enrolled with"
            raise UnknownDevice("the chunk's device is not enrolled here", field="header.device_key_id", hint=hint)
        return await self._process(await self._former(header), header, batch)

    async def replay(self, ids: Collection[int] | None = None, read_again: ReadAgain | None = None) -> Replayed:
        """Try dead letters again, those with these ids or all. One that still cannot be taken stays, and says why.

        `read_again` has the first look: it takes those that hold no record, but what one may be read from.
        """
        retried = taken = 0
        async with self.database.read() as conn:
            wanted = await dead_letters.ids(conn, ids)
        for id_ in wanted:
            async with self.database.read() as conn:
                letter = await dead_letters.find(conn, id_)
            if letter is not None:
                retried += 1
                again = None if read_again is None else await read_again(letter)
                taken += await self._replay(letter) if again is None else again
        self.events.replayed(retried, taken)
        return Replayed(retried, taken)

    async def _replay(self, letter: Letter) -> bool:
        header = ChunkHeader.decode(letter.header)
        try:
            outcome = await self._process(await self._former(header), header, letter.batch())
        except LedgerFault:
            raise
        except TillstreamError as error:
            self.events.batch_refused(_outcome(error), error.code)
            return False
        for still in outcome.dead:
            async with self.database.write() as conn:
                await dead_letters.say_why(conn, letter, still)
        return not outcome.dead

    async def release(self, till_id: bytes) -> int:
        """Take a till's quarantined batches after all; how many. One that still cannot be taken stays."""
        released, after = 0, 0
        while True:
            async with self.database.read() as conn:
                held = await quarantine.next_held(conn, till_id, after)
            if held is None:
                self.events.released(released)
                return released
            after = held.id
            released += await self._release(held)

    async def _release(self, held: quarantine.Held) -> bool:
        batch = messages.decode_batch(held.body)
        try:
            header = ChunkHeader.decode(batch.header)
            if header.till != held.till_id:
                raise ForeignChunk("the chunk was written by another till", field="header.till")
            await self._process(await self._former(header), header, batch)
        except TillstreamError as error:
            self.events.batch_refused(_outcome(error), error.code)
            return False
        async with self.database.write() as conn:
            await quarantine.drop(conn, held)
        return True


def _outcome(error: TillstreamError) -> str:
    if error.code in {"unsigned", "bad_signature", "unknown_device", "revoked", "too_large", "busy"}:
        return error.code
    if isinstance(error, InvalidInput):
        return "invalid_input"
    return "damaged" if isinstance(error, Damaged) else "failed"
