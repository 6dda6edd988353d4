"""What waits is taken together; what fails together is taken alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tillstream_server.ledger.database import LedgerBusy
from tillstream_server.pipeline.grouping import Groups


class Desk:
    """Takes names in groups, once it is open, and fails over those that it is told to."""

    def __init__(self, **errors: Exception) -> None:
        self.groups: list[str] = []
        self.opened = asyncio.Event()
        self.errors = errors
        self.most = 10

    async def take(self, group: Sequence[str]) -> list[str]:
        self.groups.append("".join(group))
        await self.opened.wait()
        for name in group:
            if name in self.errors:
                raise self.errors[name]
        return [name.upper() for name in group]

    def fits(self, group: Sequence[str], one: str) -> bool:
        return len(group) < self.most


async def come(desk: Desk, names: str) -> list[asyncio.Task[str]]:
    """These names, one after the other; the first is taken at once, and the others wait for it."""
    groups = Groups(desk.take, desk.fits)
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(groups.take(name)))
        await asyncio.sleep(0)
    return tasks


async def test_one_alone_waits_for_nobody() -> None:
    desk = Desk()
    desk.opened.set()
    assert await Groups(desk.take, desk.fits).take("a") == "A"
    assert desk.groups == ["a"]


async def test_what_comes_while_another_is_taken_is_taken_together() -> None:
    desk = Desk()
    tasks = await come(desk, "abcd")
    desk.opened.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]
    assert desk.groups == ["a", "bcd"]


async def test_what_does_not_fit_is_taken_next() -> None:
    desk = Desk()
    desk.most = 2
    tasks = await come(desk, "abcde")
    desk.opened.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E"]
    assert desk.groups == ["a", "bc", "de"]


async def test_of_a_group_that_fails_each_is_taken_alone() -> None:
    desk = Desk(c=KeyError("c"))
    tasks = await come(desk, "abcd")
    desk.opened.set()
    a, b, c, d = await asyncio.gather(*tasks, return_exceptions=True)
    assert (a, b, d) == ("A", "B", "D")
    assert c is desk.errors["c"]
    assert desk.groups == ["a", "bcd", "b", "c", "d"]


async def test_what_comes_later_is_not_held_back_by_a_group_that_failed() -> None:
    desk = Desk(c=KeyError("c"))
    groups = Groups(desk.take, desk.fits)
    tasks = []
    for name in "abc":
        tasks.append(asyncio.create_task(groups.take(name)))
        await asyncio.sleep(0)
    desk.opened.set()
    while "bc" not in desk.groups:
        await asyncio.sleep(0)
    assert await groups.take("d") == "D"
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [str, str, KeyError]


async def test_the_machines_fault_is_told_to_the_whole_group_at_once() -> None:
    desk = Desk(c=LedgerBusy("locked"))
    tasks = await come(desk, "abcd")
    desk.opened.set()
    a, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert a == "A"
    assert others == [desk.errors["c"]] * 3
    assert desk.groups == ["a", "bcd"]


async def test_where_the_leader_is_cancelled_another_leads() -> None:
    desk = Desk()
    first, second, third = await come(desk, "abc")
    first.cancel()
    desk.opened.set()
    assert [await second, await third] == ["B", "C"]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert desk.groups == ["a", "bc"]


async def test_what_nobody_waits_for_any_more_is_not_taken() -> None:
    desk = Desk()
    first, second, third = await come(desk, "abc")
    second.cancel()
    await asyncio.sleep(0)
    desk.opened.set()
    assert [await first, await third] == ["A", "C"]
    assert desk.groups == ["a", "c"]


async def test_what_was_taken_answers_at_once_though_the_next_group_is_under_way() -> None:
    desk = Desk()
    desk.opened.set()
    held = asyncio.Event()

    async def take(group: Sequence[str]) -> list[str]:
        await (held.wait() if "d" in group else asyncio.sleep(0))
        return await desk.take(group)

    desk.most = 2
    groups = Groups(take, desk.fits)
    first, second, third, last = (asyncio.create_task(groups.take(name)) for name in "abcd")
    assert [await first, await second, await third] == ["A", "B", "C"]
    assert (desk.groups, last.done()) == (["a", "bc"], False)
    held.set()
    assert await last == "D"


async def test_whoever_asks_to_be_alone_is_taken_alone() -> None:
    desk = Desk()
    groups = Groups(desk.take, desk.fits)
    desk.most = 2
    tasks = []
    for name in "abcde":
        tasks.append(asyncio.create_task(groups.take(name, alone=name == "c")))
        await asyncio.sleep(0)
    desk.opened.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E"]
    assert desk.groups == ["a", "bd", "c", "e"]


async def test_too_few_results_are_an_error_and_nobody_waits_for_ever() -> None:
    async def take(group: Sequence[str]) -> list[str]:
        await asyncio.sleep(0)
        return [name.upper() for name in group][: len(group) // 2 or 1]

    groups = Groups(take, lambda _group, _one: True)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(groups.take(name) for name in "abc")) == ["A", "B", "C"]


async def test_one_who_is_cancelled_as_the_turn_comes_passes_it_on() -> None:
    desk = Desk()
    desk.most = 1
    first, second, third = await come(desk, "abc")
    desk.opened.set()
    await desk.opened.wait()
    asyncio.get_running_loop().call_soon(second.cancel)  # after the first has handed over, before the second can lead
    assert [await first, await third] == ["A", "C"]
    with pytest.raises(asyncio.CancelledError):
        await second
    assert desk.groups == ["a", "c"]
