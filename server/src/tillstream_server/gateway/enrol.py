"""`POST /till/v1/hello` and `POST /till/v1/enrol`: how an agent comes to speak for a till.

The agent first makes the server prove its key, which the token names; only then does it send the token's secret.
An answer that got lost may be asked for again: the same device with the same token gets it without another use.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.pack import SignedPack
from tillstream_protocol.sealing import key_id
from tillstream_protocol.signing import verify

from .. import auth, tills
from ..auth import Randomness
from ..callers import Proxies, caller_of
from ..campaigns.packs import Packs
from ..clock import Clock
from ..devices import Device, Devices
from ..events import Events
from ..fleet import Failure
from ..keys import ServerKeys
from ..ledger.database import Database
from .deliveries import Deliveries
from .failures import Failures
from .requests import Revoked, body_of


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Introduces the server and lets agents join."""

    database: Database
    devices: Devices
    packs: Packs
    deliveries: Deliveries
    failures: Failures
    keys: ServerKeys
    currency: str
    clock: Clock
    random: Randomness
    events: Events
    proxies: Proxies

    async def hello(self, request: web.Request) -> web.Response:
        """Sign the agent's nonce together with the server's keys and the protocols that it speaks."""
        hello = messages.decode_hello(await body_of(request))
        keys = self.keys
        public = (keys.sign.public, keys.box_public, keys.escrow_public)
        spoken = (versions.OLDEST_PROTOCOL, versions.PROTOCOL)
        signature = keys.sign.sign(messages.introduction_bytes(hello.nonce, *public, *spoken))
        introduction = messages.Introduction(*public, *spoken, signature)
        return web.Response(body=encode(introduction), content_type=messages.CONTENT_TYPE)

    async def enrol(self, request: web.Request) -> web.Response:
        """Let an agent in that holds a good token and its own device key."""
        asked: messages.EnrolRequest | None = None
        try:
            asked = messages.decode_enrol_request(await body_of(request))
            reply, repeated = await self.join(asked)
        except TillstreamError as error:
            known = error.code.startswith("token_") or error.code == "version_mismatch"
            self.events.enrolment_refused(error.code if known else "invalid", error.message)
            self.failures.note(await self._failure(error.code, caller_of(request, self.proxies), asked))
            raise
        self.events.enrolled(reply.retailer, reply.store, reply.till, repeated=repeated)
        return web.Response(body=encode(reply), content_type=messages.CONTENT_TYPE)

    async def _failure(self, code: str, address: str, asked: messages.EnrolRequest | None) -> Failure:
        """What may be remembered of somebody who was not let in."""
        if asked is None:
            return Failure(code, address)
        async with self.database.read() as conn:
            grant = await auth.grant_of(conn, asked.secret)
        led = (grant.retailer, grant.store, grant.till or "") if grant is not None else ("", "", "")
        return Failure(code, address, *led, asked.agent_version, asked.platform)

    async def join(self, request: messages.EnrolRequest) -> tuple[messages.EnrolReply, bool]:
        """The answer, and whether it had been given before. All or nothing: one transaction."""
        versions.require_spoken(request.protocol)
        verify(
            request.device_public_key,
            messages.proof_bytes(request.secret, request.device_public_key),
            request.proof,
        )
        now_ms = self.clock.now_ms()
        async with self.database.write() as conn:
            grant = await auth.find_token(conn, request.secret)
            device = await self.devices.read(conn, key_id(request.device_public_key))
            repeated = device is not None
            if device is None:
                device = await self._admit(conn, grant, request, now_ms)
            elif device.revoked or (device.retailer, device.store) != (grant.retailer, grant.store):
                raise Revoked("this device may not join again", hint="enrol with a new device key")
            pack = await self.packs.issue(conn, device, now_ms)
        self.devices.forget()
        self.deliveries.remember(device)
        self.events.pack_issued()
        return self._reply(device, pack, now_ms), repeated

    async def _admit(
        self, conn: AsyncConnection, grant: auth.Grant, request: messages.EnrolRequest, now_ms: int
    ) -> Device:
        await auth.use_token(conn, request.secret, now_ms)
        place = await tills.place_for(conn, grant, now_ms=now_ms, random=self.random)
        name = key_id(request.device_public_key)
        device = tills.NewDevice(name, request.device_public_key, request.agent_version, request.platform)
        await tills.give_device(conn, place, device, now_ms)
        return Device(
            place.till_id,
            place.retailer,
            place.store,
            place.till,
            name,
            request.device_public_key,
            revoked=False,
            currency=self.currency,
        )

    def _reply(self, device: Device, pack: SignedPack, now_ms: int) -> messages.EnrolReply:
        till = (device.till_id, device.retailer, device.store, device.till)
        certificate = messages.Certificate(*till, device.public_key, now_ms)
        signed = messages.sign_certificate(certificate, self.keys.sign)
        return messages.EnrolReply(*till, device.currency, pack, signed)
