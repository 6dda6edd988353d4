"""No more is opened at a time than there is room for, and nobody is passed by for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.pipelining import sale, server_at
from tillstream_server.devices import Device
from tillstream_server.pipeline import process
from tillstream_server.pipeline.opening import OpenedBatch, Opener
from tillstream_server.pipeline.room import Room


class Guests:
    """Who is in the room, and lets go when told to."""

    def __init__(self, size: int) -> None:
        self.room = Room(size)
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.leave: dict[str, asyncio.Event] = {}

    async def come(self, name: str, size: int) -> None:
        self.leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, size))
        await self.turn()

    async def go(self, name: str) -> None:
        self.leave[name].set()
        await self.tasks[name]
        await self.turn()

    async def give_up(self, name: str) -> None:
        self.tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.tasks[name]
        await self.turn()

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _stay(self, name: str, size: int) -> None:
        async with self.room.of(size):
            self.inside.append(name)
            try:
                await self.leave[name].wait()
            finally:
                self.inside.remove(name)


async def test_what_there_is_room_for_goes_in_and_the_rest_waits_in_order() -> None:
    guests = Guests(10)
    for name, size in (("a", 6), ("b", 4), ("c", 5), ("d", 1)):
        await guests.come(name, size)
    assert guests.inside == ["a", "b"]
    await guests.go("b")
    assert guests.inside == ["a"], "nobody passes c by"
    await guests.go("a")
    assert guests.inside == ["c", "d"]


async def test_who_comes_while_others_wait_waits_too() -> None:
    guests = Guests(10)
    for name, size in (("a", 6), ("b", 5), ("c", 1)):
        await guests.come(name, size)
    assert guests.inside == ["a"]


async def test_what_is_larger_than_the_room_has_all_of_it() -> None:
    guests = Guests(10)
    await guests.come("a", 1)
    await guests.come("b", 100)
    assert guests.inside == ["a"]
    await guests.go("a")
    assert guests.inside == ["b"]
    await guests.come("c", 1)
    assert guests.inside == ["b"]
    await guests.go("b")
    assert guests.inside == ["c"]


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    guests = Guests(10)
    for name, size in (("a", 6), ("b", 9), ("c", 4)):
        await guests.come(name, size)
    await guests.give_up("b")
    assert guests.inside == ["a", "c"]
    await guests.come("d", 1)
    await guests.give_up("a")
    assert guests.inside == ["c", "d"]


async def test_who_is_let_in_and_gives_up_at_once_leaves_the_room_to_the_next() -> None:
    guests = Guests(10)
    for name, size in (("a", 10), ("b", 10), ("c", 10)):
        await guests.come(name, size)
    guests.leave["a"].set()
    await guests.tasks["a"]
    guests.tasks["b"].cancel()
    await guests.turn()
    assert guests.inside == ["c"]
    await guests.go("c")
    await guests.come("d", 10)
    assert guests.inside == ["d"]


@pytest.mark.parametrize(("room", "ahead", "most"), [("AHEAD", 1, 1), ("ASIDE", 1, 1), ("AHEAD", 1 << 20, 3)])
async def test_no_batch_is_opened_before_there_is_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str, ahead: int, most: int
) -> None:
    monkeypatch.setattr(process, f"{room}_BYTES", ahead)
    monkeypatch.setattr(process, "SMALL_BYTES", 1 << 20 if room == "ASIDE" else 0)
    opened: list[int] = []
    under_way, opens = 0, Opener.open

    def counted(opener: Opener, device: Device, *args: Any) -> OpenedBatch:
        nonlocal under_way
        under_way += 1
        opened.append(under_way)
        return opens(opener, device, *args)

    monkeypatch.setattr(Opener, "open", counted)
    async with server_at(tmp_path) as server:

        async def send(till: str) -> None:
            nonlocal under_way
            await server.take(sale(till), till=till)
            under_way -= 1

        await asyncio.gather(*map(send, "123"))
        assert max(opened) == most
        assert await server.rows("SELECT count(*) FROM ledger") == [(3,)]


async def test_a_live_sale_waits_for_no_backlog_of_other_tills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "AHEAD_BYTES", 1)
    taken: list[str] = []
    async with server_at(tmp_path) as server:

        async def send(till: str, sales: int) -> None:
            await server.take(*(sale(f"{till}-{i}") for i in range(sales)), till=till)
            taken.append(till)

        backlogs = [send(till, 100) for till in "1234"]
        await asyncio.gather(*backlogs, send("live", 1))
    assert taken == ["1", "live", "2", "3", "4"]
