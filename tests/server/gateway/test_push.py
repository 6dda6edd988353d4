"""The push channel over real WebSockets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp

from support.serving import Pushes, Server, Till, campaign_document, identification, sale, serving
from tillstream_protocol import messages
from tillstream_protocol.messages import EpochRanges, OfferPush, PackPush, Range, Receipt, Revoked
from tillstream_protocol.pack import open_pack
from tillstream_protocol.signing import SignKey
from tillstream_server import office, office_fleet
from tillstream_server.ledger import outbox
from tillstream_server.reading import reading

VISITS = {">=": [{"var": "member.visits"}, 1]}
AFTER_A_VISIT = campaign_document(id="regular", condition=VISITS)


async def test_an_offer_reaches_the_till_that_caused_it_and_no_other(server: Server) -> None:
    await server.order(office.CampaignPut("acme", AFTER_A_VISIT))
    till, other = await server.till(), await server.till()
    async with till.on_push() as pushes, other.on_push() as others:
        await till.sends(sale(1, member="1234567"))
        push, offer = await pushes.next(OfferPush)
        assert (offer.decision.campaign, offer.decision.outcome, offer.decision.decided_at) == (
            "regular",
            "offered",
            "server",
        )
        assert (offer.epoch, offer.seq) == (till.epoch, 0)
        assert push.expires_ms > server.clock.now_ms()
        await other.sends(sale(2, member="7654321"))
        _, offer = await others.next(OfferPush)
        assert offer.epoch == other.epoch


async def test_a_member_who_is_recognised_gets_an_offer(server: Server) -> None:
    document = campaign_document(id="hello", trigger="member_identified", condition=VISITS)
    await server.order(office.CampaignPut("acme", document))
    till = await server.till()
    async with till.on_push() as pushes:
        await till.sends(sale(1, member="1234567"))
        await till.sends(identification("e-1", "1234567"))
        _, offer = await pushes.next(OfferPush)
        assert offer.decision.campaign == "hello"


async def test_what_was_decided_while_the_till_was_away_comes_when_it_is_back(server: Server) -> None:
    await server.order(office.CampaignPut("acme", AFTER_A_VISIT))
    till = await server.till()
    await till.sends(sale(1, member="1234567"))
    async with till.on_push() as pushes:
        await pushes.next(OfferPush)


async def test_what_a_till_has_is_never_sent_to_it_again(server: Server) -> None:
    await server.order(office.CampaignPut("acme", AFTER_A_VISIT))
    till = await server.till()
    async with till.on_push() as pushes:
        await till.sends(sale(1, member="1234567"))
        push, first = await pushes.next(OfferPush)
    async with till.on_push(last_push=push.seq) as pushes:
        await till.sends(sale(2, member="7654321"))
        _, second = await pushes.next(OfferPush)
    assert second.decision.offer_id != first.decision.offer_id


async def test_an_offer_that_nobody_could_see_in_time_is_not_sent(server: Server) -> None:
    document = campaign_document(id="regular", condition=VISITS, valid_for_s=60)
    await server.order(office.CampaignPut("acme", document))
    till = await server.till()
    await till.sends(sale(1, member="1234567"))
    server.clock.turn(61)
    async with till.on_push() as pushes:
        await till.sends(sale(2, member="7654321"))
        _, offer = await pushes.next(OfferPush)
        assert offer.seq == 1


async def test_a_receipt_is_kept(server: Server) -> None:
    await server.order(office.CampaignPut("acme", AFTER_A_VISIT))
    till = await server.till()
    async with till.on_push() as pushes:
        await till.sends(sale(1, member="1234567"))
        push, _ = await pushes.next(OfferPush)
        await pushes.says(Receipt(push.seq))
        await until(server, "SELECT COUNT(received_ms) = 1 FROM decision")
    async with reading(server.folder.ledger) as conn:
        waiting = await outbox.after(conn, till.reply.till_id, 0, server.clock.now_ms())
    assert not [kept for kept in waiting if isinstance(kept.body, OfferPush)]


async def test_a_heartbeat_is_kept(server: Server) -> None:
    till = await server.till()
    async with till.on_push() as pushes:
        await pushes.says(till.heartbeat(7, queued=2))
        await until(server, "SELECT COUNT(*) = 1 FROM till_status")
    (row,) = (await server.order(office_fleet.TillList()))["tills"]
    assert (row["position"], row["queued"], row["hook_p99"]) == (7, 2, 200)
    assert row["seen_ms"] == server.clock.now_ms()


async def test_a_changed_book_brings_new_packs_to_connected_tills(server: Server) -> None:
    till = await server.till()
    async with till.on_push() as pushes:
        await server.order(office.CampaignPut("acme", campaign_document()))
        _, body = await pushes.next(PackPush)
        pack = open_pack(body.pack, till.introduction.server_public_key, till.reply.till_id)
        assert [campaign.id for campaign in pack.campaigns] == ["big-sale"]
        await server.order(office.CampaignEnd("acme", "big-sale"))
        _, body = await pushes.next(PackPush)
        newer = open_pack(body.pack, till.introduction.server_public_key, till.reply.till_id)
        assert (newer.campaigns, newer.version > pack.version) == ((), True)


async def test_a_till_that_missed_a_change_gets_the_pack_when_it_connects(server: Server) -> None:
    till = await server.till()
    await server.order(office.CampaignPut("acme", campaign_document()))
    async with till.on_push() as pushes:
        _, body = await pushes.next(PackPush)
        pack = open_pack(body.pack, till.introduction.server_public_key, till.reply.till_id)
        assert [campaign.id for campaign in pack.campaigns] == ["big-sale"]


async def test_a_till_that_lost_its_pack_gets_it_again(server: Server) -> None:
    till = await server.till()
    async with till.on_push(pack_version=0) as pushes:
        await pushes.next(PackPush)


async def test_a_fresh_pack_is_not_sent_again(server: Server) -> None:
    till = await server.till()
    for _ in range(2):
        async with till.on_push():
            pass
    assert server.count("packs_issued_total") == 1


async def test_an_old_pack_is_renewed_at_the_next_connection(server: Server) -> None:
    till = await server.till()
    server.clock.turn(7 * 3600)
    async with till.on_push() as pushes:
        await pushes.next(PackPush)


async def test_a_server_older_than_its_tills_numbers_pushes_above_what_they_know(server: Server) -> None:
    await server.order(office.CampaignPut("acme", AFTER_A_VISIT))
    till = await server.till()
    async with till.on_push(last_push=700) as pushes:  # as after a restore from a backup
        await until(server, "SELECT push_seq >= 700 FROM till")
        await till.sends(sale(1, member="1234567"))
        push, _ = await pushes.next(OfferPush)
        assert push.seq > 700


async def test_of_two_connections_the_newer_wins(server: Server) -> None:
    till = await server.till()
    async with till.on_push() as first, till.on_push():
        assert await first.is_closed() == (4409, "replaced")
    await until_count(server, "push_sessions_ended_total", 1, outcome="replaced")


async def test_a_till_that_is_revoked_is_told_and_hung_up_on(server: Server) -> None:
    till = await server.till("till-1")
    async with till.on_push() as pushes:
        await until_count(server, "push_sessions", 1)
        await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
        await pushes.next(Revoked)
        assert await pushes.is_closed() == (4403, "revoked")
    async with till.on_push() as pushes:
        assert await pushes.is_closed() == (4403, "revoked")


async def test_a_till_that_is_allowed_again_is_not_told_of_its_revocation(server: Server) -> None:
    till = await server.till("till-1")
    await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
    await server.order(office_fleet.TillAllowAgain("acme", "north", "till-1"))
    async with reading(server.folder.ledger) as conn:
        assert await outbox.after(conn, till.reply.till_id, 0, server.clock.now_ms()) == []


async def test_a_stranger_is_not_let_in(server: Server) -> None:
    till = await server.till()
    async with server.http.ws_connect(server.address + "/till/v1/push") as socket:
        pushes = Pushes(socket)
        await pushes.presents(till, device=SignKey(os.urandom(32)))
        assert await pushes.is_closed() == (4401, "unknown_device")
    assert server.logged("push_refused")[0]["reason"] == "unknown_device"


async def test_text_has_no_place_on_the_channel(server: Server) -> None:
    async with server.http.ws_connect(server.address + "/till/v1/push") as socket:
        await socket.receive_bytes()
        await socket.send_str("hello")
        assert await Pushes(socket).is_closed() == (4401, "not_binary")


async def test_a_till_that_talks_nonsense_is_hung_up_on(server: Server) -> None:
    till = await server.till()
    async with till.on_push() as pushes:
        await pushes.socket.send_bytes(b"\xc1")
        code, _ = await pushes.is_closed()
        assert code == aiohttp.WSCloseCode.PROTOCOL_ERROR
    assert server.logged("push_misspoken")[0]["reason"] == "invalid_input"


async def test_a_server_that_stops_says_so_and_does_not_wait(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        till = await server.till()
        socket = await server.http.ws_connect(server.address + "/till/v1/push")
        pushes = Pushes(socket)
        await pushes.presents(till)
        await until_count(server, "push_sessions", 1)
        closing = asyncio.create_task(pushes.is_closed())
    assert await closing == (aiohttp.WSCloseCode.GOING_AWAY, "shutdown")


async def until(server: Server, condition: str) -> None:
    """Wait until a query gives 1."""
    async with asyncio.timeout(10):
        while True:
            async with reading(server.folder.ledger) as conn:
                if (await conn.exec_driver_sql(condition)).scalar_one():
                    return
            await asyncio.sleep(0.01)


async def until_count(server: Server, name: str, value: float, **labels: str) -> None:
    """Wait until a metric has this value."""
    async with asyncio.timeout(10):
        while server.count(name, **labels) != value:
            await asyncio.sleep(0.01)


# What is missing


async def test_a_till_is_asked_again_for_what_the_server_does_not_hold_before_anything_else(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1), sale(2), sale(3))
    await server.order(office.CampaignPut("acme", campaign_document()))
    other = b"o" * 16
    acked = (EpochRanges(till.epoch, (Range(0, 5),)), EpochRanges(other, (Range(2, 2),)))
    async with till.on_push(acked=acked) as pushes:
        missing = await pushes.hears()
        assert missing == messages.Missing(
            (EpochRanges(till.epoch, (Range(3, 5),)), EpochRanges(other, (Range(2, 2),)))
        )
        await pushes.next(PackPush)
    assert server.count("asked_again_total") == 4
    (line,) = server.logged("asked_again")
    assert (line["till"], line["records"]) == (till.reply.till_id.hex(), 4)


async def test_a_till_whose_records_are_all_here_is_asked_for_nothing(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1), sale(2))
    await server.order(office.CampaignPut("acme", campaign_document()))
    async with till.on_push(acked=(EpochRanges(till.epoch, (Range(0, 1),)),)) as pushes:
        assert isinstance(await pushes.hears(), messages.Push)
    assert server.logged("asked_again") == []


async def test_records_that_a_till_with_an_empty_queue_never_sent_raise_an_alarm_once(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1))
    async with till.on_push() as pushes:
        for position in (3, 3, 3):
            await pushes.says(till.heartbeat(position))
            await until_heard(server, till)
        await until(server, "SELECT COUNT(*) = 1 FROM alarm")
    (line,) = server.logged("alarm")
    assert (line["kind"], line["till"]) == ("missing", till.reply.till_id.hex())
    assert server.count("alarms_total", kind="missing") == 1


async def test_the_first_heartbeat_of_a_connection_raises_none(server: Server) -> None:
    till = await server.till()
    async with till.on_push() as pushes:
        await pushes.says(till.heartbeat(3))
        await until(server, "SELECT COUNT(*) = 1 FROM high_water")
    async with reading(server.folder.ledger) as conn:
        assert (await conn.exec_driver_sql("SELECT COUNT(*) FROM alarm")).scalar() == 0


async def until_heard(server: Server, till: Till) -> None:
    """Let time pass, so that the last heartbeat can be told from the one before, and wait for it."""
    await until(server, f"SELECT COALESCE(MAX(seen_ms), 0) = {server.clock.now_ms()} FROM till_status")
    server.clock.turn(1)
