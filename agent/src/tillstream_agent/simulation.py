"""A made-up sale through the real hook, marked as training: it goes the whole way, and counts nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec
from msgspec import Struct

from tillstream_protocol.transaction import Line, Moment, Source, Tender, Transaction

from .calling import CallFailed, call_hook
from .clock import Clock, local_offset_minutes
from .folder import Folder
from .inspection import ask, list_queue

SYSTEM: Final = "tillstream-simulate"
ANSWER_S: Final = 5.0
POLL_S: Final = 0.1
_GOODS: Final = (("SIM-1", "made-up coffee", 320), ("SIM-2", "made-up bread", 245), ("SIM-3", "made-up jam", 410))
Ack = Literal["os", "disk"]


class _Taken(Struct):
    till: str
    epoch: str
    seq: int
    ack: str


class Simulated(Struct, frozen=True):
    """What became of the sale: its name, how long the hook took, and whether the server has taken it."""

    pos_id: str
    till: str
    epoch: str
    seq: int
    ack: str
    took_ms: float
    sent: bool
    """False where the server would not take it, or the queue was not empty when the time to wait was over."""
    refused: str = ""
    """Why the server would not take it, as a code; else empty."""


def made_up(clock: Clock, randomness: Callable[[int], bytes]) -> Transaction:
    """A sale of three things that nobody sells, in cash, by nobody to nobody."""
    now = clock.now_ms()
    offset = local_offset_minutes(now)
    local = datetime.fromtimestamp(now / 1000, UTC) + timedelta(minutes=offset)
    total = sum(amount for _, _, amount in _GOODS)
    return Transaction(
        source=Source(SYSTEM),
        kind="sale",
        pos_id=f"simulated-{randomness(8).hex()}",
        business_date=local.date().isoformat(),
        end=Moment(now, offset),
        training=True,
        total=total,
        lines=tuple(
            Line(seq=number, sku=sku, name=name, amount=amount)
            for number, (sku, name, amount) in enumerate(_GOODS, start=1)
        ),
        tenders=(Tender(type="cash", amount=total),),
    )


async def simulate(
    folder: Folder,
    clock: Clock,
    randomness: Callable[[int], bytes],
    *,
    ack: Ack = "os",
    wait_s: float = 10.0,
    timer: Callable[[], float],
) -> Simulated:
    """Sell something made up at a running agent. `timer` measures seconds.

    Raises `CallFailed`, `NoAnswer`, `NotEnrolled` or `StateError`.
    """
    folder.identity()
    status = await ask(folder)
    sale = made_up(clock, randomness)
    started = timer()
    try:
        async with asyncio.timeout(ANSWER_S):
            path = f"/v1/transactions?ack={ack}"
            answer = await call_hook(status.http_port or 0, folder.hook_token(), "POST", path, sale)
    except TimeoutError as error:
        raise CallFailed("the hook does not answer in time", hint="see tillstream-agent doctor") from error
    took = timer() - started
    if answer.status != 201:
        message = f"the hook refused a made-up sale with status {answer.status}"
        raise CallFailed(message, hint="see tillstream-agent logs")
    taken = msgspec.json.decode(answer.body, type=_Taken)
    sent = await _is_sent(folder, wait_s)
    refused = await _refusal(folder, clock, taken)
    took_ms = round(took * 1000, 3)
    return Simulated(sale.pos_id, taken.till, taken.epoch, taken.seq, taken.ack, took_ms, sent and not refused, refused)


async def _refusal(folder: Folder, clock: Clock, taken: _Taken) -> str:
    """Why the server would not take the sale, which then is in no queue either; empty where it did not say so."""
    page = await list_queue(folder, clock)
    return next((line.code for line in page.lines if (line.epoch, line.seq) == (taken.epoch, taken.seq)), "")


async def _is_sent(folder: Folder, wait_s: float) -> bool:
    """Whether the queue runs empty within so many seconds."""
    tries = max(1, round(wait_s / POLL_S))
    for number in range(tries):
        if (await ask(folder)).queue.records == 0:
            return True
        if number < tries - 1:
            await asyncio.sleep(POLL_S)
    return False
