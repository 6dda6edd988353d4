"""What cannot be read as a batch is refused whole; what cannot be read as a record is refused alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.public import PrivateKey

from support.pipelining import NOW, Server, Till, sale
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import MemberIdentified, Record
from tillstream_protocol.framing import MAX_SEQ, DamagedChunk, Footer
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Batch, Range
from tillstream_protocol.ranges import contains
from tillstream_protocol.sealing import CannotOpen
from tillstream_protocol.signing import BadSignature
from tillstream_protocol.transaction import Identifier, Line, Transaction
from tillstream_protocol.versions import RECORD
from tillstream_server import keys
from tillstream_server.keys import ServerKeys
from tillstream_server.pipeline.opening import DamagedBatch, ForeignChunk, Opened, Opener


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


async def test_a_header_that_was_good_for_its_device_is_refused_from_another(server: Server) -> None:
    till, other = server.till("1"), server.till("2")
    batch = till.batch(sale())
    await server.pipeline.process(till.device, batch)
    for _ in range(2):
        with pytest.raises(BadSignature):
            await server.pipeline.process(other.device, batch)
    assert (await server.pipeline.process(till.device, batch)).repeated == 1


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
    for frames in (b"rubbish", frame[:-1], Footer(0, ()).encode()):
        assert isinstance(await refused(server, till, Batch(till.header.encode(till.key), frames)), DamagedBatch)


async def test_a_header_alone_has_to_be_its_devices_too(server: Server) -> None:
    till, other = server.till("1"), server.till("2")
    assert isinstance(await refused(server, till, Batch(other.header.encode(till.key), b"")), ForeignChunk)
    assert isinstance(await refused(server, till, Batch(till.header.encode(other.key), b"")), BadSignature)
    assert await server.rows("SELECT count(*) FROM epoch") == [(0,)]


async def test_what_is_whole_of_a_damaged_batch_is_taken_and_nothing_else_acknowledged(server: Server) -> None:
    till = server.till()
    frames = [till.frame(Record(sale(str(number)), NOW)) for number in range(4)]
    damaged = bytearray(frames[1])
    damaged[len(damaged) // 2] ^= 1
    sent = till.frames(b"x", frames[0], bytes(damaged), frames[2], frames[3][:-1])
    outcome = await server.pipeline.process(till.device, sent)
    assert (outcome.reply_acked, outcome.gaps, outcome.dead) == ((Range(0, 0), Range(2, 2)), 3, ())
    outcome = await server.pipeline.process(till.device, till.frames(*frames))
    assert (outcome.reply_acked, outcome.gaps, outcome.counts["stored"]) == ((Range(0, 3),), 0, 2)


async def test_a_footer_behind_the_frames_is_passed_over(server: Server) -> None:
    till = server.till()
    outcome = await server.pipeline.process(
        till.device, till.frames(till.frame(Record(sale(), NOW)), Footer(0, ()).encode())
    )
    assert (outcome.reply_acked, outcome.gaps) == ((Range(0, 0),), 1)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_wherever_a_batch_is_damaged_only_what_is_whole_and_authentic_counts_as_read(
    sealed: tuple[Opener, Till, Batch], place: float, bit: int, cut: bool
) -> None:
    opener, till, batch = sealed
    whole = [item.digest for item in opener.open(till.device, till.header, batch).items if isinstance(item, Opened)]
    data = bytearray(batch.frames)
    at = int(place * len(data))
    data[at] ^= 1 << bit
    try:
        opened = opener.open(till.device, till.header, Batch(batch.header, bytes(data[:at] if cut else data)))
    except DamagedBatch:
        assert cut
        return
    read = {item.seq: item.digest for item in opened.items if isinstance(item, Opened)}
    assert len(read) == len(opened.items)
    assert all(whole[seq] == digest for seq, digest in read.items())
    assert cut or len(read) == len(whole) - 1


@pytest.fixture
async def sealed(server: Server) -> tuple[Opener, Till, Batch]:
    till = Till(server.keys)
    return Opener(server.keys, DEFAULT), till, till.batch(*(sale(str(number)) for number in range(6)))


# Keys


def fresh_box(server_keys: ServerKeys, **changes: Any) -> ServerKeys:
    """The same server after its box key was changed."""
    box = os.urandom(32)
    return replace(server_keys, box_private=box, box_public=bytes(PrivateKey(box).public_key), **changes)


def reads(server_keys: ServerKeys, till: Till, batch: Batch) -> int:
    """How many records of a batch open with these keys."""
    opened = Opener(server_keys, DEFAULT).open(till.device, till.header, batch)
    return sum(isinstance(item, Opened) for item in opened.items)


async def test_what_was_sealed_to_former_keys_opens(server: Server) -> None:
    till, now = Till(server.keys), server.keys
    batch = till.batch(*(sale(str(number)) for number in range(3)))
    for _ in range(3):
        now = fresh_box(now, former_box=(*now.former_box, now.box_private))
        assert reads(now, till, batch) == 3
        newer = Till(now)
        assert reads(now, newer, newer.batch(sale())) == 1


async def test_what_was_sealed_to_a_lost_key_opens_with_the_escrow_key_alone(tmp_path: Path) -> None:
    server_keys, escrow = keys.create(tmp_path / "keys", os.urandom)
    till = Till(server_keys)
    batch = till.batch(sale("1"), sale("2"))
    assert reads(fresh_box(server_keys, escrow_private=escrow), till, batch) == 2
    for without in (fresh_box(server_keys), fresh_box(server_keys, escrow_private=os.urandom(32))):
        with pytest.raises(ForeignChunk):
            reads(without, till, batch)


async def test_a_chunk_whose_escrow_seal_was_altered_still_opens_with_its_box_key(server: Server) -> None:
    till = Till(server.keys)
    till.open_chunk(escrow_sealed_key=os.urandom(80))
    assert reads(server.keys, till, till.batch(sale())) == 1


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
    version: int = RECORD + 1


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
    assert await dead_letter(server, till, frame) == ("newer_record", f"version: expected {RECORD}")


async def test_a_newer_version_of_known_form_waits_too(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(), NOW, version=RECORD + 1), seq=7)
    assert await dead_letter(server, till, frame) == ("newer_record", f"version: expected {RECORD}")


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
        assert (outcome.repeated, outcome.reply_acked, outcome.dead) == (repeated, (Range(MAX_SEQ, MAX_SEQ),), ())


async def test_what_is_left_out_is_the_tills_own(server: Server) -> None:
    await server.take(sale(retailer="", store="", till="", currency=""))
    await server.take(MemberIdentified((Identifier("loyalty", "1"),)))
    assert await server.rows("SELECT retailer, store, currency FROM ledger") == [
        ("acme", "s1", "USD"),
        ("acme", "s1", None),
    ]
