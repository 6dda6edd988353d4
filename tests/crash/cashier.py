"""A POS that sells at a steady rate, whatever becomes of the agent, and remembers every acknowledgement.

What was not answered is asked again under the same POS id, as a POS does that lost the reply. What it was told once
must hold for ever: an answer that names a record differently than the one before is an error here already.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

BUSINESS_DATE: Final = "2026-01-31"
NOON_MS: Final = 1_769_850_000_000
MOST_UNANSWERED: Final = 64


@dataclass(frozen=True, slots=True)
class Ack:
    """What the agent said of one record: its name, and whether it survives a power cut."""

    epoch: str
    seq: int
    kind: str


def sale(pos_id: str, chance: random.Random, lines: int = 7) -> dict[str, Any]:
    """A sale of some lines; every third names a member."""
    amounts = [chance.randrange(100, 2000) for _ in range(lines)]
    made: dict[str, Any] = {
        "source": {"system": "test"},
        "kind": "sale",
        "pos_id": pos_id,
        "business_date": BUSINESS_DATE,
        "end": {"at": NOON_MS + chance.randrange(10**7)},
        "currency": "USD",
        "total": sum(amounts),
        "lines": [
            {"seq": n, "sku": f"SKU-{chance.randrange(500)}", "amount": amount} for n, amount in enumerate(amounts)
        ],
    }
    if chance.randrange(3) == 0:
        made["customer"] = {"identifiers": [{"scheme": "loyalty", "value": f"M{chance.randrange(50)}"}]}
    return made


def calls(prefix: str, seed: int) -> Iterator[tuple[str, bytes]]:
    """Sales and, now and then, members identified; every other one asks for the disk. The same for the same seed."""
    chance = random.Random(seed)
    number = 0
    while True:
        pos_id = f"{prefix}-{number}"
        ack = "disk" if chance.randrange(2) else "os"
        call: dict[str, Any] = {"call": "transactions", "ack": ack, "body": sale(pos_id, chance)}
        if chance.randrange(10) == 0:
            who = [{"scheme": "loyalty", "value": f"M{chance.randrange(50)}"}]
            call = {"call": "identify", "ack": ack, "body": {"identifiers": who, "event_id": pos_id}}
        yield pos_id, msgpack.packb(call)
        number += 1


@dataclass
class Cashier:
    """Sells `rate` times a second over the agent's socket until told to stop."""

    socket: Path
    seed: int
    rate: float
    prefix: str = "sale"
    acknowledged: dict[str, Ack] = field(default_factory=dict)
    on_ack: Callable[[str], object] = lambda _: None
    """Told of every acknowledged POS id."""
    counted: Counter[str] = field(default_factory=Counter)
    """Of replies: new, repeat, and the codes of refusals; and lost, of connections."""
    slowest_s: float = 0.0
    """The longest that one answered call took."""
    _due: deque[tuple[str, bytes]] = field(default_factory=deque)
    _unanswered: deque[tuple[str, bytes, float]] = field(default_factory=deque)
    _kept: deque[tuple[str, bytes]] = field(default_factory=lambda: deque(maxlen=500))
    """Calls answered lately: one of them is asked again on every new connection."""
    _stopping: bool = False

    def stop(self) -> None:
        """Sell nothing new; what is due is still asked until it is answered."""
        self._stopping = True

    async def work(self) -> None:
        """Sell. Raises `AssertionError` when the agent contradicts itself."""
        selling = asyncio.create_task(self._come_due())
        try:
            while not (self._stopping and selling.done() and not self._due and not self._unanswered):
                with suppress(OSError, EOFError):
                    await self._serve_connection()
                self._ask_again()
                await asyncio.sleep(0.003)
        finally:
            selling.cancel()

    async def _come_due(self) -> None:
        """Customers come by the clock, not by how fast the agent is."""
        source = calls(self.prefix, self.seed)
        began, made = time.monotonic(), 0
        while not self._stopping:
            target = int((time.monotonic() - began) * self.rate)
            for _ in range(target - made):
                self._due.append(next(source))
            made = max(made, target)
            await asyncio.sleep(min(0.005, 1 / self.rate))

    def _ask_again(self) -> None:
        """Whatever was not answered is due again, in its order."""
        if self._unanswered:
            self.counted["lost"] += len(self._unanswered)
            self._due.extendleft((pos_id, call) for pos_id, call, _ in reversed(self._unanswered))
            self._unanswered.clear()

    async def _serve_connection(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            if self._kept:
                self._due.appendleft(random.Random(len(self.acknowledged)).choice(self._kept))
            receiving = asyncio.create_task(self._receive(reader))
            try:
                while not receiving.done():
                    if self._stopping and not self._due and not self._unanswered:
                        return
                    self._send(writer)
                    await asyncio.wait({receiving}, timeout=0.003)
                await receiving
            finally:
                receiving.cancel()
        finally:
            writer.close()

    def _send(self, writer: asyncio.StreamWriter) -> None:
        now = time.monotonic()
        sent: list[bytes] = []
        while self._due and len(self._unanswered) < MOST_UNANSWERED:
            pos_id, call = self._due.popleft()
            self._unanswered.append((pos_id, call, now))
            sent.append(call)
        if sent:
            writer.write(b"".join(sent))

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        unpacker = msgpack.Unpacker()
        while data := await reader.read(65536):
            unpacker.feed(data)
            for reply in unpacker:
                self._take(reply)
        raise EOFError

    def _take(self, reply: dict[str, Any]) -> None:
        pos_id, call, sent = self._unanswered.popleft()
        if reply["status"] not in (200, 201):
            self.counted[reply["error"]["code"]] += 1
            assert reply["error"]["retryable"], reply
            self._due.append((pos_id, call))
            return
        self.slowest_s = max(self.slowest_s, time.monotonic() - sent)
        body = reply["body"]
        ack = Ack(body["epoch"], body["seq"], body["ack"])
        before = self.acknowledged.setdefault(pos_id, ack)
        assert (before.epoch, before.seq) == (ack.epoch, ack.seq), f"{pos_id} was {before}, and is {ack} now"
        self.counted["new" if reply["status"] == 201 else "repeat"] += 1
        self.on_ack(pos_id)
        self._kept.append((pos_id, call))
