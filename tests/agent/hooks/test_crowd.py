"""The door bears so many callers, each for so long; whoever has shown the token goes last."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from support.agents import Counter, counter, enrolled, running_agent
from support.doors import http_door
from support.gateways import gateway
from tillstream_agent.hooks.crowd import Caps, Crowd, Rates, TooManyCalls
from tillstream_agent.hooks.pairing import Pairing

TOKEN = "k" * 43


class Guest:
    """A connection that says of itself whatever a test wants."""

    def __init__(self, since: float = 0.0, *, trusted: bool = False, served: bool = False, whole: bool = True) -> None:
        self.since = since
        self.trusted = trusted
        self.served = served
        self.gone = False
        self._whole = whole

    def whole(self) -> bool:
        return self._whole

    def leave(self) -> None:
        self.gone = True


def crowd(*guests: Guest) -> Crowd:
    made = Crowd(Caps(connections=max(len(guests), 1), request_s=10))
    assert all(made.enter(guest) for guest in guests)
    return made


def test_when_it_is_full_the_stranger_who_waited_longest_goes() -> None:
    guests = [Guest(1, trusted=True), Guest(3), Guest(2), Guest(0, trusted=True, served=True)]
    assert crowd(*guests).enter(Guest(9))
    assert [guest.gone for guest in guests] == [False, False, True, False]


def test_among_friends_the_longest_idle_goes_and_nobody_who_is_served() -> None:
    guests = [Guest(0, trusted=True, served=True), Guest(2, trusted=True), Guest(1, trusted=True)]
    assert crowd(*guests).enter(Guest(9))
    assert [guest.gone for guest in guests] == [False, False, True]


def test_where_everybody_is_served_there_is_no_room() -> None:
    assert not crowd(Guest(0, trusted=True, served=True)).enter(Guest(9))


def test_who_left_makes_room() -> None:
    guest = Guest(trusted=True, served=True)
    full = crowd(guest)
    full.left(guest)
    full.left(guest)
    assert full.enter(Guest())
    assert len(full) == 1


@pytest.mark.parametrize(
    ("guest", "goes"),
    [
        (Guest(), True),
        (Guest(1), False),
        (Guest(trusted=True), False),
        (Guest(served=True), False),
        (Guest(served=True, whole=False), True),
        (Guest(served=True, whole=False, trusted=True), True),
    ],
)
def test_a_request_has_its_time_to_arrive_and_a_stranger_to_begin_one(guest: Guest, goes: bool) -> None:
    guest.gone = False
    assert crowd(guest).sweep(10.5) == goes
    assert guest.gone == goes


def test_each_caller_has_calls_of_its_own_and_they_come_back() -> None:
    rates = Rates(Caps(calls=2))
    for _ in range(2):
        rates.count("a", 0.0, trusted=True)
    with pytest.raises(TooManyCalls) as caught:
        rates.count("a", 0.0, trusted=True)
    assert (caught.value.retryable, caught.value.limit) == (True, "2 a second")
    rates.count("b", 0.0, trusted=False)
    rates.count("a", 0.5, trusted=True)
    with pytest.raises(TooManyCalls):
        rates.count("a", 0.5, trusted=True)


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Counter]:
    async with counter(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def door(behind: Counter, caps: Caps) -> AsyncIterator[int]:
    pairing = Pairing(Path("nowhere"), TOKEN, behind.clock, os.urandom)
    opened = http_door(behind, pairing, caps=caps)
    try:
        yield await opened.open(0)
    finally:
        await opened.close()


class Caller:
    """A connection from outside."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port = port
        self._reader = reader
        self._writer = writer

    @classmethod
    async def arrives(cls, port: int) -> Caller:
        return cls(port, *await asyncio.open_connection("127.0.0.1", port))

    def writes(self, text: str) -> None:
        self._writer.write(text.encode())

    def says(self, *lines: str) -> None:
        self.writes("\r\n".join((lines[0], f"Host: 127.0.0.1:{self._port}", *lines[1:], "", "")))

    async def asks(self, token: str = TOKEN) -> int:
        """The status of an ordinary question."""
        self.says("GET /v1/status HTTP/1.1", f"Authorization: Bearer {token}")
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(one.split(b":")[1]) for one in head.splitlines() if one.lower().startswith(b"content-length"))
        await self._reader.readexactly(length)
        return int(head.split()[1])

    async def hears(self) -> bytes:
        """What comes until the agent hangs up."""
        async with asyncio.timeout(10):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def leaves(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def test_strangers_who_hold_every_connection_do_not_keep_the_pos_out(behind: Counter) -> None:
    async with door(behind, Caps(connections=8)) as port:
        pos = await Caller.arrives(port)
        assert await pos.asks() == 200
        strangers = [await Caller.arrives(port) for _ in range(30)]
        assert await strangers[0].hears() == b""
        assert await pos.asks() == 200
        late = await Caller.arrives(port)
        assert await late.asks() == 200
        for caller in (pos, late, *strangers):
            await caller.leaves()


async def test_where_all_who_are_connected_are_being_served_one_more_is_turned_away(behind: Counter) -> None:
    async with door(behind, Caps(connections=2)) as port:
        screens = [await Caller.arrives(port) for _ in range(2)]
        for screen in screens:
            screen.says("GET /display/stream HTTP/1.1", f"Authorization: Bearer {TOKEN}")
            await screen._reader.readuntil(b"event: board")
        late = await Caller.arrives(port)
        assert await late.hears() == b""
        assert behind.telling.counted("refusals", reason="too_many_connections") == 1
        for caller in (late, *screens):
            await caller.leaves()


@pytest.mark.parametrize(
    "begun",
    [
        "",
        "GET /v1/status HTTP/1.1\r\nX-Slow: never ends",
        f"POST /v1/transactions HTTP/1.1\r\nHost: 127.0.0.1:{{port}}\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_who_is_slow_is_sent_away(behind: Counter, begun: str) -> None:
    async with door(behind, Caps(request_s=0.2)) as port:
        caller = await Caller.arrives(port)
        caller.writes(begun.replace("{port}", str(port)))
        assert await caller.hears() == b""
        assert behind.telling.counted("refusals", reason="too_slow") == 1
        await caller.leaves()
    assert behind.journal.position.seq == 0


async def test_a_pos_that_rests_between_two_sales_keeps_its_connection(behind: Counter) -> None:
    async with door(behind, Caps(request_s=0.05)) as port:
        pos, stranger = await Caller.arrives(port), await Caller.arrives(port)
        assert await pos.asks() == 200
        assert await stranger.hears() == b""
        assert await pos.asks() == 200
        for caller in (pos, stranger):
            await caller.leaves()


async def test_what_the_agent_leaves_on_the_disk_is_its_users_alone(tmp_path: Path) -> None:
    async with gateway() as server:
        folder = await enrolled(tmp_path / "state", server)
        async with running_agent(folder):
            found = {path: stat.S_IMODE(path.lstat().st_mode) for path in [folder.path, *folder.path.rglob("*")]}
    assert folder.socket in found
    assert {path.name: oct(mode) for path, mode in found.items() if mode & 0o077} == {}
