"""From a till's request to its acknowledgement, and every way to be refused."""

from __future__ import annotations

import os

from support.serving import BATCHES, Server, sale
from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.events import RecordsLost
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range
from tillstream_protocol.signing import SignKey
from tillstream_server import office, office_fleet


async def test_a_batch_is_acknowledged_by_ranges(server: Server) -> None:
    till = await server.till()
    reply = await till.sends(sale(1), sale(2), sale(3))
    assert (reply.epoch, reply.acked, reply.repeated, reply.dead) == (till.epoch, (Range(0, 2),), 0, ())
    assert reply.pace.max_bytes == DEFAULT.batch
    assert server.count("batches_total", outcome="accepted") == 1


async def test_a_batch_sent_twice_is_acknowledged_twice_and_counted_once(server: Server) -> None:
    till = await server.till()
    batch = till.batch(sale(1))
    replies = [messages.decode_batch_reply((await till.uploads(batch)).body) for _ in range(2)]
    assert [(reply.acked, reply.repeated) for reply in replies] == [((Range(0, 0),), 0), ((Range(0, 0),), 1)]
    summary = (await server.get("/api/v1/ledger/summary", await server.key())).json()
    assert (summary["transactions"], summary["duplicates_refused"]) == (1, 1)
    assert server.count("records_total", outcome="repeat") == 1


async def test_an_unsigned_batch_is_refused(server: Server) -> None:
    till = await server.till()
    reply = await till.posts(BATCHES, till.batch(sale()))
    assert (reply.status, reply.error["code"], reply.error["field"]) == (401, "unsigned", "Signature-Input")
    assert server.count("batches_total", outcome="unsigned") == 1


async def test_a_batch_of_a_stranger_is_refused(server: Server) -> None:
    till = await server.till()
    reply = await till.uploads(till.batch(sale()), signed_by=SignKey(os.urandom(32)))
    assert (reply.status, reply.error["code"]) == (401, "unknown_device")
    assert server.count("batches_total", outcome="unknown_device") == 1


async def test_a_body_that_was_changed_on_the_way_is_refused(server: Server) -> None:
    till, thief = await server.till(), await server.till()
    reply = await till.uploads(till.batch(sale()), signed_by=Forger(till.device, thief.device))
    assert (reply.status, reply.error["code"]) == (401, "bad_signature")
    assert server.count("batches_total", outcome="bad_signature") == 1


async def test_a_chunk_of_another_till_is_refused(server: Server) -> None:
    till, other = await server.till(), await server.till()
    reply = await till.uploads(other.batch(sale()))
    assert (reply.status, reply.error["code"]) == (400, "foreign_chunk")


async def test_a_chunk_whose_header_somebody_else_signed_is_refused(server: Server) -> None:
    till = await server.till()
    real = till.device
    till.device = Forger(real, SignKey(os.urandom(32)))
    batch = till.batch(sale())
    till.device = real
    reply = await till.uploads(batch)
    assert (reply.status, reply.error["code"]) == (400, "foreign_chunk")


async def test_what_the_tills_former_device_wrote_is_taken_from_its_new_one(server: Server) -> None:
    old = await server.till("till-1")
    queued = old.batch(sale())
    new = await server.till("till-1")
    reply = await new.uploads(queued)
    assert reply.status == 200


async def test_what_is_whole_of_a_batch_is_taken_and_nothing_else_acknowledged(server: Server) -> None:
    till = await server.till()
    batch = till.batch(sale(1), sale(2))
    reply = await till.uploads(messages.Batch(batch.header, batch.frames[:-7]))
    assert (reply.status, messages.decode_batch_reply(reply.body).acked) == (200, (Range(0, 0),))
    summary = (await server.get("/api/v1/ledger/summary", await server.key())).json()
    assert summary["transactions"] == 1
    assert server.count("batches_total", outcome="partial") == 1


async def test_nothing_is_written_of_a_batch_without_a_whole_frame(server: Server) -> None:
    till = await server.till()
    batch = till.batch(sale(1))
    reply = await till.uploads(messages.Batch(batch.header, batch.frames[:-7]))
    assert (reply.status, reply.error["code"]) == (400, "damaged_batch")
    summary = (await server.get("/api/v1/ledger/summary", await server.key())).json()
    assert summary["transactions"] == 0


async def test_a_damaged_header_is_refused(server: Server) -> None:
    till = await server.till()
    batch = till.batch(sale(1))
    reply = await till.uploads(messages.Batch(bytes(len(batch.header)), batch.frames))
    assert (reply.status, reply.error["field"]) == (400, "header")
    assert server.count("batches_total", outcome="damaged") == 1


async def test_a_truncated_message_is_refused(server: Server) -> None:
    till = await server.till()
    reply = await till.uploads_bytes(encode(till.batch(sale()))[:-1])
    assert (reply.status, reply.error["code"]) == (400, "invalid_input")
    assert server.count("batches_total", outcome="invalid_input") == 1


async def test_a_body_over_the_limit_is_refused_with_the_limit(server: Server) -> None:
    till = await server.till()
    reply = await till.uploads_bytes(bytes(DEFAULT.batch_body + 1))
    assert (reply.status, reply.error["code"]) == (413, "too_large")
    assert str(DEFAULT.batch_body) in reply.error["limit"]
    assert server.count("batches_total", outcome="too_large") == 1


async def test_a_revoked_tills_batch_is_quarantined_once_and_can_be_released(server: Server) -> None:
    till = await server.till("till-1")
    batch = till.batch(sale(1))
    await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
    for _ in range(2):
        reply = await till.uploads(batch)
        assert (reply.status, reply.error["code"]) == (403, "revoked")
    assert server.count("batches_total", outcome="revoked") == 2
    held = (await server.order(office.QuarantineList()))["quarantine"]
    assert [(one["till"], one["batches"]) for one in held] == [("till-1", 1)]

    key = await server.key()
    assert (await server.get("/api/v1/ledger/summary", key)).json()["transactions"] == 0
    assert await server.order(office.QuarantineRelease("acme", "north", "till-1")) == {"released": 1}
    assert (await server.get("/api/v1/ledger/summary", key)).json()["transactions"] == 1
    assert (await server.order(office.QuarantineList()))["quarantine"] == []


async def test_a_till_that_is_allowed_again_goes_on_where_it_was(server: Server) -> None:
    till = await server.till("till-1")
    batch = till.batch(sale(1))
    await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
    await till.uploads(batch)
    await server.order(office_fleet.TillAllowAgain("acme", "north", "till-1"))
    assert (await till.uploads(batch)).status == 200


async def test_a_released_batch_that_cannot_be_taken_stays(server: Server) -> None:
    till, other = await server.till("till-1"), await server.till("till-2")
    await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
    await till.uploads(other.batch(sale(1)))
    assert await server.order(office.QuarantineRelease("acme", "north", "till-1")) == {"released": 0}
    assert len((await server.order(office.QuarantineList()))["quarantine"]) == 1


async def test_a_clone_is_told_once_in_log_and_metrics(server: Server) -> None:
    till = await server.till()
    for epoch in (b"a" * 16, b"b" * 16):
        till.begins(epoch, parent=b"p" * 16, position=3)
        for number in range(2):
            await till.sends(sale(int.from_bytes(epoch[:1], "big") + number))
    (line,) = server.logged("alarm")
    assert (line["kind"], line["till"], line["epoch"]) == ("forked", till.reply.till_id.hex(), (b"b" * 16).hex())
    assert server.count("alarms_total", kind="forked") == 1


async def test_a_loss_that_a_till_states_is_told(server: Server) -> None:
    till = await server.till()
    await till.sends(RecordsLost(b"f" * 16, 2, 0, "missing_chunk", 3))
    (line,) = server.logged("records_lost")
    assert (line["reason"], line["till"]) == ("missing_chunk", till.reply.till_id.hex())
    assert server.count("losses_stated_total", reason="missing_chunk") == 1
    assert server.count("losses_stated_total", reason="power_cut") == 0


class Forger(SignKey):
    """Signs with one key in the name of another."""

    def __init__(self, named: SignKey, signs: SignKey) -> None:
        self.public = named.public
        self.key_id = named.key_id
        self._signs = signs

    def sign(self, message: bytes) -> bytes:
        return self._signs.sign(message)
