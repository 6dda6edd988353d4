"""A till takes another device key, and never is without one that speaks for it."""

from __future__ import annotations

import os

import pytest
from msgspec import structs

from support.serving import NOW, Reply, Server, Till, sale
from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.messages import Rotate, RotateRequest, rotate_bytes
from tillstream_protocol.signing import SignKey, sign_request
from tillstream_server.devices import OVERLAP_MS
from tillstream_server.gateway.rotation import MAX_KEYS
from tillstream_server.office_fleet import TillAllowAgain, TillRevoke, TillRotate, TillShow

PLACE = ("acme", "north", "till-1")
DAY_S = 86_400


async def asks(till: Till, new: SignKey, *, by: SignKey | None = None, proven_by: SignKey | None = None) -> Reply:
    """The request for another key, signed by the till's present one unless told otherwise."""
    sender = by or till.device
    proof = (proven_by or new).sign(rotate_bytes(till.reply.till_id, sender.public, new.public))
    body = encode(RotateRequest(new.public, proof))
    headers = sign_request(sender, "POST", "/till/v1/rotate", body, created=NOW // 1000)
    given = {"Content-Type": messages.CONTENT_TYPE, **headers}
    return await till.server.send("POST", "/till/v1/rotate", body, given)


async def rotated(till: Till) -> SignKey:
    """The till with a new key, which has not been heard yet; gives the former one."""
    former, new = till.device, SignKey(os.urandom(32))
    reply = await asks(till, new)
    assert reply.status == 200, reply.body
    certificate = messages.decode_rotate_reply(reply.body).certificate
    till.reply = structs.replace(till.reply, certificate=certificate)
    till.device = new
    return former


async def speaks(server: Server) -> list[str]:
    shown = await server.order(TillShow(*PLACE))
    return [device["key_id"] for device in shown["devices"] if device["speaks"]]


async def test_both_keys_speak_until_the_new_one_was_heard_and_a_day_longer(server: Server) -> None:
    till = await server.till("till-1")
    queued = till.batch(sale(1))
    former = await rotated(till)
    server.clock.turn(3 * 365 * DAY_S)
    assert (await till.uploads(queued, signed_by=former)).status == 200, "offline for years, and the answer was lost"
    assert await speaks(server) == [till.device.key_id.hex(), former.key_id.hex()]
    till.begins(os.urandom(16), parent=till.epoch, position=1)
    await till.sends(sale(2))
    server.clock.turn(OVERLAP_MS / 1000 - 1)
    assert (await till.uploads(queued, signed_by=former)).status == 200
    server.clock.turn(2)
    assert (await till.uploads(queued, signed_by=former)).error["code"] == "revoked"
    assert await speaks(server) == [till.device.key_id.hex()]


async def test_what_the_former_key_wrote_arrives_under_the_new_one(server: Server) -> None:
    till = await server.till("till-1")
    queued = till.batch(sale(1), sale(2))
    await rotated(till)
    assert (await till.uploads(queued)).status == 200
    server.clock.turn(400 * DAY_S)
    assert messages.decode_batch_reply((await till.uploads(queued)).body).repeated == 2
    key = await server.key()
    assert (await server.get("/api/v1/ledger/summary", key)).json()["transactions"] == 2


async def test_being_on_the_channel_counts_as_heard(server: Server) -> None:
    till = await server.till("till-1")
    former = await rotated(till)
    async with till.on_push(subprotocols=versions.subprotocols(), pack_version=0) as pushes:
        await pushes.next(messages.PackPush)
    server.clock.turn(2 * DAY_S)
    assert (await till.uploads(till.batch(sale(1)), signed_by=former)).error["code"] == "revoked"


async def test_who_has_a_key_gets_so_many_more_a_day_and_no_row_beyond_them(server: Server) -> None:
    till = await server.till("till-1")
    for _ in range(MAX_KEYS - 1):  # with the one it was enrolled with
        await rotated(till)
    last = SignKey(os.urandom(32))
    refused = await asks(till, last)
    assert (refused.status, refused.error["code"], refused.error["retryable"]) == (429, "too_many_keys", True)
    assert refused.error["limit"] == f"{MAX_KEYS} in a day, enrolments among them"
    assert "revoke the till" in refused.error["hint"]
    assert len((await server.order(TillShow(*PLACE)))["devices"]) == MAX_KEYS
    assert (await till.uploads(till.batch(sale(1)))).status == 200, "the present key goes on"
    assert (await asks(await server.till("till-2"), SignKey(os.urandom(32)))).status == 200, "others are not concerned"
    server.clock.turn(DAY_S)
    assert (await asks(till, last)).status == 200


async def test_the_same_request_again_gets_its_answer_again(server: Server) -> None:
    till, new = await server.till("till-1"), SignKey(os.urandom(32))
    first = messages.decode_rotate_reply((await asks(till, new)).body)
    server.clock.turn(60)
    assert messages.decode_rotate_reply((await asks(till, new)).body) == first
    given = messages.open_certificate(first.certificate, till.introduction.server_public_key)
    assert (given.till, given.device_public_key) == ("till-1", new.public)


async def test_a_key_that_was_asked_for_and_never_heard_makes_way(server: Server) -> None:
    till, lost = await server.till("till-1"), SignKey(os.urandom(32))
    await asks(till, lost)
    await rotated(till)
    assert lost.key_id.hex() not in await speaks(server)
    assert (await till.uploads(till.batch(sale(1)))).status == 200
    assert (await asks(till, lost)).error["code"] == "device_taken"


async def test_a_restored_server_takes_the_new_key_back_by_its_certificate(server: Server) -> None:
    till = await server.till("till-1")
    await rotated(till)
    other = await server.till("till-2")
    assert (await till.returns()).status == 200
    assert (await other.returns()).status == 200
    assert till.device.key_id.hex() in await speaks(server)


async def test_only_the_till_itself_can_ask_and_only_with_a_key_of_its_own(server: Server) -> None:
    till, other, new = await server.till("till-1"), await server.till("till-2"), SignKey(os.urandom(32))
    assert (await asks(till, new, by=SignKey(os.urandom(32)))).error["code"] == "unknown_device"
    refused = await asks(till, new, proven_by=SignKey(os.urandom(32)))
    assert (refused.status, refused.error["code"]) == (401, "bad_signature")
    assert (await asks(till, new, by=other.device)).error["code"] == "bad_signature", "proven for another till"
    for taken in (other.device, till.device):
        refused = await asks(till, taken)
        assert (refused.status, refused.error["code"]) == (403, "device_taken")
    assert await speaks(server) == [till.device.key_id.hex()]


async def test_a_revoked_till_takes_no_other_key(server: Server) -> None:
    till, new = await server.till("till-1"), SignKey(os.urandom(32))
    await server.order(TillRevoke(*PLACE))
    assert (await asks(till, new)).error["code"] == "revoked"
    await server.order(TillAllowAgain(*PLACE))
    assert (await asks(till, new)).status == 200


async def test_a_former_key_that_somebody_copied_cannot_end_the_one_that_took_its_place(server: Server) -> None:
    till = await server.till("till-1")
    copied = await rotated(till)
    assert (await till.uploads(till.batch(sale(1)))).status == 200
    refused = await asks(till, SignKey(os.urandom(32)), by=copied)
    assert (refused.status, refused.error["code"]) == (403, "device_taken")
    assert (await till.uploads(till.batch(sale(2)))).status == 200
    assert await speaks(server) == [till.device.key_id.hex(), copied.key_id.hex()]


async def test_a_till_that_enrols_anew_ends_both_keys(server: Server) -> None:
    till = await server.till("till-1")
    former = await rotated(till)
    await till.uploads(till.batch(sale(1)))
    again = await server.till("till-1")
    assert await speaks(server) == [again.device.key_id.hex()]
    assert (await till.uploads(till.batch(sale(2)), signed_by=former)).error["code"] == "revoked"


@pytest.mark.parametrize("connected", [True, False])
async def test_head_office_asks_for_it(server: Server, connected: bool) -> None:
    till = await server.till("till-1")
    if not connected:
        assert (await server.order(TillRotate(*PLACE)))["told"] is False
    async with till.on_push(subprotocols=versions.subprotocols(), pack_version=0) as pushes:
        if connected:
            await pushes.next(messages.PackPush)
            assert (await server.order(TillRotate(*PLACE)))["told"] is True
        _, body = await pushes.next(Rotate)
        assert body.reason


async def test_an_agent_that_knows_nothing_of_it_is_not_asked(server: Server) -> None:
    till = await server.till("till-1")
    await server.order(TillRotate(*PLACE))
    async with till.on_push(pack_version=0) as pushes:
        push = await pushes.hears()
        assert isinstance(push, messages.Push)
        assert isinstance(push.body, messages.PackPush), "the push before it was passed over"
        assert (await server.order(TillRotate(*PLACE)))["told"] is False, "and nobody is told that it was"
