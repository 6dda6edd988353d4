"""Another device key for the same till, every ninety days or when head office asks.

The new key is on the disk before the server hears of it, and the former one speaks on until the server's answer is on
the disk too; the server takes both meanwhile. So whatever is cut short, one of the two still speaks for the till, and
the same request is made again. What the former key has signed in the journal arrives under the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import (
    RotateRequest,
    SignedCertificate,
    decode_rotate_reply,
    open_certificate,
    rotate_bytes,
)
from tillstream_protocol.signing import SignKey, sign_request

from ..clock import Clock
from ..events import Events
from ..folder import Folder, Identity, in_thread
from .enrol import ForeignCertificate, Randomness
from .link import Link
from .transport import Client, Refused

PATH: Final = "/till/v1/rotate"
ROTATE_AFTER_MS: Final = 90 * 86_400_000
LOOK_S: Final = 3600.0
"""How often the key's age is looked at."""
RETRY_S: Final = 60.0
"""After how long it is tried again where the server could not be asked."""


@dataclass(slots=True, kw_only=True)
class Rotation:
    """Takes another device key when it is time. `again` is called then, to have everything speak with it."""

    folder: Folder
    identity: Identity
    device: SignKey
    transport: Client
    link: Link
    clock: Clock
    """The server's time, as far as it is known."""
    randomness: Randomness
    events: Events
    again: Callable[[], None]
    _asked: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        """Take another key as soon as that can be done; remembered over a restart."""
        self.folder.remember_rotation()
        self._asked.set()

    async def run(self) -> None:
        """Look whether it is time, for ever; once it is done, another run speaks with the new key."""
        while True:
            self._asked.clear()
            due = self.due()
            if due and self.link.push_connected and self.link.revision >= 1 and await self.rotate():
                self.again()
                await asyncio.Event().wait()
            try:
                async with asyncio.timeout(RETRY_S if due else LOOK_S):
                    await self._asked.wait()
            except TimeoutError:
                continue
            await self._until_connected()

    def due(self) -> bool:
        """Whether it was asked for, or the key is old."""
        return self.folder.is_rotation_asked or self.clock.now_ms() - self._since_ms() >= ROTATE_AFTER_MS

    async def rotate(self) -> bool:
        """Have another key, if the server takes it; whatever it answers, the till keeps one that speaks for it."""
        try:
            key_id, certificate = await self._exchange()
            await in_thread(partial(self.folder.rotated, key_id, certificate))
        except TillstreamError as error:
            if isinstance(error, Refused) and error.code == "device_taken":
                self.folder.drop_rotation_seed()
            self.events.rotation_failed(error)
            return False
        self.events.rotated(key_id)
        return True

    async def _exchange(self) -> tuple[bytes, SignedCertificate]:
        """The new key's id, and the server's certificate of it."""
        new = SignKey(self.folder.next_rotation_seed(self.randomness))
        who = self.identity
        proof = new.sign(rotate_bytes(who.till_id, self.device.public, new.public))
        body = encode(RotateRequest(new.public, proof))
        signed = sign_request(self.device, "POST", PATH, body, created=max(0, self.clock.now_ms() // 1000))
        reply = decode_rotate_reply((await self.transport.post(PATH, body, signed)).require_ok())
        given = open_certificate(reply.certificate, who.server_public)
        if (given.till_id, given.device_public_key) != (who.till_id, new.public):
            raise ForeignCertificate("the certificate names another till or device", field="certificate")
        return new.key_id, reply.certificate

    async def _until_connected(self) -> None:
        """Head office asks over the channel, so it opens in a moment if it is not open yet."""
        for _ in range(100):
            if self.link.push_connected:
                return
            await asyncio.sleep(0.05)

    def _since_ms(self) -> int:
        """When the present key was certified; long ago where that is not known."""
        signed = self.identity.certificate
        if signed is None:
            return 0
        try:
            return open_certificate(signed, self.identity.server_public).issued_ms
        except TillstreamError:
            return 0
