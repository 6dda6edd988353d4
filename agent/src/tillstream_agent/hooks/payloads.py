"""A POS's own bytes: read by an adapter, then captured like any other sale, with the bytes sealed beside it.

An adapter refuses a payload as a whole before anything of it is captured, and so does whatever is wrong with one of its
transactions. If the journal fails half way, the same payload again captures the rest: what was captured is a repeat.

Adapters may take long over a large payload, and so may the search for card numbers in its bytes. Both are done in
threads of their own: two of them, for small payloads never to wait for more than one large one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace as with_changes

from tillstream_protocol.adapters import Adapter, Reading, Setting
from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.events import Original
from tillstream_protocol.transaction import Transaction

from ..capture import DISK_DEADLINE, Captured, cut_ahead
from ..config_doors import AdapterSetting, Doors
from .replies import Ack, Outcome, Reply
from .requests import Desk, UnknownAdapter

ANY: Final = "application/octet-stream"
_LARGE: Final = 1024 * 1024
_LATEST_MS: Final = 253_370_764_800_000
"""The year 9999. A file may claim to have been written later."""
_BREATH: Final = 16
"""Transactions after which other callers have their turn."""
_DURABLE_EVERY: Final = 512
"""Transactions after which the disk is waited for, where it is asked for: what waits for a sync is in memory."""


class TakenSale(Struct, frozen=True):
    """One transaction of a payload, as it was captured. Ids are hex."""

    till: str
    epoch: str
    seq: int
    ack: Ack
    repeat: bool
    effects: tuple[Outcome, ...] | UnsetType = UNSET


class Adapted(Struct, frozen=True):
    """The reply to a payload: its transactions in order; none, if it is of a kind that sells nothing."""

    transactions: tuple[TakenSale, ...]

    @property
    def status(self) -> int:
        """201 where anything was captured, 200 for nothing but repeats."""
        return 201 if any(not one.repeat for one in self.transactions) else 200


@dataclass(frozen=True, slots=True)
class Sale:
    """A transaction that is ready to be captured, and the bytes that it was read from."""

    transaction: Transaction
    original: Original


class Payloads:
    """Reads and captures payloads for every door. `currency` is the till's own."""

    def __init__(self, desk: Desk, doors: Doors, *, currency: str) -> None:
        self._desk = desk
        self._doors = doors
        self._currency = currency or None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="adapter")
        self._large = asyncio.Lock()
        self._formats: dict[str, Adapter] = {}

    def close(self) -> None:
        """Take no more payloads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def media_types(self, name: str) -> tuple[str, ...]:
        """What a payload for this adapter may be sent as. Raises `UnknownAdapter`."""
        adapter = await self._format(self._reading(name).adapter)
        return tuple(dict.fromkeys((adapter.media_type, *adapter.also, ANY)))

    async def take(self, name: str, data: bytes, ack: Ack, media_type: str = ANY) -> Adapted:
        """Capture what a payload holds. Raises `UnknownAdapter`, `InvalidInput` and `JournalError`."""
        sales = await self.read(name, data, media_type=media_type)
        captured = await self.capture(sales, durable=DISK_DEADLINE if ack == "disk" else 0.0)
        return Adapted(tuple(self._taken(one, ack) for one in captured))

    async def read(
        self, name: str, data: bytes, *, media_type: str = ANY, received_ms: int | None = None
    ) -> list[Sale]:
        """What a payload holds, ready to be captured as it stands. Nothing is captured yet.

        `received_ms` is when it came, for formats that need not say when they were written. Raises `UnknownAdapter`
        and `InvalidInput`.
        """
        reading = self._reading(name)
        adapter, setting = await self._format(reading.adapter), self._setting(reading.setting, received_ms)
        run = asyncio.get_running_loop().run_in_executor
        work = partial(_sales, data, adapter, setting, reading.sure, media_type)
        if len(data) > _LARGE:
            async with self._large:
                sales = await run(self._threads, work)
        else:
            sales = await run(self._threads, work)
        for number, sale in enumerate(sales):
            self._admit(sale, f"transactions[{number}]." if len(sales) > 1 else "")
            if number % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
        return sales

    async def capture(self, sales: Sequence[Sale], *, durable: float = 0.0, at_hand: bool = True) -> list[Captured]:
        """Capture sales in order; with `durable`, return when they survive a power cut, or fail after so many seconds.

        With `at_hand`, the cashier's page turns to the last of them. Raises `InvalidInput` and `JournalError`: what
        comes before the one that failed stays captured, and is a repeat when it comes again.
        """
        captured: list[Captured] = []
        for number, sale in enumerate(sales, 1):
            last = number == len(sales)
            captured.append(self._desk.transaction(sale.transaction, sale.original, at_hand=at_hand and last))
            if durable and (last or number % _DURABLE_EVERY == 0):
                for one in captured[-_DURABLE_EVERY:]:  # a repeat may lie in another epoch, so the last is not enough
                    await self._desk.durable(one, durable)
            elif number % _BREATH == 0:
                await asyncio.sleep(0)
        return captured

    def _taken(self, captured: Captured, ack: Ack) -> TakenSale:
        reply = self._desk.reply(captured, ack)
        assert isinstance(reply, Reply)
        return TakenSale(reply.till, reply.epoch, reply.seq, reply.ack, captured.repeat, reply.effects)

    async def _format(self, name: str) -> Adapter:
        """An adapter; its module is imported, in a thread, when it is first used."""
        if name not in self._formats:
            run = asyncio.get_running_loop().run_in_executor
            self._formats[name] = await run(self._threads, ADAPTERS.__getitem__, name)
        return self._formats[name]

    def _reading(self, name: str) -> AdapterSetting:
        reading = self._doors.reading(name)
        if reading is None:
            known = ", ".join(dict.fromkeys((*self._doors.adapters, *ADAPTERS)))
            raise UnknownAdapter("there is no adapter of this name", field="name", limit=known)
        return reading

    def _setting(self, setting: Setting, received_ms: int | None) -> Setting:
        options: Mapping[str, object] = setting.options
        if received_ms is not None and 0 <= received_ms < _LATEST_MS:
            received = datetime.fromtimestamp(received_ms / 1000, setting.zone)
            options = {"received": received.isoformat(timespec="milliseconds"), **options}
        return replace(setting, currency=setting.currency or self._currency, options=options)

    def _admit(self, sale: Sale, where: str) -> None:
        try:
            self._desk.admit(sale.transaction, sale.original)
        except InvalidInput as error:
            error.field = where + (error.field or "body")
            raise


def _sales(data: bytes, adapter: Adapter, setting: Setting, sure: float, media_type: str) -> list[Sale]:
    kind = media_type if media_type != ANY else adapter.media_type
    return [_sale(one, sure, kind) for one in adapter.read(data, setting)]


def _sale(one: Reading, sure: float, media_type: str) -> Sale:
    """A sale, and the bytes with their card numbers cut, as far as a record has room for them."""
    sale = _transaction(one, sure)
    whole = Original(media_type, hashlib.sha256(one.original).digest(), one.original)
    return Sale(sale, cut_ahead(whole, sale))


def _transaction(one: Reading, sure: float) -> Transaction:
    sale = one.transaction
    return (
        sale if one.confidence >= sure else with_changes(sale, ext={**(sale.ext or {}), "confidence": one.confidence})
    )
