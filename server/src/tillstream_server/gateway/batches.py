"""`POST /till/v1/batches`: from a request to an acknowledgement.

The reply leaves after the commit, never before; what the commit set off is pushed beside it. Whatever is refused is
counted by its reason. A revoked device's batch is quarantined first.
"""

from __future__ import annotations

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
from ..ledger.database import Database
from ..pipeline.opening import ForeignChunk
from ..pipeline.process import Outcome, Pipeline
from . import quarantine
from .flow import Flow
from .hub import Hub
from .requests import Revoked, body_of, sender_of


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes batches from tills, and from the quarantine."""

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
            return await self._take(sender, messages.decode_batch(body))

    async def _set_aside(self, sender: Device, body: bytes) -> None:
        messages.decode_batch(body)
        async with self.database.write() as conn:
            await quarantine.hold(conn, sender.till_id, "revoked", body, self.clock.now_ms())
        raise Revoked("this till is revoked", hint="ask head office; the queue is kept")

    async def _take(self, sender: Device, batch: messages.Batch) -> messages.BatchReply:
        start = self.clock.monotonic()
        header = ChunkHeader.decode(batch.header)
        outcome = await self._process(await self._writer(sender, header), header, batch)
        self.events.batch_taken(batch.lane, outcome.counts, self.clock.monotonic() - start)
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
        if outcome.forked:
            self.events.forked(header.till, header.epoch)
        return outcome

    async def _writer(self, sender: Device, header: ChunkHeader) -> Device:
        """The device that wrote the chunk: the sender, or one that spoke for the same till before it."""
        if header.till != sender.till_id:
            raise ForeignChunk("the chunk was written by another till", field="header.till")
        if header.device_key_id == sender.key_id:
            return sender
        former = await self.devices.find(header.device_key_id)
        if former is None or former.till_id != sender.till_id:
            raise ForeignChunk("the chunk's device never spoke for this till", field="header.device_key_id")
        return replace(former, revoked=False)

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
            writer = await self.devices.find(header.device_key_id)
            if writer is None or writer.till_id != held.till_id:
                raise ForeignChunk("the chunk's device never spoke for this till", field="header.device_key_id")
            await self._process(replace(writer, revoked=False), header, batch)
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
