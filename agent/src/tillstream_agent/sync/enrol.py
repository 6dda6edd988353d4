"""Joining a server: it proves who it is before the agent sends a secret, and nothing is half done."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import Damaged, TillstreamError
from tillstream_protocol.messages import (
    EnrolReply,
    EnrolRequest,
    Hello,
    Introduction,
    Token,
    decode_enrol_reply,
    decode_introduction,
    introduction_bytes,
    proof_bytes,
)
from tillstream_protocol.pack import open_pack
from tillstream_protocol.signing import SignKey, fingerprint, verify
from tillstream_protocol.versions import PROTOCOL, VersionMismatch

from ..clock import Clock
from ..folder import Folder, Identity, NotEnrolled, StateError
from ..state import State
from .transport import Refused, Transport

Randomness = Callable[[int], bytes]


class WrongServer(TillstreamError):
    """The server is not the one that the token was made by."""

    code = "wrong_server"


class AlreadyEnrolled(StateError):
    """There is an identity in the folder, and nobody asked to replace it."""

    code = "already_enrolled"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Enrols the agent of one state folder."""

    folder: Folder
    transport: Transport
    clock: Clock
    randomness: Randomness
    agent_version: str

    async def join(self, address: str, token: Token, *, replace: bool) -> Identity:
        """Join the server at `address` with a token, as the till that it gives.

        The device's key is on the disk before it is sent, so that after a lost answer the same call can be made again
        without a second token. Journal, tag key and hook token stay. Raises `AlreadyEnrolled`, `AlreadyRunning`,
        `WrongServer`, `Unreachable`, `Refused`, `VersionMismatch`, `Damaged`, `InvalidInput` or `StateError`.
        """
        self.folder.create()
        with self.folder.locked():
            if not replace:
                self._require_free()
            server = await self._hello(token)
            device = SignKey(self.folder.next_seed(self.randomness))
            reply = await self._enrol(token, device)
            open_pack(reply.pack, server.server_public_key, reply.till_id)
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

    async def _hello(self, token: Token) -> Introduction:
        """The server's keys, once it has shown that they are the ones the token names."""
        nonce = self.randomness(16)
        response = await self.transport.post("/till/v1/hello", encode(Hello(nonce, PROTOCOL)))
        server = decode_introduction(response.require_ok())
        if fingerprint(server.server_public_key) != token.fingerprint:
            raise WrongServer(
                "this is not the server that the token comes from; no secret was sent", hint="check the address"
            )
        claim = introduction_bytes(nonce, server.server_public_key, server.box_public_key, server.escrow_public_key)
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
        )
