"""From the journal to the server: drives the flow over a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from tillstream_protocol.codec import encode
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.messages import Batch, BatchReply
from tillstream_protocol.signing import SignKey, sign_request

from ..clock import Clock
from ..journal import Slice
from .answers import Failure, interpret
from .flow import Rest, Send, UploadFlow
from .transport import Client, Unreachable

__all__ = ["PATH", "UploadFlow", "Uploader", "prepare"]

PATH: Final = "/till/v1/batches"
_NO_DEVICES: Final[Mapping[bytes, SignKey]] = MappingProxyType({})
_LATEST_S: Final = 10**12 - 1


class Uploader:
    """Drives the flow over a transport, for as long as the agent runs. `wake` tells it of new records.

    `devices` are the keys of earlier enrolments by key id: what they wrote as another till, they send. `returning`
    asks a server that does not know this device to take it back, and tells whether it did.
    """

    def __init__(
        self,
        flow: UploadFlow,
        transport: Client,
        device: SignKey,
        clock: Clock,
        *,
        devices: Mapping[bytes, SignKey] = _NO_DEVICES,
        returning: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._flow = flow
        self._transport = transport
        self._device = device
        self._clock = clock
        self._devices = devices
        self._returning = returning
        self._taken_back = False
        self._news = asyncio.Event()
        self.acknowledged = asyncio.Event()
        """Set whenever what the server has acknowledged, or will not take, has changed."""

    def wake(self) -> None:
        """There may be something to send."""
        self._news.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            self._news.clear()
            step = self._flow.next(self._clock.monotonic())
            if isinstance(step, Send):
                await self._send(step.slice)
                await asyncio.sleep(0)  # to take an answer in and to read on are work enough for one turn each
            else:
                await self._rest(step)

    async def _send(self, found: Slice) -> None:
        answer = await self._exchange(found)
        if isinstance(answer, Failure) and await self._is_taken_back(found, answer):
            return
        now = self._clock.monotonic()
        if isinstance(answer, Failure):
            changed = self._flow.failed(found, answer, now)
        else:
            changed = self._flow.acknowledged(found, answer, now)
        if changed:
            self.acknowledged.set()

    async def _is_taken_back(self, found: Slice, failure: Failure) -> bool:
        """Whether a server that did not know this device does now; asked once before each slow wait."""
        unknown = failure.outcome == "authentication" and failure.code == "unknown_device"
        if not unknown or found.lane == "former" or self._returning is None or self._taken_back:
            self._taken_back = False
            return False
        self._taken_back = await self._returning()
        return self._taken_back

    async def _exchange(self, found: Slice) -> BatchReply | Failure:
        device = self._device if found.lane != "former" else self._former(found)
        if device is None:
            return Failure("authentication", "no_device_key", "the key of an earlier enrolment is not here")
        created = self._clock.now_ms() // 1000
        body, headers = await asyncio.to_thread(prepare, found, device, created)
        try:
            return interpret(await self._transport.post(PATH, body, headers))
        except Unreachable as error:
            return Failure("unavailable", error.code, error.message)

    def _former(self, found: Slice) -> SignKey | None:
        return self._devices.get(ChunkHeader.decode(found.header).device_key_id)

    async def _rest(self, rest: Rest) -> None:
        if not rest.for_news:
            await asyncio.sleep(rest.seconds or 0.0)
            return
        try:
            async with asyncio.timeout(rest.seconds):  # wait_for would lose a cancellation that comes with the news
                await self._news.wait()
        except TimeoutError:
            return


def prepare(found: Slice, device: SignKey, created: int) -> tuple[bytes, dict[str, str]]:
    """A slice as a signed request's body and headers.

    `created` is in seconds since 1970; a clock that stands where no signature can say so is told as near as can be.
    """
    body = encode(Batch(found.header, found.frames, "live" if found.lane == "live" else "backlog"))
    return body, sign_request(device, "POST", PATH, body, created=min(max(0, created), _LATEST_S))
