"""Whatever order records arrive in, however often and in whatever batches, the projections come to the same; and so
does a rebuild."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.pipelining import DAY, NOW, Server, Till, member, prepare, sale, server_at, void
from tillstream_protocol.events import MemberIdentified, Record
from tillstream_protocol.transaction import Identifier, Line, Moment, Transaction
from tillstream_server.keys import ServerKeys
from tillstream_server.pipeline.rebuild import rebuild

TILLS = ("1", "2")
POS_IDS = ("a", "b", "c")


@dataclass(frozen=True)
class Blank:
    """An empty server that can be copied."""

    folder: Path
    keys: ServerKeys


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Blank:
    folder = tmp_path_factory.mktemp("blank")
    return Blank(folder, asyncio.run(prepare(folder)))


def _return(pos_id: str, price: int, who: str | None, day: int, revision: int) -> Transaction:
    line = Line(seq=0, amount=-price, quantity="-1.5", sku="x", hierarchy=("FOOD",))
    customer = None if who is None else member(who)
    fields = {"customer": customer, "revision": revision, "business_date": f"2026-09-{10 + day}"}
    return sale(pos_id, kind="return", lines=(line,), total=-price, **fields)


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    """Few transactions under few names, so that revisions, duplicates and voids meet."""
    pos_id = draw(st.sampled_from(POS_IDS))
    price = draw(st.sampled_from((100, 250)))
    who = draw(st.sampled_from((None, "ann", "bob")))
    day = draw(st.integers(0, 2))
    revision = draw(st.sampled_from((0, 0, 0, 1)))
    kind = draw(st.sampled_from(("sale", "sale", "sale", "void", "void", "return", "training")))
    if kind == "void":
        targets = draw(st.sets(st.sampled_from(POS_IDS), max_size=2))
        return void(pos_id, *sorted(targets), revision=revision)
    if kind == "return":
        return _return(pos_id, price, who, 0, revision)
    customer = None if who is None else member(who)
    return sale(
        pos_id,
        price,
        customer=customer,
        end=Moment(NOW + day * DAY),
        revision=revision,
        training=kind == "training",
    )


bodies = transactions() | st.sampled_from([MemberIdentified((Identifier("loyalty", "ann"),), event_id="e", at=NOW)])
records = st.builds(Record, bodies, captured_at=st.integers(NOW, NOW + 2))


@dataclass(frozen=True)
class Named:
    """A record under its name."""

    till: str
    seq: int
    record: Record


@st.composite
def journals(draw: st.DrawFn) -> list[Named]:
    """What some tills have captured."""
    captured = draw(st.lists(st.tuples(st.sampled_from(TILLS), records), min_size=1, max_size=10))
    return [Named(till, seq, record) for seq, (till, record) in enumerate(captured)]


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Named], list[Named], int]:
    """A journal, another order of its records in which some come again, and the size of a batch."""
    journal = draw(journals())
    again = draw(st.lists(st.sampled_from(journal), max_size=4))
    return journal, draw(st.permutations(journal + again)), draw(st.integers(1, 4))


async def deliver(server: Server, arriving: Sequence[Named], size: int) -> None:
    """Batches of at most `size` records, each from one till."""
    tills = {name: Till(server.keys, name, epoch=name.encode() * 16) for name in TILLS}
    for start in range(0, len(arriving), size):
        for name, till in tills.items():
            frames = [till.frame(n.record, seq=n.seq) for n in arriving[start : start + size] if n.till == name]
            if frames:
                outcome = await server.pipeline.process(till.device, till.frames(*frames))
                assert (outcome.dead, outcome.conflicts) == ((), ())


async def projections_after(blank: Blank, arriving: Sequence[Named], size: int) -> Mapping[str, list[str]]:
    """What a new server comes to, which is also what its rebuild comes to."""
    with tempfile.TemporaryDirectory() as folder:
        for file in blank.folder.glob("*.db"):
            shutil.copy(file, folder)
        async with server_at(Path(folder), server_keys=blank.keys) as server:
            await deliver(server, arriving, size)
            live = await server.projections()
            await rebuild(server.database, page=3)
            assert await server.projections() == live
            return live


@settings(max_examples=60, deadline=None)
@given(case=arrivals())
def test_any_order_of_arrival_comes_to_the_same(blank: Blank, case: tuple[list[Named], list[Named], int]) -> None:
    async def run() -> None:
        journal, arriving, size = case
        in_order = await projections_after(blank, journal, len(journal))
        assert await projections_after(blank, arriving, size) == in_order

    asyncio.run(run())
