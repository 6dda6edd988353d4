"""What cannot be read as a batch is refused whole; what cannot be read as a record is refused alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.pipelining import NOW, Server, Till, sale
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import MemberIdentified, Record
from tillstream_protocol.framing import MAX_SEQ, DamagedChunk, Footer
from tillstream_protocol.messages import Batch, Range
from tillstream_protocol.ranges import contains
from tillstream_protocol.sealing import CannotOpen
from tillstream_protocol.signing import BadSignature
from tillstream_protocol.transaction import Identifier, Line, Transaction
from tillstream_server import keys
from tillstream_server.pipeline.opening import DamagedBatch, ForeignChunk


async def nothing_was_taken(server: Server) -> bool:
    tables = ("ledger", "received", "dead_letter", "epoch")
    counts = [await server.rows(f"SELECT count(*) FROM {table}") for table in tables]
    return counts == [[(0,)]] * len(tables)


async def refused(server: Server, till: Till, batch: Batch) -> TillstreamError:
    with pytest.raises(TillstreamError) as caught:
        await server.pipeline.process(till.device, batch)
    assert await nothing_was_taken(server)
    return caught.value


async def test_a_header_that_the_device_did_not_sign_is_refused(server: Server) -> None:
    till, other = server.till(), Till(server.keys, "2")
    forged = Batch(till.header.encode(other.key), till.batch(sale()).frames)
    assert isinstance(await refused(server, till, forged), BadSignature)


async def test_a_damaged_header_is_refused(server: Server) -> None:
    till = server.till()
    batch = till.batch(sale())
    assert isinstance(await refused(server, till, Batch(bytes(512), batch.frames)), DamagedChunk)


async def test_a_chunk_of_another_till_is_refused(server: Server) -> None:
    till = server.till()
    till.open_chunk(till=b"x" * 16)
    error = await refused(server, till, till.batch(sale()))
    assert (type(error), error.field) == (ForeignChunk, "header.till")


async def test_a_chunk_for_another_server_is_refused_and_kept_by_the_till(server: Server, tmp_path: Path) -> None:
    other, _ = keys.create(tmp_path / "other", os.urandom)
    till = server.till()
    till.open_chunk(server=other)
    error = await refused(server, till, till.batch(sale()))
    assert (type(error), error.field) == (ForeignChunk, "header.server_key_id")


async def test_a_sealed_key_that_does_not_open_is_refused(server: Server) -> None:
    till = server.till()
    till.open_chunk(server_sealed_key=os.urandom(80))
    assert isinstance(await refused(server, till, till.batch(sale())), CannotOpen)


async def test_bytes_that_are_no_frame_are_refused(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(), NOW))
    batches = (b"", b"rubbish", b"x" + frame, frame + b"x", frame + Footer(0, ()).encode())
    for frames in batches:
        assert isinstance(await refused(server, till, Batch(till.header.encode(till.key), frames)), DamagedBatch)


async def test_a_chunk_key_is_opened_once(server: Server) -> None:
    for number in range(3):
        assert (await server.take(sale(str(number)))).counts["stored"] == 1


async def dead_letter(server: Server, till: Till, frame: bytes) -> tuple[str, str]:
    """The code and the reason of a frame that is refused between two good ones."""
    good = [till.frame(Record(sale(f"good {i}"), NOW)) for i in range(2)]
    outcome = await server.pipeline.process(till.device, till.frames(good[0], frame, good[1]))
    assert outcome.counts == {"stored": 2, "repeat": 0, "duplicate": 0, "dead": 1, "conflict": 0}
    assert contains(outcome.reply_acked, 7)
    ((code, reason),) = await server.rows("SELECT code, reason FROM dead_letter")
    assert [(letter.code, letter.reason) for letter in outcome.dead] == [(code, reason)]
    return code, reason


class NewerTransaction(Transaction, frozen=True, tag="transaction"):
    """A transaction with a field that this server does not know."""

    mood: str = ""


class NewerRecord(msgspec.Struct):
    """What a later version may send."""

    body: NewerTransaction | None
    captured_at: int
    version: int = 2


def newer() -> NewerTransaction:
    return msgspec.convert({**msgspec.to_builtins(sale()), "mood": "5551234567"}, NewerTransaction)


async def test_an_altered_record_is_a_dead_letter(server: Server) -> None:
    till = server.till()
    elsewhere = Till(server.keys, "1", epoch=b"e" * 16)
    frame = elsewhere.frame(Record(sale(), NOW), seq=7)
    assert await dead_letter(server, till, frame) == ("cannot_open", "cannot_open")


async def test_what_is_no_record_is_a_dead_letter(server: Server) -> None:
    till = server.till()
    assert (await dead_letter(server, till, till.frame(b"5551234567", seq=7)))[0] == "invalid_input"


async def test_an_unknown_field_is_a_dead_letter(server: Server) -> None:
    till = server.till()
    body = newer()
    plain = encode(NewerRecord(body, NOW, version=1))
    code, reason = await dead_letter(server, till, till.frame(plain, seq=7))
    assert code == "invalid_input"
    assert "mood" in reason
    assert "5551234567" not in reason


async def test_a_newer_record_waits_for_the_upgrade(server: Server) -> None:
    till = server.till()
    body = newer()
    frame = till.frame(encode(NewerRecord(body, NOW)), seq=7)
    assert await dead_letter(server, till, frame) == ("newer_record", "version: expected 1")


async def test_a_newer_version_of_known_form_waits_too(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(), NOW, version=2), seq=7)
    assert await dead_letter(server, till, frame) == ("newer_record", "version: expected 1")


async def test_a_frame_that_lies_about_its_kind_is_a_dead_letter(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(), NOW), seq=7, kind=2)
    assert await dead_letter(server, till, frame) == ("unacceptable", "kind: unacceptable")


async def test_another_retailers_sale_is_a_dead_letter(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(retailer="other"), NOW), seq=7)
    assert (await dead_letter(server, till, frame))[0] == "unacceptable"


async def test_the_reason_never_repeats_what_stood_there(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(business_date="5551234567"), NOW), seq=7)
    assert await dead_letter(server, till, frame) == ("invalid_input", "business_date: expected YYYY-MM-DD")


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"lines": (Line(seq=0, amount=1), Line(seq=1, amount=1, quantity="1000000000.1"))}, "lines[1].quantity"),
        ({"lines": tuple(Line(seq=i, amount=1, quantity="-999999") for i in range(2000))}, "lines[1000].quantity"),
        ({"lines": tuple(Line(seq=i, amount=(-1) ** i * 10**12) for i in range(11))}, "lines[9].amount"),
        ({"total": -(10**14)}, "total"),
    ],
)
async def test_amounts_that_would_burst_a_sum_are_dead_letters(
    server: Server, fields: dict[str, Any], place: str
) -> None:
    till = server.till()
    code, reason = await dead_letter(server, till, till.frame(Record(sale(**fields), NOW), seq=7))
    assert code == "impossible_amount"
    assert reason.startswith(f"{place}: expected")


async def test_the_last_seq_of_all_is_a_seq(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(), NOW), seq=MAX_SEQ)
    for repeated in (0, 1):
        outcome = await server.pipeline.process(till.device, till.frames(frame))
        assert (outcome.repeated, outcome.reply_acked) == (repeated, (Range(MAX_SEQ, MAX_SEQ),))


async def test_what_is_left_out_is_the_tills_own(server: Server) -> None:
    await server.take(sale(retailer="", store="", till="", currency=""))
    await server.take(MemberIdentified((Identifier("loyalty", "1"),)))
    assert await server.rows("SELECT retailer, store, currency FROM ledger") == [
        ("acme", "s1", "USD"),
        ("acme", "s1", None),
    ]
