"""The POS systems: they ring up sales, ask again when they heard nothing, and note what they were told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from support.simdisk import PowerOff
from tillstream_agent.capture import Captured, NotOnDisk
from tillstream_agent.journal import JournalError
from tillstream_protocol.transaction import (
    Customer,
    Identifier,
    Line,
    Link,
    Moment,
    Source,
    Tender,
    Transaction,
)

from .chance import BASE_MS, Chance
from .fate import Fate, Kept, Violation
from .history import History
from .till import Machine

TRIES: Final = 30
Ack = Literal["os", "disk"]


@dataclass(frozen=True, slots=True)
class Order:
    """A sale to be rung up. `deaf` is how many replies the POS does not hear."""

    sale: Transaction
    ack: Ack
    deaf: int


def order(number: int, till: str, chance: Chance) -> Order:
    """The sale of this number, drawn from chance."""
    prices = [chance.randrange(100, 3_000) for _ in range(chance.randrange(1, 4))]
    lines = tuple(Line(seq=i, amount=p, sku=f"sku-{chance.randrange(8)}") for i, p in enumerate(prices))
    voids = number > 3 and chance.happens(0.05)
    member = Customer(identifiers=(Identifier("loyalty", f"47{chance.randrange(6):05}"),))
    sale = Transaction(
        source=Source("pos"),
        kind="void" if voids else "sale",
        pos_id=str(number),
        business_date="2026-09-21",
        end=Moment(BASE_MS + number),
        currency="USD",
        total=0 if voids else sum(prices),
        lines=() if voids else lines,
        tenders=() if voids else (Tender("cash", sum(prices)),),
        links=(Link("voids", str(number - chance.randrange(1, 4)), till=till),) if voids else (),
        customer=member if chance.happens(0.3) else None,
    )
    ack: Ack = "disk" if chance.happens(0.3) else "os"
    return Order(sale, ack, deaf=1 if chance.happens(0.1) else 0)


class Pos:
    """One POS at one machine."""

    def __init__(self, machine: Machine, fate: Fate, history: History, time: Callable[[], float]) -> None:
        self._machine = machine
        self._fate = fate
        self._history = history
        self._time = time
        self._chance = machine.chance.stream("pos")
        self._sold = asyncio.Event()

    async def next_sale(self) -> None:
        """Return when something more was captured, or after some seconds without."""
        self._sold.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10.0):
                await self._sold.wait()

    async def ring_up(self, order: Order) -> None:
        """Have a sale captured: ask again until it is told that it was, or gives up."""
        deaf = order.deaf
        self._fate.attempted[order.sale.pos_id] = None
        for _ in range(TRIES):
            record = await self._ask(order)
            if record is not None and deaf == 0:
                record.told = True
                return
            if record is not None:
                deaf -= 1
            await asyncio.sleep(self._chance.uniform(0.2, 8.0))
        self._history.say(self._machine.name, f"sale {order.sale.pos_id} was given up")

    async def _ask(self, order: Order) -> Kept | None:
        machine = self._machine
        if not machine.up:
            return None
        process, sale = machine.process, order.sale
        try:
            captured = self._capture(sale)
        except PowerOff:
            return None
        except JournalError as error:
            self._history.say(machine.name, f"sale {sale.pos_id} is refused: {error.code}")
            return None
        name = (captured.name.epoch, captured.name.seq)
        record = self._fate.captured(name, sale.pos_id, machine.name, self._time(), repeat=captured.repeat)
        self._sold.set()
        known = " again" if captured.repeat else ""
        self._history.say(machine.name, f"sale {sale.pos_id} is {name[0].hex()[:6]}/{name[1]}{known}")
        if order.ack == "disk":
            task = process.spawn(machine.core.desk.durable(captured))
            await asyncio.wait([task])
            if not process.alive or task.cancelled():
                return None
            failed = task.exception()
            if failed is not None and not isinstance(failed, (NotOnDisk, JournalError, PowerOff)):
                raise failed
            record.on_disk = record.on_disk or failed is None
        return record if process.alive else None

    def _capture(self, sale: Transaction) -> Captured:
        """Nothing in a capture may wait: not even for a moment of made-up time."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        captured: Captured = self._machine.core.desk.transaction(sale)
        if loop.time() != before:
            raise Violation("a POS call waited")
        return captured
