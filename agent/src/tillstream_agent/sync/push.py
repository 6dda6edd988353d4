"""The push channel: what the server sends to the till, and how the till is.

`PushSession` speaks the protocol without I/O; `Mailbox` keeps what came; `PushChannel` drives both over a WebSocket.

    challenge ──▶ present ──▶ missing? ──▶ push … push ──▶ each kept durably, then its receipt

A push is on the disk before its receipt leaves, so a reconnect misses nothing; a seq that is held already, or a message
past its expiry, is receipted and dropped, so nothing is shown twice or too late. A server that was restored from a
backup says what is missing of the records that the till believes it to hold; they are queued again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from msgspec import structs

from tillstream_protocol.backoff import full_jitter
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.messages import (
    Challenge,
    EpochRanges,
    Missing,
    OfferPush,
    PackPush,
    Present,
    Push,
    Receipt,
    Rotate,
    SettingsPush,
    Vitals,
    challenge_bytes,
    decode_to_till,
    sign_heartbeat,
)
from tillstream_protocol.pack import MAX_PACK
from tillstream_protocol.signing import SignKey
from tillstream_protocol.versions import PROTOCOL, REVISION, revision_of, subprotocols

from ..clock import Clock
from ..display.board import Board
from ..events import Events
from ..folder import StateError
from ..offers.edge import Edge
from ..remote import Remote
from ..state import State, StateUnavailable
from .keys import SealingKeys
from .link import Link
from .rewind import Rewind, overlap, told

PATH: Final = "/till/v1/push"
CONNECT_S: Final = 15.0
DEAD_AFTER_S: Final = 40.0
"""A channel on which nothing was heard for half as long is asked whether it is alive."""
SLOW_S: Final = {"revoked": 900.0, "authentication": 60.0, "replaced": 60.0, "version_mismatch": 300.0}
_CLOSE_CODES: Final = {4401: "authentication", 4403: "revoked", 4409: "replaced"}
_STATUSES: Final = {401: "authentication", 403: "revoked"}
_BAD_REQUEST: Final = 400
_OPENED: Final = b"open"


class OutOfTurn(InvalidInput):
    """The server said something that has no place at this point."""

    code = "out_of_turn"


class PushClosed(TillstreamError):
    """The channel could not be opened, or has ended. `code` says what to think of it."""

    retryable = True

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Say:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep this push durably, then send the receipt."""

    push: Push


@dataclass(frozen=True, slots=True)
class Forget:
    """Remember durably that this push came, and no more, then send the receipt."""

    push: Push


@dataclass(frozen=True, slots=True)
class Again:
    """This push is held already: send the receipt again."""

    push: Push


@dataclass(frozen=True, slots=True)
class Requeue:
    """The server does not hold these records after all, which it had acknowledged: queue them again."""

    missing: tuple[EpochRanges, ...]


Step = Say | Keep | Forget | Again | Requeue
Claim = Callable[[], tuple[EpochRanges, ...]]
"""What the till believes the server to hold, as of now."""


class PushSession:
    """One connection's conversation, from the till's side."""

    def __init__(
        self,
        *,
        till_id: bytes,
        device: SignKey,
        agent_version: str,
        last_push: int,
        pack_version: int,
        claim: Claim,
        revision: int = REVISION,
    ) -> None:
        """`revision` is what both sides agreed on; what came later is not said."""
        self._revision = revision
        self._till_id = till_id
        self._device = device
        self._version = agent_version
        self._pack_version = pack_version
        self._claim = claim
        self._claimed: tuple[EpochRanges, ...] = ()
        self.last_push = last_push
        self.server_ms: int | None = None
        """The server's time as of its challenge; None before it."""

    def receive(self, data: bytes, now_ms: int) -> Step:
        """What to do about a message. Raises `InvalidInput`."""
        message = decode_to_till(data)
        if isinstance(message, Challenge):
            if self.server_ms is not None:
                raise OutOfTurn("a second challenge")
            self.server_ms = message.server_ms
            return Say(encode(self._present(message)))
        if self.server_ms is None:
            raise OutOfTurn("something before the challenge")
        if isinstance(message, Missing):
            return Requeue(overlap(self._claimed, message.epochs))
        if message.seq <= self.last_push:
            return Again(message)
        return Forget(message) if message.expires_ms <= now_ms else Keep(message)

    def kept(self, push: Push) -> bytes:
        """A push is held durably, or is of no more use: its receipt."""
        self.last_push = max(self.last_push, push.seq)
        return encode(Receipt(push.seq))

    def heartbeat(self, vitals: Vitals) -> bytes:
        """How the till is, signed."""
        if self._revision < 1:
            vitals = structs.replace(vitals, settings=None)
        return encode(sign_heartbeat(vitals, self._device))

    def _present(self, challenge: Challenge) -> Present:
        self._claimed = self._claim()
        return Present(
            self._till_id,
            self._device.key_id,
            self._device.sign(challenge_bytes(challenge.nonce, self._till_id)),
            PROTOCOL,
            self._version,
            self.last_push,
            self._pack_version,
            told(self._claimed),
        )


class Mailbox:
    """Where pushed messages go: the disk first, then to whom they are for."""

    def __init__(
        self,
        state: State,
        board: Board,
        edge: Edge,
        keys: SealingKeys,
        link: Link,
        events: Events,
        remote: Remote,
        rotate: Callable[[], None],
    ) -> None:
        """`rotate` has another device key taken soon."""
        self._state = state
        self._board = board
        self._edge = edge
        self._keys = keys
        self._link = link
        self._events = events
        self._remote = remote
        self._rotate = rotate

    async def keep(self, push: Push) -> None:
        """Take a push. What can never be taken is told of and let go. Raises `StateUnavailable`."""
        body = push.body
        if isinstance(body, OfferPush):
            await self._state.save_offer(push.seq, push.expires_ms, body)
            self._board.push(body)
            self._events.pushed("offer")
        elif isinstance(body, PackPush):
            await self._take_pack(push.seq, body)
        elif isinstance(body, SettingsPush):
            await self._take_settings(push.seq, body)
        elif isinstance(body, Rotate):
            await self._take_rotation(push.seq, body)
        else:
            await self._state.note_push(push.seq)
            self._link.revoked = True
            self._events.revoked(body.reason)

    async def forget(self, push: Push) -> None:
        """Note a push that came too late. Raises `StateUnavailable`."""
        await self._state.note_push(push.seq)
        self._events.pushed("expired")

    async def _take_rotation(self, seq: int, body: Rotate) -> None:
        """It is remembered before the push counts as taken: asked for twice does less harm than not at all."""
        try:
            self._rotate()
        except StateError as error:
            raise StateUnavailable(error.message, hint=error.hint) from error
        await self._state.note_push(seq)
        self._events.rotation_asked(body.reason)

    async def _take_settings(self, seq: int, body: SettingsPush) -> None:
        remote = self._remote
        try:
            before = remote.newest
            if await remote.take(body.settings):
                self._events.settings_waiting(remote.newest)
            elif remote.newest > before:
                self._events.settings_refused(remote.newest, remote.reason)
        except StateError as error:
            raise StateUnavailable(error.message, hint=error.hint) from error
        except TillstreamError as error:
            self._events.push_refused(error)
        await self._state.note_push(seq)

    async def _take_pack(self, seq: int, body: PackPush) -> None:
        try:
            newer = await self._edge.take(body.pack)
        except TillstreamError as error:
            self._events.push_refused(error)
            newer = False
        if newer:
            await self._keys.follow(self._edge.pack)
            await self._state.save_pack(body.pack, seq=seq)
            self._events.pack_taken(self._edge.pack_version)
        else:
            await self._state.note_push(seq)


@dataclass(slots=True, kw_only=True)
class PushChannel:
    """Keeps the channel open for as long as the agent runs."""

    address: str
    tls: ssl.SSLContext | None
    till_id: bytes
    device: SignKey
    agent_version: str
    state: State
    mailbox: Mailbox
    rewind: Rewind
    edge: Edge
    link: Link
    events: Events
    clock: Clock
    vitals: Callable[[], Vitals]
    returning: Callable[[], Awaitable[bool]]
    """Asks a server that does not know this device to take it back, and tells whether it did."""
    uniform: Callable[[], float]
    heartbeat_s: float
    _opened: bool = False
    _taken_back: bool = False
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def hurry(self) -> None:
        """Connect now rather than after the wait: what kept the channel down is mended."""
        self._hurry.set()

    async def run(self) -> None:
        """Connect, listen, and connect again, for ever."""
        async with aiohttp.ClientSession(trust_env=False, auto_decompress=False) as client:
            backoff = full_jitter(self.uniform)
            while True:
                self._opened = False
                closed = await self._listen(client)
                if self._opened:
                    backoff = full_jitter(self.uniform)
                slow = SLOW_S.get(closed.code)
                wait = next(backoff) if slow is None else slow * (0.5 + self.uniform())
                if await self._is_taken_back(closed):
                    wait = 0.0
                self.link.push_closed(closed.code)
                self.events.push_closed(closed.code, closed.message, retry_s=wait)
                await self._wait(wait)

    async def _is_taken_back(self, closed: PushClosed) -> bool:
        """Whether a server that did not know this device does now; asked once before each slow wait."""
        if closed.code != "authentication" or self._taken_back:
            self._taken_back = False
        else:
            self._taken_back = await self.returning()
        return self._taken_back

    async def _wait(self, seconds: float) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def _listen(self, client: aiohttp.ClientSession) -> PushClosed:
        """One connection from its opening to its end, and why it ended."""
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._connect(client)
            async with socket:
                return await self._converse(socket)
        except aiohttp.WSServerHandshakeError as error:
            return PushClosed(_STATUSES.get(error.status, "unreachable"), f"refused with status {error.status}")
        except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError) as error:
            return PushClosed("unreachable", str(error) or type(error).__name__)
        except StateUnavailable as error:
            return PushClosed(error.code, error.message)
        except InvalidInput as error:
            return PushClosed("confused", f"the server said what has no place: {error.message}")

    async def _connect(self, client: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        """A channel, with the revisions that we know on offer; to a server that cannot be offered any, without."""
        try:
            return await self._dial(client, subprotocols())
        except aiohttp.WSServerHandshakeError as error:
            if error.status != _BAD_REQUEST:
                raise
        return await self._dial(client, ())

    async def _dial(self, client: aiohttp.ClientSession, offered: tuple[str, ...]) -> aiohttp.ClientWebSocketResponse:
        return await client.ws_connect(
            self.address.replace("http", "ws", 1) + PATH,
            ssl=self.tls if self.tls is not None else True,
            max_msg_size=MAX_PACK,
            heartbeat=DEAD_AFTER_S,
            autoping=False,
            protocols=offered,
        )

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse) -> PushClosed:
        self.link.revision = revision_of(socket.protocol)
        session = PushSession(
            till_id=self.till_id,
            device=self.device,
            agent_version=self.agent_version,
            last_push=await self.state.last_push(),
            pack_version=self.edge.pack_version,
            claim=self.rewind.claim,
            revision=self.link.revision,
        )
        beat: asyncio.Task[None] | None = None
        try:
            while True:
                message = await socket.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    await self._take(socket, session, message.data)
                    if beat is None:
                        beat = asyncio.create_task(self._beat(socket, session), name="heartbeat")
                elif message.type is aiohttp.WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type is aiohttp.WSMsgType.PONG:
                    self._open(message.data)
                else:
                    return self._ended(socket, message)
        finally:
            if beat is not None:
                beat.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await beat

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, session: PushSession, data: bytes) -> None:
        step = session.receive(data, self.clock.now_ms())
        if isinstance(step, Say):
            await socket.send_bytes(step.data)
            self.link.greeted(session.server_ms or 0)
            await socket.ping(_OPENED)  # answered only after the server has accepted the present
            return
        if isinstance(step, Requeue):
            self.rewind.back(step.missing)
            return
        if isinstance(step, Keep):
            await self.mailbox.keep(step.push)
        elif isinstance(step, Forget):
            await self.mailbox.forget(step.push)
        else:
            self.events.pushed("repeat")
        await socket.send_bytes(session.kept(step.push))

    def _open(self, data: bytes) -> None:
        if data == _OPENED and not self._opened:
            self._opened = True
            self.link.push_opened()
            self.events.push_opened()

    async def _beat(self, socket: aiohttp.ClientWebSocketResponse, session: PushSession) -> None:
        """Send heartbeats until the channel closes, which ends the reading too."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            while not socket.closed:
                await socket.send_bytes(session.heartbeat(self.vitals()))
                await asyncio.sleep(self.heartbeat_s)

    def _ended(self, socket: aiohttp.ClientWebSocketResponse, message: aiohttp.WSMessage) -> PushClosed:
        if message.type is aiohttp.WSMsgType.TEXT:
            return PushClosed("confused", "the server sent text")
        code = _CLOSE_CODES.get(socket.close_code or 0, "closed")
        reason = f"closed with code {socket.close_code}"
        if message.type is aiohttp.WSMsgType.CLOSE and message.extra:
            reason += f": {message.extra}"
        error = message.data if message.type is aiohttp.WSMsgType.ERROR else socket.exception()
        return PushClosed(code, f"{reason} ({error})" if error is not None else reason)
