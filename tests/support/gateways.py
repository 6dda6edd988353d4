"""What a till sees of a server: it speaks the protocol truly, verifies every signature, opens nothing, and can be made
to give trouble."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from aiohttp import WSMsgType, web

from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.errors import ErrorBody
from tillstream_protocol.framing import ChunkHeader, Frame, scan, verify_header
from tillstream_protocol.messages import (
    Batch,
    BatchReply,
    Certificate,
    Challenge,
    DeadLetter,
    EnrolReply,
    EpochRanges,
    Heartbeat,
    Introduction,
    Missing,
    Pace,
    Present,
    Push,
    PushBody,
    Receipt,
    ReturnReply,
    RotateReply,
    SignedCertificate,
    Token,
    Vitals,
)
from tillstream_protocol.pack import Pack, SignedPack, sign_pack
from tillstream_protocol.ranges import collect
from tillstream_protocol.sealing import key_id
from tillstream_protocol.signing import SignedRequest, SignKey, fingerprint, verify

TILL_ID = b"t" * 16
NEVER_MS = 4_000_000_000_000

Trouble = Callable[[web.Request], Awaitable[web.Response | None]]
"""Answers in place of the server, or None after it has only done harm."""


@dataclass
class Gateway:
    """The stand-in server: what it was sent, and what it has to push. One till at a time is enrolled; devices that were
    enrolled before may still send what they have queued."""

    address: str = ""
    key: SignKey = field(default_factory=lambda: SignKey(os.urandom(32)))
    box_public: bytes = field(default_factory=lambda: os.urandom(32))
    escrow_public: bytes = field(default_factory=lambda: os.urandom(32))
    secret: bytes = field(default_factory=lambda: os.urandom(16))
    max_bytes: int = 256 * 1024
    backlog_pause_ms: int = 0
    dead: dict[int, DeadLetter] = field(default_factory=dict)
    refuses: set[int] = field(default_factory=set)
    """Seqs of records that are refused as they are, with the batch they come in."""
    clock_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    revisions: bool = True
    """Whether it knows that there are revisions; one from before them refuses a subprotocol."""
    till_id: bytes = TILL_ID
    device: bytes | None = None
    former: dict[bytes, bytes] = field(default_factory=dict)
    """Public keys of devices that were enrolled before, by key id."""
    pack_till: bytes | None = None
    offer_key: bytes = bytes(32)
    campaigns: tuple[Campaign, ...] = ()
    enrolments: list[messages.EnrolRequest] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    records: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    repeated: list[tuple[bytes, int]] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)
    receipts: list[int] = field(default_factory=list)
    presents: list[Present] = field(default_factory=list)
    signers: list[bytes] = field(default_factory=list)
    """The key id that signed each batch's request."""
    returns: list[bytes] = field(default_factory=list)
    """The till ids of certificates that were shown."""
    vitals: list[Vitals] = field(default_factory=list)
    _troubles: deque[Trouble | None] = field(default_factory=deque)
    _sockets: set[web.WebSocketResponse] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # What tests say of it

    def token(self) -> str:
        """An enrolment token of this server."""
        return Token(self.secret, fingerprint(self.key.public)).text()

    def pack(self, version: int = 1, till: bytes = TILL_ID) -> SignedPack:
        """A pack with the campaigns and keys in use."""
        keys = (self.offer_key, self.box_public, self.escrow_public)
        return sign_pack(Pack(version, "acme", "north", till, 0, NEVER_MS, self.campaigns, (), *keys), self.key)

    def certificate(self, device: bytes) -> SignedCertificate:
        """That a device speaks for the till."""
        return messages.sign_certificate(
            Certificate(self.till_id, "acme", "north", "1", device, self.clock_ms), self.key
        )

    def forgets_till(self) -> None:
        """Be as restored from a backup older than the enrolment."""
        self.device = None
        self.former.clear()

    def loses(self, *names: tuple[bytes, int]) -> None:
        """Be as restored from a backup that has not these records; all of them, if none is named."""
        for name in names or tuple(self.records):
            self.records.pop(name, None)

    def answers(
        self, status: int, code: str = "trouble", times: int = 1, headers: dict[str, str] | None = None
    ) -> None:
        """Refuse the next requests without looking at them."""

        async def refuse(_request: web.Request) -> web.Response:
            return _error(status, code, headers)

        self._troubles.extend([refuse] * times)

    def answers_nonsense(self, times: int = 1) -> None:
        """Say yes in a language nobody speaks."""

        async def babble(_request: web.Request) -> web.Response:
            return web.Response(body=b"\xc1 what")

        self._troubles.extend([babble] * times)

    def drops_replies(self, times: int = 1) -> None:
        """Take the next batches, and hang up instead of answering."""

        async def hang_up(request: web.Request) -> None:
            if request.path.endswith("/batches"):
                self._take(await request.read(), request)
            assert request.transport is not None
            request.transport.abort()

        self._troubles.extend([hang_up] * times)

    def passes(self, times: int = 1) -> None:
        """Answer the next requests truly, before the troubles that follow."""
        self._troubles.extend([None] * times)

    def heals(self) -> None:
        """No more trouble."""
        self._troubles.clear()

    def drops_enrolment(self) -> None:
        """Enrol, and hang up instead of saying so."""

        async def hang_up(request: web.Request) -> None:
            await self._enrol(request)
            assert request.transport is not None
            request.transport.abort()

        self._troubles.append(hang_up)

    async def push(self, seq: int, body: PushBody, expires_ms: int = NEVER_MS) -> Push:
        """Push something now, or at the next connection."""
        push = Push(seq, expires_ms, body)
        self.pushes.append(push)
        for socket in list(self._sockets):
            await socket.send_bytes(encode(push))
        return push

    async def hangs_up(self, code: int = 1001) -> None:
        """Close every push channel."""
        for socket in list(self._sockets):
            await socket.close(code=code)

    async def until(self, there: Callable[[Gateway], bool]) -> None:
        """Return when something has come about; fail after ten seconds."""
        async with asyncio.timeout(10):
            while not there(self):
                self._changed.clear()
                await self._changed.wait()

    def seqs(self) -> list[int]:
        """The seqs it holds, of every epoch."""
        return sorted(seq for _, seq in self.records)

    # What tills say to it

    def application(self) -> web.Application:
        """Its routes."""
        app = web.Application(client_max_size=8 << 20, middlewares=[self._make_trouble])
        app.router.add_post("/till/v1/hello", self._hello)
        app.router.add_post("/till/v1/enrol", self._enrol)
        app.router.add_post("/till/v1/return", self._return)
        app.router.add_post("/till/v1/rotate", self._rotate)
        app.router.add_post("/till/v1/batches", self._batches)
        app.router.add_get("/till/v1/push", self._push)
        app.on_shutdown.append(lambda _app: self.hangs_up())
        return app

    @web.middleware
    async def _make_trouble(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        trouble = self._troubles.popleft() if self._troubles else None
        if trouble is None:
            return await handler(request)
        answer = await trouble(request)
        self._changed.set()
        return answer or web.Response()

    async def _hello(self, request: web.Request) -> web.Response:
        hello = messages.decode_hello(await request.read())
        keys = (self.key.public, self.box_public, self.escrow_public)
        claim = messages.introduction_bytes(hello.nonce, *keys, 1, 1)
        return web.Response(body=encode(Introduction(*keys, 1, 1, self.key.sign(claim))))

    async def _enrol(self, request: web.Request) -> web.Response:
        asked = messages.decode_enrol_request(await request.read())
        verify(asked.device_public_key, messages.proof_bytes(asked.secret, asked.device_public_key), asked.proof)
        self.enrolments.append(asked)
        if asked.secret != self.secret:
            return _error(403, "token_unknown")
        self._admit(asked.device_public_key)
        pack = self.pack(till=self.pack_till or self.till_id)
        certificate = self.certificate(asked.device_public_key)
        return web.Response(body=encode(EnrolReply(self.till_id, "acme", "north", "1", "USD", pack, certificate)))

    async def _return(self, request: web.Request) -> web.Response:
        asked = messages.decode_return_request(await request.read())
        certificate = messages.open_certificate(asked.certificate, self.key.public)
        verify(certificate.device_public_key, messages.return_bytes(asked.certificate.payload), asked.proof)
        self._admit(certificate.device_public_key)
        self.returns.append(certificate.till_id)
        self._changed.set()
        return web.Response(body=encode(ReturnReply(certificate.till)))

    async def _rotate(self, request: web.Request) -> web.Response:
        signed, body = _signature(request), await request.read()
        sender = self._public(signed.key_id)
        assert sender is not None
        signed.verify(sender, request.method, request.path, body)
        asked = messages.decode_rotate_request(body)
        verify(
            asked.device_public_key, messages.rotate_bytes(self.till_id, sender, asked.device_public_key), asked.proof
        )
        if asked.device_public_key != self.device:
            self._admit(asked.device_public_key)
        self._changed.set()
        return web.Response(body=encode(RotateReply(self.certificate(asked.device_public_key))))

    def _admit(self, device: bytes) -> None:
        if self.device is not None:
            self.former[key_id(self.device)] = self.device
        self.device = device

    def _public(self, name: bytes) -> bytes | None:
        if self.device is not None and key_id(self.device) == name:
            return self.device
        return self.former.get(name)

    async def _batches(self, request: web.Request) -> web.Response:
        signed = _signature(request)
        if self._public(signed.key_id) is None:
            return _error(401, "unknown_device")
        body = await request.read()
        frames = scan(messages.decode_batch(body).frames)
        if any(isinstance(part, Frame) and part.header.seq in self.refuses for part in frames):
            return _error(400, "unacceptable")
        reply = self._take(body, request)
        self._changed.set()
        return web.Response(body=encode(reply))

    def _take(self, body: bytes, request: web.Request) -> BatchReply:
        assert "Content-Encoding" not in request.headers
        signed = _signature(request)
        sender = self._public(signed.key_id)
        assert sender is not None
        signed.verify(sender, request.method, request.path, body)
        self.signers.append(signed.key_id)
        batch = messages.decode_batch(body)
        header = ChunkHeader.decode(batch.header)
        writer = self._public(header.device_key_id)
        assert writer is not None
        verify_header(batch.header, writer)
        self.batches.append(batch)
        repeated = 0
        seqs: list[int] = []
        for part in scan(batch.frames):
            assert isinstance(part, Frame)
            seqs.append(part.header.seq)
            if (header.epoch, part.header.seq) in self.records:
                repeated += 1
                self.repeated.append((header.epoch, part.header.seq))
            self.records[header.epoch, part.header.seq] = part.sealed
        dead = tuple(letter for seq, letter in self.dead.items() if seq in seqs)
        pause = self.backlog_pause_ms if batch.lane == "backlog" else 0
        pace = Pace(self.max_bytes, pause)
        return BatchReply(header.epoch, collect(seqs), repeated, dead, pace, self.clock_ms)

    async def _push(self, request: web.Request) -> web.StreamResponse:
        if not self.revisions and "Sec-WebSocket-Protocol" in request.headers:
            return _error(400, "invalid_input")
        socket = web.WebSocketResponse(protocols=versions.subprotocols())
        await socket.prepare(request)
        nonce = os.urandom(16)
        await socket.send_bytes(encode(Challenge(nonce, self.clock_ms)))
        present = messages.decode_to_server((await socket.receive()).data)
        assert isinstance(present, Present)
        if self.device is None or present.device_key_id != key_id(self.device):
            await socket.close(code=4401)
            return socket
        verify(self.device, messages.challenge_bytes(nonce, present.till_id), present.signature)
        self.presents.append(present)
        self._changed.set()
        if missing := self._missing(present):
            await socket.send_bytes(encode(Missing(missing)))
        for push in [p for p in self.pushes if p.seq > present.last_push]:
            await socket.send_bytes(encode(push))
        self._sockets.add(socket)
        await self._listen(socket)
        return socket

    def _missing(self, present: Present) -> tuple[EpochRanges, ...]:
        """What the till believes to be here and is not."""
        lacking = (
            EpochRanges(
                one.epoch,
                collect(
                    seq
                    for part in one.ranges
                    for seq in range(part.first, part.last + 1)
                    if (one.epoch, seq) not in self.records
                ),
            )
            for one in present.acked
        )
        return tuple(one for one in lacking if one.ranges)

    async def _listen(self, socket: web.WebSocketResponse) -> None:
        assert self.device is not None
        try:
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    break
                said = messages.decode_to_server(message.data)
                if isinstance(said, Receipt):
                    self.receipts.append(said.seq)
                elif isinstance(said, Heartbeat):
                    self.vitals.append(messages.open_heartbeat(said, self.device))
                self._changed.set()
        finally:
            self._sockets.discard(socket)


def _signature(request: web.Request) -> SignedRequest:
    return SignedRequest.parse(*(request.headers[name] for name in ("Content-Digest", "Signature-Input", "Signature")))


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode({"error": ErrorBody(code, f"this is {code}")})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    """A stand-in server on a free port."""
    server = Gateway()
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
