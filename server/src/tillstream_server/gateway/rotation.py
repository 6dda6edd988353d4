"""`POST /till/v1/rotate`: a till takes another device key, and no moment passes in which none speaks for it.

The request is signed by the device that speaks for the till now, and carries the next one's own proof. Both speak until
the next one has been heard; a till that never got the answer goes on with the former one, and asks again. Once the next
one has been heard, the former one names no other: whoever copied it would end the key that took its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.sealing import key_id
from tillstream_protocol.signing import SignKey, verify

from .. import tills
from ..clock import Clock
from ..devices import Device, Devices
from ..events import Events
from ..ledger.database import Database
from .requests import Revoked, body_of, sender_of

MAX_KEYS: Final = 10
"""So many keys a till may get in a day: one every ninety is usual, a few where head office asks and somebody enrols."""
DAY_MS: Final = 86_400_000


class DeviceTaken(TillstreamError):
    """A key that another till has, or that may no longer speak for this one."""

    code = "device_taken"


class TooManyKeys(TillstreamError):
    """A till that takes one key after another, as somebody might who has a stolen one: each is kept for ever."""

    code = "too_many_keys"
    retryable = True

    def __init__(self) -> None:
        super().__init__(
            "this till has had too many keys lately",
            field="device_public_key",
            limit=f"{MAX_KEYS} in a day, enrolments among them",
            hint="the present key goes on; revoke the till if nobody there asked for so many",
        )


@dataclass(frozen=True, slots=True)
class Rotations:
    """Lets the next device of a till in."""

    database: Database
    devices: Devices
    sign: SignKey
    clock: Clock
    events: Events

    async def post(self, request: web.Request) -> web.Response:
        """The next device's key in, its certificate out."""
        body = await body_of(request)
        sender = await sender_of(request, body, self.devices)
        if sender.revoked:
            raise Revoked("this till is revoked", hint="ask head office; the queue is kept")
        reply = await self.follow(sender, messages.decode_rotate_request(body))
        return web.Response(body=encode(reply), content_type=messages.CONTENT_TYPE)

    async def follow(self, sender: Device, request: messages.RotateRequest) -> messages.RotateReply:
        """Let the next device speak beside its sender; asked again, the same answer. Raises `BadSignature`,
        `DeviceTaken`, `TooManyKeys` or `Revoked`."""
        public = request.device_public_key
        verify(public, messages.rotate_bytes(sender.till_id, sender.public_key, public), request.proof)
        async with self.database.write() as conn:
            made_ms = await self._admit(conn, sender, public)
        self.devices.forget()
        self.events.till_changed(sender.retailer, sender.store, sender.till, "next_device")
        till = (sender.till_id, sender.retailer, sender.store, sender.till)
        certificate = messages.Certificate(*till, public, made_ms)
        return messages.RotateReply(messages.sign_certificate(certificate, self.sign))

    async def _admit(self, conn: AsyncConnection, sender: Device, public: bytes) -> int:
        """When the next device was made, now or at an earlier request. Raises `DeviceTaken`, `TooManyKeys` or
        `Revoked`."""
        await self._require_present(conn, sender)
        known = await self.devices.read(conn, key_id(public))
        if known is not None:
            if known.till_id != sender.till_id or known.revoked or known.key_id == sender.key_id:
                raise DeviceTaken("this key cannot follow", field="device_public_key", hint="make another one")
            return await tills.made_ms(conn, known.key_id)
        now_ms = self.clock.now_ms()
        if await tills.devices_made(conn, sender.till_id, after_ms=now_ms - DAY_MS) >= MAX_KEYS:
            raise TooManyKeys
        place = tills.Place(sender.till_id, sender.retailer, sender.store, sender.till, revoked=False)
        version, platform = await tills.device_versions(conn, sender.key_id)
        device = tills.NewDevice(key_id(public), public, version, platform)
        return await tills.add_next_device(conn, place, sender.key_id, device, now_ms)

    async def _require_present(self, conn: AsyncConnection, sender: Device) -> None:
        """Raise for a device that another took the place of, or that was turned away since it signed."""
        now = await self.devices.read(conn, sender.key_id)
        if now is None or now.revoked:
            raise Revoked("this till is revoked", hint="ask head office; the queue is kept")
        if now.until_ms is not None:
            raise DeviceTaken("another key took the place of this one", hint="the newest key asks")
