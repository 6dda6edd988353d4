"""A server may die at any point of a batch, its replies may be lost, and batches may come late, twice or in any order:
every record is in the ledger once, and the till knows it in the end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.intakes import Desk
from support.pipelining import NOW, Till, member, prepare, sale, server_at
from tillstream_protocol.events import Record
from tillstream_protocol.messages import BatchReply, Range
from tillstream_protocol.ranges import contains, merge
from tillstream_server.keys import ServerKeys
from tillstream_server.ledger.database import LedgerFault
from tillstream_server.pipeline.rebuild import rebuild

RECORDS = 12
Fate = Literal["answered", "killed before the commit", "killed after the commit"]


@dataclass(frozen=True)
class Delivery:
    """One batch on its way, and what becomes of it."""

    first: int
    last: int
    fate: Fate


@dataclass(frozen=True)
class Blank:
    """An empty server that can be copied."""

    folder: Path
    keys: ServerKeys


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Blank:
    folder = tmp_path_factory.mktemp("blank")
    return Blank(folder, asyncio.run(prepare(folder)))


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    first = draw(st.integers(0, RECORDS - 1))
    fates: list[Fate] = ["answered", "killed before the commit", "killed after the commit"]
    return Delivery(first, draw(st.integers(first, RECORDS - 1)), draw(st.sampled_from(fates)))


class Sender:
    """A till that has sealed its records once and keeps sending what is not acknowledged."""

    def __init__(self, keys: ServerKeys) -> None:
        self.till = Till(keys, "1")
        bodies = [sale(str(number), customer=member(str(number % 3))) for number in range(RECORDS)]
        self.frames = [self.till.frame(Record(body, NOW)) for body in bodies]
        self.acked: tuple[Range, ...] = ()

    async def sends(self, desk: Desk, first: int, last: int) -> BatchReply:
        return await desk.intake.take(self.till.device, self.till.frames(*self.frames[first : last + 1]))

    async def delivers(self, desk: Desk, one: Delivery) -> None:
        if one.fate == "killed before the commit":
            desk.server.listener.error = LedgerFault("planted")
            fresh = [seq for seq in range(one.first, one.last + 1) if seq not in await desk.stored()]
            if fresh:
                with pytest.raises(LedgerFault):
                    await self.sends(desk, one.first, one.last)
            return
        reply = await self.sends(desk, one.first, one.last)
        assert all(contains(reply.acked, seq) for seq in range(one.first, one.last + 1))
        if one.fate == "answered":
            self.acked = merge([*self.acked, *reply.acked])


async def lives_through(folder: Path, keys: ServerKeys, fates: Sequence[Delivery]) -> None:
    sender = Sender(keys)
    known = False
    for one in [*fates, Delivery(0, RECORDS - 1, "answered")]:
        async with server_at(folder, server_keys=keys) as server:  # what was killed begins anew
            desk = Desk(server)
            server.tills["1"] = sender.till
            if not known:
                await desk.enrols()
                known = True
            await sender.delivers(desk, one)
            held = await desk.stored()
            assert held == sorted(set(held))
            assert all(seq in held for acked in sender.acked for seq in range(acked.first, acked.last + 1))
    async with server_at(folder, server_keys=keys) as server:
        assert await Desk(server).stored() == list(range(RECORDS))
        assert await server.rows("SELECT sum(transactions) FROM sales_by_hour") == [(RECORDS,)]
        assert await server.rows("SELECT count(*) FROM duplicate") == [(0,)]
        before = await server.projections()
        await rebuild(server.database)
        assert await server.projections() == before


@settings(deadline=None, max_examples=12)
@given(st.lists(deliveries(), max_size=6))
def test_whenever_the_server_dies_nothing_is_lost_and_nothing_counts_twice(blank: Blank, fates: list[Delivery]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "server"
        shutil.copytree(blank.folder, folder)
        asyncio.run(lives_through(folder, blank.keys, fates))


async def test_a_reply_that_was_lost_is_given_again_and_nothing_is_counted_twice(blank: Blank, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    shutil.copytree(blank.folder, folder)
    lost = [Delivery(seq, seq, "killed after the commit") for seq in range(RECORDS)]
    await lives_through(folder, blank.keys, lost)
