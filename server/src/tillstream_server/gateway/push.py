"""`GET /till/v1/push`: the WebSocket round a `PushSession`.

Two loops share one session: one reads what the till says, one writes what its line holds. Whichever ends first ends
both; the close code tells the till why.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from tillstream_protocol import ranges, versions
from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import PackPush, Present, Push, Receipt

from ..auth import Randomness
from ..clock import Clock
from ..devices import Device, Devices
from ..events import Events
from ..ledger import outbox, received
from ..ledger.database import Database
from .deliveries import Deliveries
from .hub import Ending, Hub, Line
from .notes import Notes
from .requests import Revoked, UnknownDevice
from .session import PushSession
from .settings import SettingsDesk

PRESENT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
CLOSE_CODES: Final[dict[Ending, int]] = {
    "closed": WSCloseCode.OK,
    "replaced": 4409,
    "revoked": 4403,
    "refused": 4401,
    "broken": WSCloseCode.PROTOCOL_ERROR,
    "failed": WSCloseCode.INTERNAL_ERROR,
    "shutdown": WSCloseCode.GOING_AWAY,
}


class NotBinary(InvalidInput):
    """The channel carries msgpack in binary messages, and nothing else."""

    code = "not_binary"


@dataclass(frozen=True, slots=True)
class PushChannel:
    """Lets tills onto the channel and serves them."""

    database: Database
    devices: Devices
    hub: Hub
    notes: Notes
    deliveries: Deliveries
    settings: SettingsDesk
    clock: Clock
    random: Randomness
    events: Events
    ping_seconds: float

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one till until either side ends it."""
        socket = web.WebSocketResponse(
            heartbeat=self.ping_seconds,
            max_msg_size=DEFAULT.push_message,
            compress=False,
            timeout=CLOSE_SECONDS,
            protocols=versions.subprotocols(),
        )
        await socket.prepare(request)
        revision = versions.revision_of(socket.ws_protocol)
        session = PushSession(self.random(16), self.clock.now_ms(), revision)
        try:
            device, present = await self._let_in(socket, session)
        except (TillstreamError, TimeoutError) as error:
            reason = error.code if isinstance(error, TillstreamError) else "silent"
            self.events.push_refused(reason)
            code = CLOSE_CODES["revoked" if isinstance(error, Revoked) else "refused"]
            await socket.close(code=code, message=reason.encode())
            return socket
        await self._host(socket, session, device, present)
        return socket

    async def _let_in(self, socket: web.WebSocketResponse, session: PushSession) -> tuple[Device, Present]:
        await socket.send_bytes(session.greeting)
        async with asyncio.timeout(PRESENT_SECONDS):
            data = await _next(socket)
        if data is None:
            raise NotBinary("the till left before it said who it is")
        present = session.present(data)
        device = await self.devices.find(present.device_key_id)
        if device is None:
            raise UnknownDevice("this device is not enrolled here")
        session.admit(device)
        if device.revoked:
            raise Revoked("this till is revoked")
        await self.devices.heard(device)
        return device, present

    async def _host(
        self, socket: web.WebSocketResponse, session: PushSession, device: Device, present: Present
    ) -> None:
        line = self.hub.join(device, session.revision)
        self.events.push_opened(device.till_id, present.agent_version)
        ending: Ending = "broken"
        try:
            if await self._is_turned_away(device):
                ending = "revoked"
                return
            self.notes.present(device.till_id, present.last_push)
            ending = await self._both_ways(socket, session, line, present)
        finally:
            self.hub.leave(line)
            self.events.push_ended(device.till_id, ending)
            await socket.close(code=CLOSE_CODES[ending], message=ending.encode())

    async def _is_turned_away(self, device: Device) -> bool:
        """Whether a till was revoked while it was let in. From here on its line is there to be ended."""
        now = await self.devices.find(device.key_id)
        return now is None or now.revoked

    async def _both_ways(
        self, socket: web.WebSocketResponse, session: PushSession, line: Line, present: Present
    ) -> Ending:
        """Speak until the line ends. Only listening is ever cancelled: speaking may be inside a transaction."""
        listening = asyncio.create_task(self._listen(socket, session, line))
        try:
            return await self._speak(socket, session, line, present)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, socket: web.WebSocketResponse, session: PushSession, line: Line) -> None:
        """Take what the till says until it leaves, and end the line then."""
        ending: Ending = "broken"
        try:
            while (data := await _next(socket)) is not None:
                message = session.receive(data)
                if isinstance(message, Receipt):
                    self.notes.receipt(line.device.till_id, message.seq)
                else:
                    self.notes.vitals(message)
                    if message.settings is not None:
                        self.settings.hear(line.device, message.settings)
            ending = "closed"
        except TillstreamError as error:
            self.events.push_misspoken(line.device.till_id, error.code)
        finally:
            line.end(ending)

    async def _speak(self, socket: web.WebSocketResponse, session: PushSession, line: Line, present: Present) -> Ending:
        """Write what is missing, then what waits in the outbox, then what comes through the line, until it ends."""
        try:
            await self._ask_again(socket, session, line, present)
            waiting = await self._catch_up(socket, session, line)
            if not any(isinstance(push.body, PackPush) for push in waiting):
                lacks = present.pack_version < self.deliveries.version(line.device)
                await self.deliveries.bring([line.device], lacking=lacks)
            while line.ending is None:
                await line.wait()
                pushes = line.take()
                if line.missed or not session.follows(pushes):
                    await self._catch_up(socket, session, line)
                else:
                    await self._send(socket, session, pushes)
        except ConnectionError:
            return "closed"
        except TillstreamError as error:
            self.events.unexpected("push", error)
            return "failed"
        return line.ending

    async def _ask_again(
        self, socket: web.WebSocketResponse, session: PushSession, line: Line, present: Present
    ) -> None:
        """Tell the till what of its acknowledged records is not here: the server was restored from a backup."""
        if not present.acked:
            return
        async with self.database.read() as conn:
            lacking = await received.lacking(conn, line.device.till_id, present.acked)
        for data in session.ask_again(lacking):
            await socket.send_bytes(data)
        if lacking:
            self.events.asked_again(line.device.till_id, sum(ranges.count(one.ranges) for one in lacking))

    async def _catch_up(self, socket: web.WebSocketResponse, session: PushSession, line: Line) -> list[Push]:
        line.missed = False
        async with self.database.read() as conn:
            waiting = await outbox.after(conn, line.device.till_id, session.last_sent, self.clock.now_ms())
        await self._send(socket, session, waiting)
        return waiting

    async def _send(self, socket: web.WebSocketResponse, session: PushSession, pushes: list[Push]) -> None:
        for push in pushes:
            data = session.send(push, self.clock.now_ms())
            if data is not None:
                await socket.send_bytes(data)
                self.events.pushed()


async def _next(socket: web.WebSocketResponse) -> bytes | None:
    """The next binary message, or None when the till has left. Raises `NotBinary`."""
    message = await socket.receive()
    if message.type is WSMsgType.BINARY:
        data: bytes = message.data
        return data
    if message.type is WSMsgType.TEXT:
        raise NotBinary("the channel carries msgpack in binary messages")
    return None
