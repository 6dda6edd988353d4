"""`POST /till/v1/return`: a till that the server has forgotten comes back by its own certificate.

A server that was restored from a backup knows nothing of tills that enrolled after it. Each of them holds a certificate
that this server signed when it enrolled, and shows with a proof that it is the device named there. Both are checked
before anything is read from the database, so that a stranger costs two signatures and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.sealing import key_id
from tillstream_protocol.signing import SignKey, verify

from .. import tills
from ..clock import Clock
from ..devices import Devices
from ..events import Events
from ..ledger.database import Database
from .requests import body_of


@dataclass(frozen=True, slots=True)
class Returns:
    """Takes forgotten tills back."""

    database: Database
    devices: Devices
    sign: SignKey
    clock: Clock
    events: Events

    async def post(self, request: web.Request) -> web.Response:
        """One certificate in, the till's name out."""
        try:
            reply = await self.take_back(messages.decode_return_request(await body_of(request)))
        except TillstreamError as error:
            self.events.return_refused(error.code)
            raise
        return web.Response(body=encode(reply), content_type=messages.CONTENT_TYPE)

    async def take_back(self, request: messages.ReturnRequest) -> messages.ReturnReply:
        """Make known again what the certificate names. Of a device that is known, nothing changes: one that was
        revoked stays so. Raises `BadSignature` or `InvalidInput`."""
        given = messages.open_certificate(request.certificate, self.sign.public)
        verify(given.device_public_key, messages.return_bytes(request.certificate.payload), request.proof)
        device = key_id(given.device_public_key)
        known = await self.devices.find(device)
        if known is None:
            async with self.database.write() as conn:
                known = await self.devices.read(conn, device)
                if known is None:
                    place = await tills.take_back(conn, given, self.clock.now_ms())
        if known is not None:
            self.events.return_repeated()
            return messages.ReturnReply(known.till)
        self.devices.forget()
        self.events.returned(place.retailer, place.store, place.till)
        return messages.ReturnReply(place.till)
