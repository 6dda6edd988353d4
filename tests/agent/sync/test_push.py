"""The push channel: nothing is missed, nothing shown twice or too late, and a receipt means that it is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.agents import HOUR_MS, NOW_MS, Telling, offer, offer_push
from support.gateways import NEVER_MS, TILL_ID, Gateway, gateway
from support.tills import TurnedClock
from tillstream_agent.display.board import Board
from tillstream_agent.offers.edge import Edge
from tillstream_agent.state import State, StateUnavailable
from tillstream_agent.sync import push as push_module
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.push import Again, Forget, Keep, Mailbox, OutOfTurn, PushChannel, PushSession, Say
from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import Challenge, HookLatency, PackPush, Present, Push, Receipt, Revoked, Vitals
from tillstream_protocol.signing import SignKey, verify

DEVICE = SignKey(b"d" * 32)
EPOCH = b"e" * 16


def session(last_push: int = 0) -> PushSession:
    return PushSession(till_id=TILL_ID, device=DEVICE, agent_version="1.0", last_push=last_push, pack_version=3)


def open_session(last_push: int = 0) -> PushSession:
    opened = session(last_push)
    opened.receive(encode(Challenge(bytes(16), NOW_MS)), NOW_MS)
    return opened


def a_push(seq: int, expires_ms: int = NOW_MS + HOUR_MS) -> Push:
    return Push(seq, expires_ms, offer_push(seq))


def test_a_challenge_is_answered_with_a_signed_present() -> None:
    till = session(last_push=7)
    step = till.receive(encode(Challenge(b"n" * 16, NOW_MS)), NOW_MS)
    assert isinstance(step, Say)
    present = messages.decode_to_server(step.data)
    assert isinstance(present, Present)
    assert (present.till_id, present.device_key_id, present.last_push, present.pack_version) == (
        TILL_ID,
        DEVICE.key_id,
        7,
        3,
    )
    verify(DEVICE.public, messages.challenge_bytes(b"n" * 16, TILL_ID), present.signature)
    assert till.server_ms == NOW_MS


def test_a_new_push_is_kept_and_then_receipted() -> None:
    till = open_session()
    assert till.receive(encode(a_push(4)), NOW_MS) == Keep(a_push(4))
    assert till.last_push == 0
    assert messages.decode_to_server(till.kept(a_push(4))) == Receipt(4)
    assert till.last_push == 4


def test_a_repeat_is_receipted_and_not_kept_again() -> None:
    till = open_session(last_push=4)
    assert till.receive(encode(a_push(4)), NOW_MS) == Again(a_push(4))
    till.kept(a_push(2))
    assert till.last_push == 4


def test_an_expired_push_is_forgotten() -> None:
    late = a_push(1, expires_ms=NOW_MS)
    assert open_session().receive(encode(late), NOW_MS) == Forget(late)


def test_what_has_no_place_is_refused() -> None:
    with pytest.raises(OutOfTurn):
        session().receive(encode(a_push(1)), NOW_MS)
    with pytest.raises(OutOfTurn):
        open_session().receive(encode(Challenge(bytes(16), NOW_MS)), NOW_MS)
    with pytest.raises(InvalidInput):
        open_session().receive(b"\xc1", NOW_MS)


@dataclass
class Till:
    """A till with an open channel to a stand-in server."""

    server: Gateway
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
        vitals = Vitals(TILL_ID, EPOCH, 5, 2, 9, HookLatency(1, 2, 3, 4), 10, NOW_MS, "1.0", "")
        channel = PushChannel(
            address=server.address,
            tls=None,
            till_id=TILL_ID,
            device=DEVICE,
            agent_version="1.0",
            state=state,
            mailbox=Mailbox(state, board, edge, link, telling.events),
            edge=edge,
            link=link,
            events=telling.events,
            clock=clock,
            vitals=lambda: vitals,
            uniform=lambda: 0.02,
            heartbeat_s=0.02,
        )
        tasks: list[asyncio.Task[None]] = []
        yield Till(
            server, state, board, edge, link, telling, clock, lambda: tasks.append(asyncio.create_task(channel.run()))
        )
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
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
