"""The Unix-socket door: a stream of msgpack calls, one reply each, in order.

    call    {"call": "transactions" | "identify" | "answer" | "status", "ack": "os" | "disk", "body": {…}}
            {"call": "adapters", "name": "odoo", "ack": "os" | "disk", "body": b"…"}
            {"call": "queue_list", "start": 0} or {"call": "queue_retry", "wanted": {…}}
            {"call": "pair"} or {"call": "forget"}
    reply   {"status": 201, "body": {…}}  or  {"status": 400, "error": {…}}

Who may connect is a matter of the file: mode 0600 in a folder of mode 0700, so the agent's own user. No token is
asked for. Messages carry no length; msgpack's own parser finds their borders, within the limit of a hook's body. On
Windows a named pipe stands for the file: see `platforms.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import msgpack
from msgspec import UNSET, Struct, UnsetType

from tillstream_protocol.codec import encode, msgpack_decoder
from tillstream_protocol.errors import ErrorBody, InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.limits import KIB, Limits

from ..capture import Captured
from ..clock import Clock
from ..events import Events
from ..folder import StateError
from ..journal import JournalError
from ..platforms import Listening, listen
from ..queue import Page, Retried
from ..status import Status
from .counter import BasketReply, Taken
from .pairing import Code, Forgotten, Pairing
from .payloads import Adapted, Payloads
from .replies import Ack, Reply
from .requests import (
    AdapterCall,
    AnswerCall,
    BasketCall,
    Call,
    CaptureCall,
    Desk,
    ForgetCall,
    IdentifyCall,
    ObservationCall,
    PairCall,
    QueueCalls,
    QueueListCall,
    ReportCall,
    StatusCall,
    SurveyCall,
    TransactionCall,
    WishCall,
    status_of,
)

MAX_PATH: Final = 107
"""Bytes in the name of a Unix socket on Linux."""
_ENVELOPE: Final = 4 * KIB


class SocketReply(Struct, frozen=True):
    """One reply: `body` or `error`."""

    status: int
    body: Reply | BasketReply | Adapted | Status | Page | Retried | Code | Forgotten | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET


class Borders:
    """Cuts a byte stream into whole msgpack messages of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unpacker = msgpack.Unpacker(max_buffer_size=limit)
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now. Raises `TooLarge` or `InvalidInput`; then the rest is lost."""
        view = memoryview(data)
        while view:
            room = self._limit - len(self._buffer)
            if room <= 0:
                raise TooLarge("the message is too large", field="body", limit=f"{self._limit} bytes")
            part, view = view[:room], view[room:]
            self._unpacker.feed(part)
            self._buffer += part
            yield from self._cut()

    def _cut(self) -> Iterator[bytes]:
        while True:
            try:
                self._unpacker.skip()
            except msgpack.OutOfData:
                return
            except (ValueError, msgpack.UnpackException) as error:
                raise InvalidInput("this is not msgpack, or nested too deeply", field="body") from error
            end = self._unpacker.tell()
            size = end - self._start
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._start = end
            yield message


class SocketDoor:
    """Listens on the socket file."""

    def __init__(
        self,
        desk: Desk,
        payloads: Payloads,
        queue: QueueCalls,
        pairing: Pairing,
        events: Events,
        clock: Clock,
        *,
        limits: Limits,
    ) -> None:
        self.desk = desk
        self.payloads = payloads
        self.queue = queue
        self.pairing = pairing
        self.events = events
        self.clock = clock
        self.limit = limits.hook_body + _ENVELOPE
        self.decode = msgpack_decoder(cast("type[Call]", Call), limit=self.limit)
        self.connections: set[Connection] = set()
        self.closing = False
        self._server: Listening | None = None
        self._file: Path | None = None

    async def open(self, file: Path) -> None:
        """Listen. A socket left by a killed agent is replaced. Raises `StateError`."""
        if len(os.fsencode(file)) > MAX_PATH:
            raise StateError(
                f"the path of the socket {file} is too long",
                limit=f"{MAX_PATH} bytes",
                hint="choose a state folder with a shorter path",
            )
        try:
            file.unlink(missing_ok=True)
            self._server = await listen(lambda: Connection(self), file)
        except OSError as error:
            raise StateError(f"the socket {file} cannot be opened: {error.strerror}") from error
        self._file = file

    async def close(self) -> None:
        """Stop listening, and remove the file."""
        self.closing = True
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.abandon()
        if self._file is not None:
            self._file.unlink(missing_ok=True)


class Connection(asyncio.Protocol):
    """One POS. Calls are answered in the order in which they came, also while one waits for the disk."""

    def __init__(self, door: SocketDoor) -> None:
        self._door = door
        self._borders = Borders(door.limit)
        self._waiting: deque[bytes] = deque()
        self._busy: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._lost: TillstreamError | None = None
        """Why no further call can be told from what comes; what came before is still answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        if self._door.closing:  # it was accepted while the door closed
            self._transport.abort()
        self._door.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the loop's signature)
        """Called by the loop. A call that waits for the disk is finished: it was captured already."""
        self._door.connections.discard(self)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._lost is not None:
            return
        try:
            for message in self._borders.feed(data):
                self._waiting.append(message)
        except TillstreamError as error:
            self._lost = error
        self._answer_waiting()

    def pause_writing(self) -> None:
        """Called by the loop: the POS does not read its replies, so nothing more is read from it, or answered."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._answer_waiting()

    def abandon(self) -> None:
        """Close without waiting for the POS."""
        if self._busy is not None:
            self._busy.cancel()
        if self._transport is not None:
            if self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()

    def _answer_waiting(self) -> None:
        while self._waiting and self._busy is None and not self._paused:
            self._answer(self._waiting.popleft())
        if self._lost is not None and not self._waiting and self._busy is None:
            self._send(self._refusal(self._lost))
            self._hang_up()

    def _answer(self, message: bytes) -> None:
        door = self._door
        started = door.clock.monotonic()
        try:
            call = door.decode(message)
            if isinstance(call, ReportCall):
                self._send(SocketReply(200, self._report(call)))
                return
            if isinstance(call, ForgetCall):
                self._busy = asyncio.get_running_loop().create_task(self._forget())
                return
            if isinstance(call, AdapterCall):
                self._busy = asyncio.get_running_loop().create_task(self._reply_when_adapted(call, started))
                return
            captured = self._capture(call)
        except TillstreamError as error:
            self._send(self._refusal(error))
        except Exception as error:  # noqa: BLE001 (the border of the process: a defect must not end the door)
            self._send(self._crashed(error))
        else:
            if call.ack == "disk":
                self._busy = asyncio.get_running_loop().create_task(self._reply_when_durable(call, captured, started))
            else:
                self._reply(call, captured, started)

    def _report(self, call: ReportCall) -> Status | Page | Retried | Code:
        if isinstance(call, StatusCall):
            return self._door.desk.status()
        if isinstance(call, PairCall):
            return self._door.pairing.code()
        if isinstance(call, QueueListCall):
            return self._door.queue.page(call.start)
        return self._door.queue.retry(call.wanted)

    def _capture(self, call: CaptureCall) -> Captured | Taken:
        desk = self._door.desk
        if isinstance(call, TransactionCall):
            return desk.transaction(call.body)
        if isinstance(call, IdentifyCall):
            return desk.identify(call.body)
        if isinstance(call, BasketCall):
            return desk.basket(call.id, call.body)
        if isinstance(call, AnswerCall):
            return desk.answer(call.body.offer, call.body.answer)
        return desk.remark(call.body)

    async def _reply_when_durable(self, call: CaptureCall, done: Captured | Taken, started: float) -> None:
        try:
            await self._door.desk.durable(done)
            self._reply(call, done, started)
        except TillstreamError as error:
            self._send(self._refusal(error))
        finally:
            self._busy = None
        self._answer_waiting()

    async def _forget(self) -> None:
        try:
            self._send(SocketReply(200, await self._door.pairing.forget()))
        except TillstreamError as error:
            self._send(self._refusal(error))
        finally:
            self._busy = None
        self._answer_waiting()

    async def _reply_when_adapted(self, call: AdapterCall, started: float) -> None:
        door = self._door
        try:
            adapted = await door.payloads.take(call.name, call.body, call.ack)
            self._send(SocketReply(adapted.status, adapted))
            for one in adapted.transactions:
                door.events.captured("socket", "transaction", call.ack, repeat=one.repeat)
            door.events.adapted("socket", door.clock.monotonic() - started)
        except TillstreamError as error:
            self._send(self._refusal(error))
        except Exception as error:  # noqa: BLE001 (the border of the process: a defect must not end the door)
            self._send(self._crashed(error))
        finally:
            self._busy = None
        self._answer_waiting()

    def _crashed(self, error: Exception) -> SocketReply:
        self._door.events.crashed("socket", error)
        return SocketReply(500, error=TillstreamError("the agent failed on this call").body())

    def _reply(self, call: CaptureCall, done: Captured | Taken, started: float) -> None:
        ack: Ack = call.ack
        reply = self._door.desk.reply(done, ack, always_effects=isinstance(call, IdentifyCall))
        self._send(SocketReply(200 if done.repeat else 201, reply))
        seconds = self._door.clock.monotonic() - started
        if isinstance(done, Taken) and done.captured is None:
            self._door.events.weighed(seconds)
        else:
            self._door.events.captured("socket", _KINDS[type(call)], ack, repeat=done.repeat, seconds=seconds)

    def _refusal(self, error: TillstreamError) -> SocketReply:
        field = error.field.removeprefix("body.") if error.field else error.field
        if isinstance(error, JournalError):
            self._door.events.capture_failed("socket", error)
        else:
            self._door.events.refused("socket", error)
        body = ErrorBody(error.code, error.message, field, error.limit, error.hint, error.retryable)
        return SocketReply(status_of(error), error=body)

    def _send(self, reply: SocketReply) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(reply))

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()


_KINDS: Final[dict[type[Any], str]] = {
    TransactionCall: "transaction",
    IdentifyCall: "member_identified",
    AnswerCall: "offer_answered",
    BasketCall: "basket_changed",
    ObservationCall: "observation",
    SurveyCall: "survey_answer",
    WishCall: "wish_list_entry",
}
