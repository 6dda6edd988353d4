"""A whole server in this process, and tills that speak the protocol with it over real sockets."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from prometheus_client import CollectorRegistry

from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.events import KIND_NUMBERS, Body, MemberIdentified, Record
from tillstream_protocol.framing import NO_EPOCH, NO_TAG, ChunkHeader, ClearHeader, Place, read_frame, seal_frame
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Token
from tillstream_protocol.sealing import RecordSeal, key_id, seal_key
from tillstream_protocol.settings import SettingsReport
from tillstream_protocol.signing import SignKey, fingerprint, sign_request, verify
from tillstream_protocol.transaction import Customer, Identifier, Line, Moment, Source, Transaction
from tillstream_server import admin, app, office
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder
from tillstream_server.metrics import Metrics

NOW: Final = 1_790_000_000_000
BATCHES: Final = "/till/v1/batches"

T = TypeVar("T")


class SetClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now_ms: int = NOW) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._now_ms / 1000

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ms += round(seconds * 1000)


@dataclass
class Server:
    """A server that serves on a free port."""

    address: str
    folder: Folder
    clock: SetClock
    metrics: Metrics
    log: io.StringIO
    http: aiohttp.ClientSession

    async def order(self, command: office.Command) -> dict[str, Any]:
        """Give a command over the admin socket."""

        def never(_: Folder) -> Any:
            raise AssertionError("the running server was not reached")

        result: dict[str, Any] = json.loads(await admin.order(self.folder, command, never))
        return result

    async def token(self, till: str | None = None, **fields: Any) -> str:
        """A token for acme's store north."""
        fields = {"retailer": "acme", "store": "north", "till": till, **fields}
        return str((await self.order(office.TokenCreate(**fields)))["token"])

    async def till(self, till: str | None = None) -> Till:
        """A till that has just enrolled."""
        new = Till(self)
        await new.enrols(await self.token(till))
        return new

    async def key(self, role: Any = "viewer") -> dict[str, str]:
        """The headers of a key for head office."""
        made = await self.order(office.KeyCreate(role))
        return {"Authorization": f"Bearer {made['key']}"}

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """GET as anybody would."""
        return await self.send("GET", path, headers=headers)

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Any request."""
        async with self.http.request(method, self.address + path, data=io.BytesIO(body), headers=headers) as response:
            return Reply(response.status, await response.read(), response.headers.copy())

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"tillstream_server_{name}", labels) or 0.0

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


@dataclass(frozen=True)
class Reply:
    """An HTTP reply."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error that the body carries."""
        error: dict[str, Any] = self.json()["error"]
        return error


@dataclass
class Till:
    """An agent's side of the protocol, without an agent: keys, one chunk, and what the server told it."""

    server: Server
    device: SignKey = field(default_factory=lambda: SignKey(os.urandom(32)))
    epoch: bytes = field(default_factory=lambda: os.urandom(16))

    follows: tuple[bytes, int] = (NO_EPOCH, 0)
    """The epoch before this one, and how many records it had."""

    reply: messages.EnrolReply = field(init=False)
    introduction: messages.Introduction = field(init=False)
    _data_key: bytes = field(default_factory=lambda: os.urandom(32))
    _previous: bytes = NO_TAG
    _seq: int = 0

    async def enrols(self, token: str) -> messages.EnrolReply:
        """Join as an agent does: first the server proves itself, then the secret leaves."""
        parsed = Token.parse(token)
        nonce = os.urandom(16)
        reply = await self.posts("/till/v1/hello", messages.Hello(nonce, versions.PROTOCOL))
        self.introduction = one = messages.decode_introduction(reply.body)
        assert fingerprint(one.server_public_key) == parsed.fingerprint
        public = (one.server_public_key, one.box_public_key, one.escrow_public_key)
        signed = messages.introduction_bytes(nonce, *public, one.protocol_from, one.protocol_to)
        verify(one.server_public_key, signed, one.signature)
        reply = await self.asks_in(parsed.secret)
        assert reply.status == 200, reply.body
        self.reply = messages.decode_enrol_reply(reply.body)
        return self.reply

    async def asks_in(self, secret: bytes, protocol: int = versions.PROTOCOL) -> Reply:
        """Send the enrolment request alone."""
        proof = self.device.sign(messages.proof_bytes(secret, self.device.public))
        request = messages.EnrolRequest(secret, self.device.public, proof, protocol, "0.1.0", "test")
        return await self.posts("/till/v1/enrol", request)

    async def posts(self, path: str, message: object, headers: Mapping[str, str] | None = None) -> Reply:
        """POST a message, unsigned."""
        given = {"Content-Type": messages.CONTENT_TYPE, **(headers or {})}
        return await self.server.send("POST", path, encode(message), given)

    def begins(self, epoch: bytes, *, parent: bytes, position: int) -> None:
        """Start anew: an epoch that follows a place, with a chunk of its own."""
        self.epoch, self.follows = epoch, (parent, position)
        self._data_key, self._previous, self._seq = os.urandom(32), NO_TAG, 0

    def batch(self, *bodies: Body, captured_ms: int | None = None) -> messages.Batch:
        """Seal these as the chunk's next frames."""
        header = ChunkHeader(
            till=self.reply.till_id,
            epoch=self.epoch,
            chunk=0,
            parent=self.follows[0],
            parent_position=self.follows[1],
            first_seq=0,
            created=NOW,
            device_key_id=self.device.key_id,
            server_key_id=key_id(self.introduction.box_public_key),
            server_sealed_key=seal_key(self._data_key, self.introduction.box_public_key, os.urandom(32)),
            escrow_key_id=key_id(self.introduction.escrow_public_key),
            escrow_sealed_key=seal_key(self._data_key, self.introduction.escrow_public_key, os.urandom(32)),
        )
        captured = self.server.clock.now_ms() if captured_ms is None else captured_ms
        frames = b"".join(self._frame(body, captured) for body in bodies)
        return messages.Batch(header.encode(self.device), frames)

    def _frame(self, body: Body, captured_ms: int) -> bytes:
        seal = RecordSeal(self._data_key, limit=DEFAULT.record)
        place = Place(self.reply.till_id, self.epoch, 0)
        clear = ClearHeader(self._seq, KIND_NUMBERS[type(body)], NO_TAG, self._previous)
        data = seal_frame(seal, place, clear, encode(Record(body, captured_ms)), os.urandom(24))
        frame = read_frame(data, 0)
        assert frame is not None
        self._previous = frame.aead_tag
        self._seq += 1
        return data

    async def uploads(self, batch: messages.Batch, *, signed_by: SignKey | None = None) -> Reply:
        """POST a batch, signed by this till unless told otherwise."""
        return await self.uploads_bytes(encode(batch), signed_by=signed_by)

    async def uploads_bytes(self, body: bytes, *, signed_by: SignKey | None = None) -> Reply:
        """POST any bytes to where batches go, signed."""
        headers = sign_request(signed_by or self.device, "POST", BATCHES, body, created=NOW // 1000)
        return await self.server.send("POST", BATCHES, body, {"Content-Type": messages.CONTENT_TYPE, **headers})

    async def sends(self, *bodies: Body) -> messages.BatchReply:
        """Capture and upload; the acknowledgement."""
        reply = await self.uploads(self.batch(*bodies))
        assert reply.status == 200, reply.body
        return messages.decode_batch_reply(reply.body)

    async def returns(self, *, proven_by: SignKey | None = None) -> Reply:
        """Ask to be taken back by the certificate that came with the enrolment."""
        certificate = self.reply.certificate
        proof = (proven_by or self.device).sign(messages.return_bytes(certificate.payload))
        return await self.posts("/till/v1/return", messages.ReturnRequest(certificate, proof))

    def heartbeat(
        self,
        position: int,
        *,
        queued: int = 0,
        epoch: bytes | None = None,
        settings: SettingsReport | None = None,
    ) -> messages.Heartbeat:
        """A signed heartbeat at a position."""
        latency = messages.HookLatency(100, 200, 300, 4)
        now_ms = self.server.clock.now_ms()
        vitals = messages.Vitals(
            self.reply.till_id,
            epoch or self.epoch,
            position,
            queued,
            50,
            latency,
            10**9,
            now_ms,
            "0.1.0",
            "",
            0,
            0,
            settings,
        )
        return messages.sign_heartbeat(vitals, self.device)

    @asynccontextmanager
    async def on_push(
        self,
        *,
        last_push: int = 0,
        pack_version: int | None = None,
        acked: tuple[messages.EpochRanges, ...] = (),
        subprotocols: Sequence[str] = (),
    ) -> AsyncIterator[Pushes]:
        """Be on the push channel for a while. Without a version, the enrolment's pack is the one it has; without
        subprotocols, it speaks as an agent from before there were any."""
        address = self.server.address + "/till/v1/push"
        async with self.server.http.ws_connect(address, protocols=subprotocols) as socket:
            pushes = Pushes(socket)
            await pushes.presents(self, last_push=last_push, pack_version=pack_version, acked=acked)
            yield pushes


@dataclass
class Pushes:
    """A till's end of the push channel."""

    socket: aiohttp.ClientWebSocketResponse

    async def presents(
        self,
        till: Till,
        *,
        last_push: int = 0,
        pack_version: int | None = None,
        device: SignKey | None = None,
        acked: tuple[messages.EpochRanges, ...] = (),
    ) -> None:
        """Answer the server's challenge."""
        challenge = messages.decode_to_till(await self.socket.receive_bytes(timeout=10))
        assert isinstance(challenge, messages.Challenge)
        key = device or till.device
        signature = key.sign(messages.challenge_bytes(challenge.nonce, till.reply.till_id))
        await self.says(
            messages.Present(
                till.reply.till_id,
                key.key_id,
                signature,
                versions.PROTOCOL,
                "0.1.0",
                last_push,
                1 if pack_version is None else pack_version,
                acked,
            )
        )

    async def says(self, message: messages.ToServer) -> None:
        """Send a message."""
        await self.socket.send_bytes(encode(message))

    async def hears(self) -> messages.ToTill:
        """The next message, whatever it is."""
        return messages.decode_to_till(await self.socket.receive_bytes(timeout=10))

    async def next(self, of: type[T]) -> tuple[messages.Push, T]:
        """The next push with such a body; others before it are passed over."""
        while True:
            push = messages.decode_to_till(await self.socket.receive_bytes(timeout=10))
            assert isinstance(push, messages.Push)
            if isinstance(push.body, of):
                return push, push.body

    async def is_closed(self) -> tuple[int | None, str]:
        """Wait for the server to close; its code and reason."""
        while True:
            message = await self.socket.receive(timeout=10)
            if message.type is aiohttp.WSMsgType.CLOSE:
                return message.data, message.extra or ""
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return self.socket.close_code, ""


@asynccontextmanager
async def serving(root: Path, *, clock: SetClock | None = None, **settings: Any) -> AsyncIterator[Server]:
    """A server on `root`, which is made if it is not there, until the end of the block."""
    folder = Folder(root)
    if not root.exists():
        await app.init(folder, "USD", os.urandom)
    log, metrics, clock = io.StringIO(), Metrics(CollectorRegistry()), clock or SetClock()
    around = app.Surroundings(clock, os.urandom, Events(metrics, json_logger(log)))
    stop, bound = asyncio.Event(), asyncio.get_running_loop().create_future()
    config = Config(**{"port": 0, **settings})
    task = asyncio.create_task(app.serve(folder, config, around, ready=bound.set_result, stop=stop))
    await asyncio.wait({task, bound}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        try:
            yield Server(bound.result(), folder, clock, metrics, log, http)
        finally:
            stop.set()
            await task


def sale(number: int = 1, *, total: int = 2500, member: str | None = None, skus: Sequence[str] = ("A",)) -> Transaction:
    """A sale at acme's store north that adds up."""
    lines = [Line(seq=i, amount=0, sku=sku, hierarchy=("food",)) for i, sku in enumerate(skus[1:], start=2)]
    return Transaction(
        source=Source("test-pos"),
        kind="sale",
        pos_id=str(number),
        business_date="2026-09-21",
        end=Moment(NOW),
        currency="USD",
        total=total,
        retailer="acme",
        store="north",
        till="till-1",
        lines=(Line(seq=1, amount=total, sku=skus[0], hierarchy=("food",)), *lines),
        customer=Customer(identifiers=(Identifier("loyalty", member),)) if member else None,
    )


def identification(event_id: str, member: str) -> MemberIdentified:
    """A member gives a card."""
    return MemberIdentified((Identifier("loyalty", member),), event_id=event_id)


def campaign_document(**fields: Any) -> str:
    """A campaign's JSON file: thanks for a big sale, unless told otherwise."""
    campaign = {
        "id": "big-sale",
        "version": 1,
        "name": "Big sale",
        "trigger": "transaction",
        "condition": {">=": [{"var": "sale.total"}, 1000]},
        "effects": [{"type": "cashier_message", "text": "Say thanks"}],
    }
    return json.dumps({**campaign, **fields})
