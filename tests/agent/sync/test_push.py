"""The push channel: nothing is missed, nothing shown twice or too late, and a receipt means that it is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from support.agents import NOW_MS, Telling, offer, offer_push
from support.gateways import NEVER_MS, TILL_ID, Gateway, gateway
from support.tills import TurnedClock
from tillstream_agent.display.board import Board
from tillstream_agent.folder import Folder, Identity
from tillstream_agent.journal import Journal, JournalIdentity
from tillstream_agent.offers.edge import Edge
from tillstream_agent.state import State, StateUnavailable
from tillstream_agent.sync import push as push_module
from tillstream_agent.sync.keys import SealingKeys
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.push import (
    Mailbox,
    OutOfTurn,
    PushChannel,
)
from tillstream_agent.sync.rewind import Rewind
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import (
    EpochRanges,
    HookLatency,
    PackPush,
    Push,
    Range,
    Revoked,
    Vitals,
)
from tillstream_protocol.pack import MAX_PACK
from tillstream_protocol.sealing import key_id
from tillstream_protocol.signing import SignKey

DEVICE = SignKey(b"d" * 32)
EPOCH = b"e" * 16
ACKED = (EpochRanges(EPOCH, (Range(0, 4), Range(8, 9))),)


@dataclass
class Till:
    """A till with an open channel to a stand-in server."""

    server: Gateway
    folder: Folder
    journal: Journal
    changes: list[str]
    returns: list[bool]
    """What the server answers to the requests to be taken back; no more when it is empty."""
    channel: PushChannel
    state: State
    board: Board
    edge: Edge
    link: Link
    telling: Telling
    clock: TurnedClock
    start: Callable[[], None]

    async def hears(self, event: str) -> None:
        """Return when something was logged."""
        async with asyncio.timeout(10):
            while event not in self.telling.said():
                await asyncio.sleep(0.005)

    async def captures(self) -> ChunkHeader:
        """Capture a record, and have the server hold it: the header of the chunk that it went into."""
        name = self.journal.append(b"a record", kind=1)
        await self.journal.synced(name)
        lane = self.journal.next_slice("live", 1 << 20) or self.journal.next_slice("backlog", 1 << 20)
        assert lane is not None
        self.journal.acknowledge(name.epoch, [Range(lane.first, lane.last)])
        self.server.records[name.epoch, name.seq] = b""
        return ChunkHeader.decode(lane.header)

    def said(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.telling.lines() if line["event"] == event]


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with gateway() as server:
        server.device = DEVICE.public
        state = await State.open(tmp_path / "state.db")
        telling = Telling()
        clock = TurnedClock(NOW_MS)
        server.clock_ms = NOW_MS
        board = Board(clock, lambda _card: True)
        edge = Edge(server_public_key=server.key.public, till_id=TILL_ID, clock=clock)
        link = Link(clock, lambda _link: None)
        vitals = Vitals(TILL_ID, EPOCH, 5, 2, 9, HookLatency(1, 2, 3, 4), 10, NOW_MS, "1.0", "", 0, 0)
        folder = Folder(tmp_path)
        keys = (server.key.public, server.box_public, server.escrow_public)
        who = Identity(server.address, TILL_ID, "acme", "north", "1", "USD", DEVICE.key_id, *keys, enrolled_ms=0)
        folder.rewrite(who)
        journal = await Journal.open(
            folder.journal,
            identity=JournalIdentity(TILL_ID, DEVICE, server.box_public, server.escrow_public),
            clock=clock,
            randomness=os.urandom,
            limits=replace(DEFAULT, sync_interval=0.0, reserve=0),
        )
        changes: list[str] = []
        returns: list[bool] = []

        async def returning() -> bool:
            if not returns:
                return False
            server.device = DEVICE.public
            return returns.pop(0)

        channel = PushChannel(
            address=server.address,
            tls=None,
            till_id=TILL_ID,
            device=DEVICE,
            agent_version="1.0",
            state=state,
            mailbox=Mailbox(
                state, board, edge, SealingKeys(folder, who, journal, telling.events), link, telling.events
            ),
            rewind=Rewind(journal, telling.events, lambda: changes.append("acked")),
            edge=edge,
            link=link,
            events=telling.events,
            clock=clock,
            vitals=lambda: vitals,
            returning=returning,
            uniform=lambda: 0.02,
            heartbeat_s=0.02,
        )
        tasks: list[asyncio.Task[None]] = []

        def start() -> None:
            tasks.append(asyncio.create_task(channel.run()))

        yield Till(server, folder, journal, changes, returns, channel, state, board, edge, link, telling, clock, start)
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await journal.close()
        await state.close()


async def test_a_pushed_offer_is_on_the_disk_and_the_board_before_its_receipt(till: Till) -> None:
    till.board.begin((EPOCH, 3), "", "transaction", [])
    till.start()
    await till.server.push(1, offer_push(1, EPOCH, 3))
    await till.server.until(lambda server: server.receipts == [1])
    assert [kept.seq for kept in await till.state.load_offers(NOW_MS)] == [1]
    assert await till.state.last_push() == 1
    assert [card.offer_id for card in till.board.cards()] == [offer(1).offer_id]
    assert till.telling.counted("offers_received") == 1


async def test_a_pack_is_taken_and_kept(till: Till) -> None:
    till.start()
    pack = till.server.pack(version=2)
    await till.server.push(1, PackPush(pack))
    await till.server.until(lambda server: server.receipts == [1])
    assert till.edge.pack_version == 2
    assert await till.state.load_pack() == pack


async def test_a_pack_with_other_keys_changes_what_chunks_are_sealed_to_from_now_on(till: Till) -> None:
    before = await till.captures()
    assert before.server_key_id == key_id(till.server.box_public)
    till.server.box_public, till.server.escrow_public = (bytes(SignKey(bytes([n]) * 32).public) for n in (1, 2))
    till.start()
    await till.server.push(1, PackPush(till.server.pack(version=2)))
    await till.server.until(lambda server: server.receipts == [1])
    after = await till.captures()
    assert after.chunk > before.chunk
    assert after.server_key_id == key_id(till.server.box_public)
    assert after.escrow_key_id == key_id(till.server.escrow_public)
    who = till.folder.identity()
    assert (who.box_public, who.escrow_public) == (till.server.box_public, till.server.escrow_public)
    assert till.said("keys_changed")[0]["server_key"] == key_id(till.server.box_public).hex()


async def test_a_pack_with_the_same_keys_begins_no_chunk_and_writes_no_identity(till: Till) -> None:
    before = await till.captures()
    written = till.folder.identity_file.stat().st_ino
    till.start()
    await till.server.push(1, PackPush(till.server.pack(version=2)))
    await till.server.until(lambda server: server.receipts == [1])
    assert (await till.captures()).chunk == before.chunk
    assert till.folder.identity_file.stat().st_ino == written


async def test_keys_that_cannot_be_written_down_are_used_all_the_same(till: Till) -> None:
    till.folder.identity_file.unlink()
    till.folder.identity_file.mkdir()
    till.server.box_public = SignKey(b"1" * 32).public
    till.start()
    await till.server.push(1, PackPush(till.server.pack(version=2)))
    await till.server.until(lambda server: server.receipts == [1])
    assert (await till.captures()).server_key_id == key_id(till.server.box_public)
    assert till.said("housekeeping_failed")[0]["what"] == "keep the server's keys"


async def test_a_server_that_lost_records_gets_them_queued_again(till: Till) -> None:
    for _ in range(3):
        await till.captures()
    epoch = till.journal.position.epoch
    till.server.loses((epoch, 1))
    till.start()
    await till.server.until(lambda server: bool(server.vitals))
    assert till.server.presents[0].acked == (EpochRanges(epoch, (Range(0, 2),)),)
    await till.hears("rewound")
    assert till.changes == ["acked"]
    assert till.journal.acked()[epoch] == (Range(0, 0), Range(2, 2))
    assert till.journal.queue().records == 1


async def test_a_server_that_lost_nothing_changes_nothing(till: Till) -> None:
    await till.captures()
    till.start()
    await till.server.until(lambda server: bool(server.vitals))
    await till.hears("push_opened")
    assert till.changes == []
    assert till.journal.queue().records == 0


async def test_a_channel_whose_trouble_is_over_need_not_wait(till: Till) -> None:
    device, till.server.device = till.server.device, SignKey(b"x" * 32).public
    till.start()
    await till.hears("push_closed")
    till.server.device = device
    till.channel.hurry()
    await till.hears("push_opened")


async def test_an_older_pack_and_a_foreign_one_are_let_go(till: Till) -> None:
    till.edge.accept(till.server.pack(version=5))
    till.start()
    await till.server.push(1, PackPush(till.server.pack(version=4)))
    await till.server.push(2, PackPush(till.server.pack(version=9, till=b"x" * 16)))
    await till.server.until(lambda server: server.receipts == [1, 2])
    assert till.edge.pack_version == 5
    assert await till.state.load_pack() is None
    assert till.telling.counted("pushes", outcome="refused") == 1


async def test_a_revocation_is_told_of(till: Till) -> None:
    till.start()
    await till.server.push(1, Revoked("stolen"))
    await till.server.until(lambda server: server.receipts == [1])
    assert till.link.trouble == ("revoked",)
    assert till.said("revoked")[0]["reason"] == "stolen"


async def test_a_push_past_its_time_is_receipted_and_never_shown(till: Till) -> None:
    till.board.begin((EPOCH, 3), "", "transaction", [])
    till.start()
    await till.server.push(1, offer_push(1, EPOCH, 3), expires_ms=NOW_MS)
    await till.server.until(lambda server: server.receipts == [1])
    assert till.board.cards() == ()
    assert await till.state.load_offers(0) == []
    assert till.telling.counted("pushes", outcome="expired") == 1


async def test_what_was_pushed_while_the_channel_was_down_comes_at_the_next_connection(till: Till) -> None:
    till.start()
    await till.server.push(1, offer_push(1))
    await till.server.until(lambda server: server.receipts == [1])
    await till.server.hangs_up()
    till.server.pushes.append(Push(2, NEVER_MS, offer_push(2)))
    await till.server.until(lambda server: server.receipts == [1, 2])
    assert [present.last_push for present in till.server.presents[:2]] == [0, 1]


async def test_a_push_said_twice_is_kept_once(till: Till) -> None:
    await till.state.note_push(1)
    till.start()
    await till.server.until(lambda server: bool(server.vitals))
    await till.server.push(1, offer_push(1))
    await till.server.until(lambda server: server.receipts == [1])
    assert await till.state.load_offers(0) == []
    assert till.telling.counted("pushes", outcome="repeat") == 1


async def test_heartbeats_are_signed_and_come_again_and_again(till: Till) -> None:
    till.start()
    await till.server.until(lambda server: len(server.vitals) >= 3)
    assert till.server.vitals[0].position == 5


async def test_an_open_channel_is_online_and_a_lost_one_is_not(till: Till) -> None:
    till.start()
    await till.hears("push_opened")
    assert till.link.push_connected
    assert till.link.clock_offset_ms == 0
    await till.server.hangs_up()
    await till.hears("push_closed")
    assert till.said("push_closed")[0]["code"] == "closed"


@pytest.mark.parametrize(("close_code", "code"), [(4401, "authentication"), (4403, "revoked"), (4409, "replaced")])
async def test_a_channel_closed_for_a_reason_is_tried_again_slowly(till: Till, close_code: int, code: str) -> None:
    till.start()
    await till.hears("push_opened")
    await till.server.hangs_up(close_code)
    await till.hears("push_closed")
    closed = till.said("push_closed")[0]
    assert closed["code"] == code
    assert closed["retry_s"] == pytest.approx(push_module.SLOW_S[code] * 0.52)
    assert till.link.trouble == (code,)
    assert not till.link.online


@pytest.mark.parametrize(("status", "code"), [(401, "authentication"), (403, "revoked"), (503, "unreachable")])
async def test_a_channel_refused_before_it_opens_is_told_of(till: Till, status: int, code: str) -> None:
    till.server.answers(status)
    till.start()
    await till.hears("push_closed")
    assert till.said("push_closed")[0]["code"] == code


async def test_an_unknown_device_is_not_online(till: Till) -> None:
    till.server.device = SignKey(b"x" * 32).public
    till.start()
    await till.hears("push_closed")
    assert "push_opened" not in till.telling.said()
    assert till.link.trouble == ("authentication",)


async def test_a_till_that_the_server_takes_back_connects_at_once(till: Till) -> None:
    till.server.device = SignKey(b"x" * 32).public
    till.returns.append(True)
    till.start()
    await till.hears("push_opened")
    assert till.said("push_closed")[0]["retry_s"] == 0
    assert till.link.trouble == ()


async def test_a_till_that_is_taken_back_and_yet_unknown_waits_before_it_asks_again(till: Till) -> None:
    till.returns.extend([True, True])
    till.start()
    await till.hears("push_opened")
    await till.server.hangs_up(4401)
    await till.server.until(lambda server: len(server.presents) == 2)
    await till.server.hangs_up(4401)
    async with asyncio.timeout(10):
        while len(till.said("push_closed")) < 2:
            await asyncio.sleep(0.005)
    assert [closed["retry_s"] for closed in till.said("push_closed")] == [0, pytest.approx(60 * 0.52)]
    assert till.returns == [True]


async def test_a_push_that_cannot_be_kept_gets_no_receipt_and_comes_again(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = till.state.save_offer
    failures = iter([True])

    async def fails_once(*about: object) -> None:
        if next(failures, False):
            raise StateUnavailable("planted")
        await save(*about)  # type: ignore[arg-type]

    monkeypatch.setattr(till.state, "save_offer", fails_once)
    till.server.pushes.append(Push(1, NEVER_MS, offer_push(1)))
    till.start()
    await till.server.until(lambda server: server.receipts == [1])
    assert till.said("push_closed")[0]["code"] == "state_unavailable"
    assert len(await till.state.load_offers(0)) == 1


async def test_a_server_that_talks_nonsense_is_left(till: Till) -> None:
    till.start()
    await till.hears("push_opened")
    for socket in list(till.server._sockets):
        await socket.send_bytes(b"\xc1")
    await till.hears("push_closed")
    assert till.said("push_closed")[0]["code"] == "confused"


async def test_a_server_that_sends_text_is_left(till: Till) -> None:
    till.start()
    await till.hears("push_opened")
    for socket in list(till.server._sockets):
        await socket.send_str("hello")
    await till.hears("push_closed")
    assert till.said("push_closed")[0]["code"] == "confused"


# How the channel is asked for, and what is said when it is not had


async def attempt(till: Till, monkeypatch: pytest.MonkeyPatch, error: Exception) -> dict[str, Any]:
    """Try to connect, and fail with this error: what was asked for."""
    asked: dict[str, Any] = {}

    async def ws_connect(_client: aiohttp.ClientSession, url: str, **options: Any) -> None:
        asked.update(options, url=url)
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "ws_connect", ws_connect)
    till.start()
    await till.hears("push_closed")
    return asked


async def test_the_channel_is_verified_bounded_and_asked_whether_it_lives(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await attempt(till, monkeypatch, aiohttp.ClientError("the cable is out"))
    assert asked["url"] == till.server.address.replace("http", "ws") + push_module.PATH
    assert asked["ssl"] is True
    assert asked["max_msg_size"] == MAX_PACK
    assert asked["heartbeat"] == push_module.DEAD_AFTER_S
    assert asked["autoping"] is False
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == ("unreachable", "the cable is out")


async def test_only_the_scheme_of_the_address_changes_and_the_own_certificates_are_used(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    till.channel.address, till.channel.tls = "https://http.example", ssl.create_default_context()
    asked = await attempt(till, monkeypatch, aiohttp.ClientError())
    assert asked["url"] == "wss://http.example" + push_module.PATH
    assert asked["ssl"] is till.channel.tls


async def test_a_ping_is_answered_with_what_it_said_and_no_heartbeat_outlives_its_channel(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[object] = []

    async def pong(_socket: object, message: object = b"") -> None:
        answered.append(message)

    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "pong", pong)
    till.start()
    await till.hears("push_opened")
    (socket,) = till.server._sockets
    await till.server.push(1, offer_push(1))
    await till.server.until(lambda server: server.receipts == [1])
    assert [task.get_name() for task in asyncio.all_tasks()].count("heartbeat") == 1
    await socket.ping(b"are you there")
    await socket.close()
    await till.hears("push_closed")
    assert answered == [b"are you there"]
    assert [task.get_name() for task in asyncio.all_tasks()].count("heartbeat") == 0


async def test_an_error_of_the_channel_without_words_is_called_by_its_name(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attempt(till, monkeypatch, TimeoutError())
    assert till.said("push_closed")[0]["reason"] == "TimeoutError"


async def test_a_state_that_cannot_be_kept_and_a_message_out_of_place_say_what_they_are(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attempt(till, monkeypatch, OutOfTurn("a second challenge"))
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == (
        "confused",
        "the server said what has no place: a second challenge",
    )


async def test_a_connection_that_does_not_come_about_is_given_up(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ws_connect(*_about: object, **_options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(push_module, "CONNECT_S", 0.02)
    monkeypatch.setattr(aiohttp.ClientSession, "ws_connect", ws_connect)
    till.start()
    await till.hears("push_closed")
    assert till.said("push_closed")[0]["reason"] == "TimeoutError"


async def test_a_state_that_cannot_be_read_says_so(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    await attempt(till, monkeypatch, StateUnavailable("the disk is gone"))
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == ("state_unavailable", "the disk is gone")


async def test_a_refused_channel_says_with_which_status(till: Till) -> None:
    till.server.answers(403, "revoked")
    till.start()
    await till.hears("push_closed")
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == ("revoked", "refused with status 403")


@pytest.mark.parametrize("error", [aiohttp.ClientError("gone"), ConnectionResetError("gone")])
async def test_a_heartbeat_that_cannot_be_sent_leaves_it_to_the_channel_to_say_why_it_ended(
    till: Till, error: Exception
) -> None:
    def vitals() -> Vitals:
        raise error

    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1001)

    till.channel.vitals = vitals
    assert await closed_by(till, end) == ("closed", "closed with code 1001")


async def test_what_broke_the_channel_is_told(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1001)

    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "exception", lambda _socket: OSError("the cable is out"))
    assert await closed_by(till, end) == ("closed", "closed with code 1001 (the cable is out)")


async def test_no_proxy_of_the_environment_is_asked_for_the_channel(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    till.start()
    await till.hears("push_opened")


async def test_the_pack_that_is_kept_is_receipted_and_told_of_by_its_number(till: Till) -> None:
    till.start()
    await till.server.push(1, PackPush(till.server.pack(version=2)))
    await till.server.until(lambda server: server.receipts == [1])
    assert await till.state.last_push() == 1
    assert [line["version"] for line in till.said("pack_taken")] == [2]


async def closed_by(till: Till, act: Callable[[web.WebSocketResponse], Awaitable[None]]) -> tuple[object, object]:
    """Open the channel, have the server do this with it: the code and reason that are given for its end."""
    till.start()
    await till.hears("push_opened")
    for socket in list(till.server._sockets):
        await act(socket)
    await till.hears("push_closed")
    closed = till.said("push_closed")[0]
    return closed["code"], closed["reason"]


async def test_an_end_in_the_servers_words_is_told_in_them(till: Till) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=4409, message=b"another took its place")

    assert await closed_by(till, end) == ("replaced", "closed with code 4409: another took its place")


async def test_an_end_without_words_is_told_by_its_code(till: Till) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1001)

    assert await closed_by(till, end) == ("closed", "closed with code 1001")


async def test_text_ends_the_channel(till: Till) -> None:
    async def chat(socket: web.WebSocketResponse) -> None:
        await socket.send_str("hello")

    assert await closed_by(till, chat) == ("confused", "the server sent text")


async def test_a_message_larger_than_any_pack_ends_the_channel(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "MAX_PACK", 10_000)

    async def flood(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(bytes(20_000))

    code, reason = await closed_by(till, flood)
    assert code == "closed"
    assert re.fullmatch(r"closed with code 1009 \(.*20000.*10000.*\)", str(reason))


async def test_a_channel_opens_once_and_has_one_heartbeat(till: Till) -> None:
    till.start()
    await till.hears("push_opened")
    (socket,) = till.server._sockets
    await socket.pong(b"open")
    await socket.pong(b"something else")
    await till.server.push(1, offer_push(1))
    await till.server.until(lambda server: server.receipts == [1])
    assert len(till.said("push_opened")) == 1
    assert [task.get_name() for task in asyncio.all_tasks()].count("heartbeat") == 1


def _has_receipts(number: int, server: Gateway) -> bool:
    return len(server.receipts) == number


async def test_each_pack_with_other_keys_is_followed_and_one_with_the_same_is_not(till: Till) -> None:
    till.start()
    for number, fill in enumerate((b"1", b"2", b"2"), start=1):
        till.server.box_public = SignKey(fill * 32).public
        await till.server.push(number, PackPush(till.server.pack(version=number + 1)))
        await till.server.until(partial(_has_receipts, number))
        assert till.folder.identity().box_public == till.server.box_public
    assert len(till.said("keys_changed")) == 2
