"""The push channel: nothing is missed, nothing shown twice or too late, and a receipt means that it is on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.agents import NOW_MS, offer, offer_push
from support.channels import EPOCH, Till, channel
from support.gateways import NEVER_MS
from tillstream_agent.folder import StateError
from tillstream_agent.state import StateUnavailable
from tillstream_agent.sync import push as push_module
from tillstream_protocol.messages import (
    EpochRanges,
    PackPush,
    Push,
    Range,
    Revoked,
    Rotate,
)
from tillstream_protocol.sealing import key_id
from tillstream_protocol.signing import SignKey


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with channel(tmp_path) as opened:
        yield opened


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


async def test_a_request_for_another_device_key_that_cannot_be_remembered_comes_again(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True])

    def fails_once() -> None:
        if next(failures, False):
            raise StateError("planted")
        till.rotations.append("asked")

    monkeypatch.setattr(till, "rotate", fails_once)
    till.server.pushes.append(Push(1, NEVER_MS, Rotate("a test")))
    till.start()
    await till.server.until(lambda server: server.receipts == [1])
    assert till.rotations == ["asked"]
    assert till.said("push_closed")[0]["code"] == "state_unavailable"


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
