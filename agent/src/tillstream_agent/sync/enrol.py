"""Joining a server, and coming back to one that has forgotten us.

To join, the server proves who it is before the agent sends a secret, and nothing is half done. To come back, the agent
shows the certificate that the server once gave it: a server restored from a backup older than the enrolment knows its
own word, and nobody has to walk to the till.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import Damaged, TillstreamError
from tillstream_protocol.messages import (
    EnrolReply,
    EnrolRequest,
    Hello,
    Introduction,
    ReturnRequest,
    SignedCertificate,
    Token,
    decode_enrol_reply,
    decode_introduction,
    decode_return_reply,
    introduction_bytes,
    open_certificate,
    proof_bytes,
    return_bytes,
)
from tillstream_protocol.pack import open_pack
from tillstream_protocol.signing import SignKey, fingerprint, verify
from tillstream_protocol.versions import PROTOCOL, VersionMismatch

from ..clock import Clock
from ..events import Events
from ..folder import Folder, Identity, NotEnrolled, StateError
from ..state import State
from .transport import Client, Refused

Randomness = Callable[[int], bytes]
RETURN_PATH: Final = "/till/v1/return"


class WrongServer(TillstreamError):
    """The server is not the one that the token was made by."""

    code = "wrong_server"


class ForeignCertificate(Damaged):
    """The server certified another till or device than the one that it enrolled."""

    code = "foreign_certificate"


class AlreadyEnrolled(StateError):
    """There is an identity in the folder, and nobody asked to replace it."""

    code = "already_enrolled"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Enrols the agent of one state folder."""

    folder: Folder
    transport: Client
    clock: Clock
    randomness: Randomness
    agent_version: str

    async def join(self, address: str, token: Token, *, replace: bool) -> Identity:
        """Join the server at `address` with a token, as the till that it gives.

        The device's key is on the disk before it is sent, so that after a lost answer the same call can be made again
        without a second token. Journal, tag key and hook token stay, and so does a former device's key. Raises
        `AlreadyEnrolled`, `AlreadyRunning`, `WrongServer`, `Unreachable`, `Refused`, `VersionMismatch`, `Damaged`,
        `InvalidInput` or `StateError`.
        """
        self.folder.create()
        with self.folder.locked():
            if not replace:
                self._require_free()
            self._finish_former()
            server = await self._hello(token)
            device = SignKey(self.folder.next_seed(self.randomness))
            reply = await self._enrol(token, device)
            open_pack(reply.pack, server.server_public_key, reply.till_id)
            _check_certificate(reply, server, device)
            state = await State.open(self.folder.database)
            try:
                await state.start_over(reply.pack)
            finally:
                await state.close()
            identity = self._identity(address, server, reply, device)
            self.folder.become(identity, self.randomness)
        return identity

    def _require_free(self) -> None:
        try:
            identity = self.folder.identity()
        except NotEnrolled:
            return
        raise AlreadyEnrolled(
            f"{self.folder.path} is already enrolled as till {identity.till} of store {identity.store}",
            hint="to enrol it anew, add --replace; what is queued is kept",
        )

    def _finish_former(self) -> None:
        """Finish an enrolment that was cut short after its decisive step, or its key would be taken for a new one."""
        with suppress(StateError):
            self.folder.device_key(self.folder.identity())

    async def _hello(self, token: Token) -> Introduction:
        """The server's keys, once it has shown that they are the ones the token names."""
        nonce = self.randomness(16)
        response = await self.transport.post("/till/v1/hello", encode(Hello(nonce, PROTOCOL)))
        server = decode_introduction(response.require_ok())
        if fingerprint(server.server_public_key) != token.fingerprint:
            raise WrongServer(
                "this is not the server that the token comes from; no secret was sent", hint="check the address"
            )
        claim = introduction_bytes(
            nonce,
            server.server_public_key,
            server.box_public_key,
            server.escrow_public_key,
            server.protocol_from,
            server.protocol_to,
        )
        try:
            verify(server.server_public_key, claim, server.signature)
        except Damaged as error:
            raise WrongServer("the server does not hold its key; no secret was sent") from error
        if not server.protocol_from <= PROTOCOL <= server.protocol_to:
            spoken = f"{server.protocol_from} to {server.protocol_to}"
            raise VersionMismatch(
                f"this agent speaks protocol {PROTOCOL}, the server {spoken}",
                limit=spoken,
                hint="upgrade the older one",
            )
        return server

    async def _enrol(self, token: Token, device: SignKey) -> EnrolReply:
        request = EnrolRequest(
            token.secret,
            device.public,
            device.sign(proof_bytes(token.secret, device.public)),
            PROTOCOL,
            self.agent_version,
            f"{platform.system()} {platform.machine()}"[:64],
        )
        response = await self.transport.post("/till/v1/enrol", encode(request))
        try:
            return decode_enrol_reply(response.require_ok())
        except Refused as error:
            if error.code == "revoked":
                self.folder.drop_next_seed()
            raise

    def _identity(self, address: str, server: Introduction, reply: EnrolReply, device: SignKey) -> Identity:
        return Identity(
            address,
            reply.till_id,
            reply.retailer,
            reply.store,
            reply.till,
            reply.currency,
            device.key_id,
            server.server_public_key,
            server.box_public_key,
            server.escrow_public_key,
            self.clock.now_ms(),
            reply.certificate,
        )


def _check_certificate(reply: EnrolReply, server: Introduction, device: SignKey) -> None:
    """Raises `BadSignature`, `InvalidInput` or `ForeignCertificate`: a useless one would be found out too late."""
    certificate = open_certificate(reply.certificate, server.server_public_key)
    if (certificate.till_id, certificate.device_public_key) != (reply.till_id, device.public):
        raise ForeignCertificate("the certificate names another till or device", field="certificate")


@dataclass(frozen=True, slots=True)
class Return:
    """Asks a server that does not know this till's device to take it back; without a certificate it asks nothing."""

    transport: Client
    device: SignKey
    certificate: SignedCertificate | None
    events: Events

    async def ask(self) -> bool:
        """Whether the server knows this till again. Whatever it answers, the identity stays as it is."""
        signed = self.certificate
        if signed is None:
            return False
        request = ReturnRequest(signed, self.device.sign(return_bytes(signed.payload)))
        try:
            response = await self.transport.post(RETURN_PATH, encode(request))
            reply = decode_return_reply(response.require_ok())
        except TillstreamError as error:
            self.events.return_refused(error)
            return False
        self.events.returned(reply.till)
        return True
