"""Capture validates, cuts, decides, seals and appends; a repeat is answered with the name of the first."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.disks import BROKEN, TroubledDisk
from support.tills import TestTill, crash
from tillstream_agent.capture import Capture, Enrolment, NotOnDisk, cut_ahead
from tillstream_agent.journal import Journal, Name
from tillstream_agent.offers.edge import Edge
from tillstream_protocol.codec import record_decoder
from tillstream_protocol.decisions import Budget, Campaign
from tillstream_protocol.effects import CustomerMessage
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.events import MemberIdentified, OfferShown, Original, Record, RecordsLost
from tillstream_protocol.framing import NO_TAG, Frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.pack import Lease, Pack, sign_pack
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Customer, Fiscal, Identifier, Line, Moment, Source, Tender, Transaction

LIMITS = replace(DEFAULT, sync_interval=0.0)
SERVER = SignKey(bytes(32))
LEASE = Lease(b"l" * 16, "big", 1)
BIG = Campaign(
    id="big",
    version=1,
    name="A big basket",
    trigger="transaction",
    condition={">=": [{"var": "sale.total"}, 1000]},
    effects=(CustomerMessage("Thank you"),),
    budget=Budget(5, 1),
)
WELCOME = msgspec.structs.replace(
    BIG, id="welcome", trigger="member_identified", condition={"var": "member.known"}, budget=None
)
decode = record_decoder(limit=DEFAULT.record)


def sale(pos_id: str = "1", total: int = 500, phone: str | None = None, **fields: object) -> Transaction:
    customer = Customer(identifiers=(Identifier("phone", phone),)) if phone else None
    base = Transaction(
        source=Source("pos"),
        kind="sale",
        pos_id=pos_id,
        business_date="2026-01-01",
        end=Moment(1_700_000_000_000),
        total=total,
        lines=(Line(seq=0, amount=total, sku="1"),),
        customer=customer,
    )
    return msgspec.structs.replace(base, **fields)


class Stand:
    """A till from door to journal."""

    def __init__(self, till: TestTill, journal: Journal) -> None:
        self.till = till
        self.journal = journal
        self.clock_trusted = True
        self.edge = Edge(
            server_public_key=SERVER.public,
            till_id=till.keys.till_id,
            clock=till.clock,
            trusted=lambda: self.clock_trusted,
        )
        where = Enrolment(till.keys.till_id, "retailer", "store", "till-1", "EUR")
        self.capture = Capture(
            journal, self.edge, where, tag_key=till.keys.tag_key, clock=till.clock, randomness=os.urandom
        )

    def give_pack(self, *campaigns: Campaign) -> None:
        now = self.till.clock.now_ms()
        keys = (bytes(32), self.till.keys.identity().server_public, self.till.keys.identity().escrow_public)
        pack = Pack(1, "retailer", "store", self.till.keys.till_id, now, now + 10**6, campaigns, (LEASE,), *keys)
        self.edge.accept(sign_pack(pack, SERVER))

    async def records(self) -> list[Record]:
        position = self.journal.position
        if position.seq:
            await self.journal.synced(replace(position, seq=position.seq - 1))
        return [decode(plain) for plain in self.till.drain(self.journal)]

    async def restart(self) -> Stand:
        await crash(self.journal)
        return Stand(self.till, await self.till.start())


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    till = TestTill(tmp_path / "journal", LIMITS)
    stand = Stand(till, await till.start())
    yield stand
    await crash(stand.journal)


async def test_a_sale_becomes_a_record_with_what_the_till_knows_filled_in(stand: Stand) -> None:
    captured = stand.capture.transaction(sale())
    (record,) = await stand.records()
    assert not captured.repeat
    assert isinstance(record.body, Transaction)
    body = record.body
    assert (body.retailer, body.store, body.till, body.currency) == ("retailer", "store", "till-1", "EUR")
    assert record.reconciles is True
    assert record.captured_at == stand.till.clock.now_ms()


async def test_what_the_sale_says_itself_is_kept_but_another_retailer_is_refused(stand: Stand) -> None:
    given = sale(retailer="retailer", store="s9", till="t9", currency="USD")
    stand.capture.transaction(given)
    (record,) = await stand.records()
    assert record.body == given
    with pytest.raises(InvalidInput) as caught:
        stand.capture.transaction(sale(retailer="other"))
    assert caught.value.field == "retailer"


async def test_a_sale_that_does_not_add_up_is_kept_and_flagged(stand: Stand) -> None:
    stand.capture.transaction(sale(total=500, lines=(Line(seq=0, amount=499),)))
    (record,) = await stand.records()
    assert record.reconciles is False


async def test_a_malformed_decimal_is_named_and_nothing_is_written(stand: Stand) -> None:
    with pytest.raises(InvalidInput) as caught:
        stand.capture.transaction(sale(lines=(Line(seq=0, amount=1, quantity="1e3"),)))
    assert caught.value.field == "lines[0].quantity"
    assert stand.journal.position.seq == 0


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"total": 10**14}, "total"),
        ({"lines": tuple(Line(seq=n, amount=2 * 10**12) for n in range(6))}, "lines[4].amount"),
        ({"lines": (Line(seq=0, amount=1, quantity="999999999999"),)}, "lines[0].quantity"),
        ({"lines": tuple(Line(seq=n, amount=1, quantity="999999999") for n in range(5))}, "lines[1].quantity"),
    ],
)
async def test_an_impossible_amount_is_refused_by_name_and_nothing_is_written(
    stand: Stand, fields: dict[str, Any], place: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        stand.capture.transaction(msgspec.structs.replace(sale(), **fields))
    assert (caught.value.code, caught.value.field) == ("impossible_amount", place)
    assert caught.value.limit
    assert stand.journal.position.seq == 0


async def test_card_numbers_are_cut_and_counted_in_fields_and_in_original_bytes(stand: Stand) -> None:
    pan = "4111111111111111"
    original = Original("text/plain", bytes(32), f"PAN {pan}".encode())
    captured = stand.capture.transaction(sale(note=pan), original)
    (record,) = await stand.records()
    assert captured.redactions == record.redactions == 2
    assert record.original is not None
    assert record.original.data == b"PAN 411111******1111"
    assert record.original.sha256 == hashlib.sha256(b"PAN 411111******1111").digest()


async def test_original_bytes_that_were_cut_ahead_are_written_as_they_would_have_been(stand: Stand) -> None:
    original = Original("text/plain", bytes(32), b"PAN 4111111111111111")
    at_once = stand.capture.transaction(sale(), original)
    ahead = cut_ahead(original, sale())
    assert (ahead.data, ahead.redactions) == (b"PAN 411111******1111", 1)
    later = stand.capture.transaction(sale(pos_id="2"), ahead)
    first, second = await stand.records()
    assert first.original == second.original
    assert at_once.redactions == later.redactions == first.redactions == second.redactions == 1


async def test_a_repeat_gets_the_first_name_also_after_a_kill(stand: Stand) -> None:
    first = stand.capture.transaction(sale(phone="5551234567"))
    again = stand.capture.transaction(sale(phone="5551234567"))
    restarted = await stand.restart()
    after = restarted.capture.transaction(sale(phone="5551234567"))
    assert (again.repeat, after.repeat) == (True, True)
    assert first.name == again.name == after.name
    await crash(restarted.journal)


async def test_what_the_pos_dates_anew_is_a_new_record_also_after_a_kill(stand: Stand) -> None:
    first = stand.capture.transaction(sale(scope="till", changed_at=1_000))
    restarted = await stand.restart()
    later = restarted.capture.transaction(sale(scope="till", changed_at=2_000))
    again = restarted.capture.transaction(sale(scope="till", changed_at=1_000))
    assert (later.repeat, again.repeat, again.name) == (False, True, first.name)
    await crash(restarted.journal)


async def test_the_same_order_with_another_content_is_a_new_record(stand: Stand) -> None:
    given = [
        sale(total=500),
        sale(total=501),
        sale(total=500, revision=1),
        sale(total=500, phone="5551234567"),
        sale(total=500, phone="5559999999"),
        sale(total=500, note="changed"),
    ]
    names = [stand.capture.transaction(s).name for s in given]
    repeats = [stand.capture.transaction(s) for s in given]
    assert [r.name for r in repeats] == names
    assert all(r.repeat for r in repeats)
    assert len(set(names)) == len(given)


async def test_an_id_that_is_a_telephone_number_leaves_no_tag_to_guess_it_by(stand: Stand) -> None:
    phone = "5551234567"
    first = stand.capture.transaction(sale(pos_id=f"order-{phone}", phone=phone))
    event = MemberIdentified(identifiers=(Identifier("phone", phone),), event_id=phone)
    second = stand.capture.member_identified(event)
    assert not stand.capture.transaction(sale(pos_id=f"order-{phone}", phone=phone)).repeat
    assert not stand.capture.member_identified(event).repeat
    await stand.journal.synced(Name(second.name.epoch, 3))
    piece = stand.journal.next_slice("live", 1 << 20)
    assert piece is not None
    assert first.name.seq == 0
    assert [f.header.tag for f in scan(piece.frames) if isinstance(f, Frame)] == [NO_TAG] * 4


def saying(phone: str) -> Transaction:
    """A sale that has a number wherever there is room for one."""
    return sale(
        pos_id="same",
        phone=phone,
        note=phone,
        reason=phone,
        operator=phone,
        receipt=phone,
        ext={"phone": phone},
        fiscal=Fiscal("tse", signature=phone),
        lines=(Line(seq=0, amount=500, sku="1", name=phone, reason=phone, ext={"phone": phone}),),
        tenders=(Tender("card", 500, reference=phone, gift_card=phone, ext={"phone": phone}),),
    )


async def test_the_tag_on_disk_is_the_same_whoever_the_customer_is(tmp_path: Path) -> None:
    till = TestTill(tmp_path, LIMITS)
    tags = []
    for phone in ("5551234567", "5559999999"):
        journal = await till.start()
        Stand(till, journal).capture.transaction(saying(phone))
        await crash(journal)
        for path in sorted(tmp_path.glob("*.chunk")):
            tags.append(path.read_bytes()[1024 + 20 : 1024 + 36])
            path.unlink()
    assert tags[0] == tags[1] != bytes(16)


async def test_a_decision_rides_in_the_sales_own_frame_and_is_repeated_with_it(stand: Stand) -> None:
    stand.give_pack(BIG)
    first = stand.capture.transaction(sale("1", total=5000))
    assert [d.outcome for d in first.decisions] == ["offered"]
    assert stand.journal.spent == {LEASE.id: 1}
    assert stand.capture.transaction(sale("1", total=5000)).decisions == first.decisions
    second = stand.capture.transaction(sale("2", total=5000))
    assert [d.reason for d in second.decisions] == ["budget_exhausted"]
    records = await stand.records()
    assert [r.decisions for r in records] == [first.decisions, second.decisions]
    restarted = await stand.restart()
    restarted.give_pack(BIG)
    assert restarted.journal.spent == {LEASE.id: 1}
    third = restarted.capture.transaction(sale("3", total=5000))
    assert [d.reason for d in third.decisions] == ["budget_exhausted"]
    await crash(restarted.journal)


@pytest.mark.parametrize("flag", ["training", "test"])
async def test_what_is_only_training_makes_no_offers(stand: Stand, flag: str) -> None:
    stand.give_pack(BIG)
    assert stand.capture.transaction(msgspec.structs.replace(sale("1", total=5000), **{flag: True})).decisions == ()
    assert stand.journal.spent == {}


async def test_an_identification_is_captured_and_decided_on(stand: Stand) -> None:
    stand.give_pack(WELCOME)
    event = MemberIdentified(identifiers=(Identifier("loyalty", "77"),), event_id="e1", basket="b1")
    first = stand.capture.member_identified(event)
    again = stand.capture.member_identified(event)
    assert [d.campaign for d in first.decisions] == ["welcome"]
    assert again == replace(first, repeat=True)
    other = stand.capture.member_identified(MemberIdentified(identifiers=(Identifier("loyalty", "77"),)))
    assert not other.repeat
    assert other.decisions[0].offer_id != first.decisions[0].offer_id
    bodies = [record.body for record in await stand.records()]
    assert all(isinstance(b, MemberIdentified) and b.event_id and b.store == "store" and b.at for b in bodies)


async def test_a_payment_card_identifies_nobody(stand: Stand) -> None:
    event = MemberIdentified(identifiers=(Identifier("card", "4111111111111111"),))
    with pytest.raises(InvalidInput) as caught:
        stand.capture.member_identified(event)
    assert caught.value.field == "identifiers"


async def test_an_offer_is_shown_once(stand: Stand) -> None:
    shown = OfferShown(b"o" * 16, "big")
    first, again = stand.capture.event(shown), stand.capture.event(shown)
    assert again.repeat
    assert again.name == first.name


async def test_a_loss_is_captured_once_also_after_a_restart(stand: Stand) -> None:
    fact = RecordsLost(b"e" * 16, 3, 1, "damaged_frame", 5)
    first, again = stand.capture.lost(fact), stand.capture.lost(fact)
    assert (first.repeat, again.repeat) == (False, True)
    assert [record.body for record in await stand.records()] == [fact]
    restarted = await stand.restart()
    after = restarted.capture.lost(fact)
    assert (after.repeat, after.name) == (True, first.name)
    await crash(restarted.journal)


async def test_losses_that_differ_in_anything_but_their_file_are_facts_of_their_own(stand: Stand) -> None:
    fact = RecordsLost(b"e" * 16, 3, 1, "damaged_frame", 5)
    others = [
        msgspec.structs.replace(fact, epoch=b"f" * 16),
        msgspec.structs.replace(fact, first=4),
        msgspec.structs.replace(fact, last=6),
        msgspec.structs.replace(fact, last=None),
        msgspec.structs.replace(fact, reason="missing_chunk"),
    ]
    assert len({stand.capture.lost(one).name for one in [fact, *others]}) == 1 + len(others)
    assert stand.capture.lost(msgspec.structs.replace(fact, chunk=2)).repeat


async def test_what_is_captured_by_a_clock_that_is_off_says_so(stand: Stand) -> None:
    stand.clock_trusted = False
    stand.capture.transaction(sale())
    stand.capture.event(OfferShown(b"o" * 16, "big"))
    stand.capture.lost(RecordsLost(b"e" * 16, 3, 1, "power_cut"))
    assert [record.clock_trusted for record in await stand.records()] == [False] * 3


async def test_remembered_decisions_are_bounded(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tillstream_agent.capture.REMEMBERED", 2)
    stand.give_pack(msgspec.structs.replace(BIG, budget=None))
    for pos_id in "123":
        stand.capture.transaction(sale(pos_id, total=5000))
    answers = [len(stand.capture.transaction(sale(p, total=5000)).decisions) for p in "123"]
    assert answers == [0, 1, 1]


async def test_a_caller_that_waits_for_a_broken_disk_is_told_in_time(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, LIMITS, disk)
    stand = Stand(till, await till.start())
    disk.trouble.sync = BROKEN
    captured = stand.capture.transaction(sale())
    with pytest.raises(NotOnDisk) as caught:
        await stand.capture.durable(captured, deadline=0.01)
    assert caught.value.retryable
    disk.trouble.sync = None
    await stand.capture.durable(captured)
    await stand.journal.close()


async def test_no_identifier_or_card_number_is_readable_in_the_folder(stand: Stand) -> None:
    canaries = ["5551234567", "4012888888881881", "canary@example.org"]
    for number, canary in itertools.product(range(5), canaries):
        stand.capture.transaction(sale(f"{number}{canary[:3]}", phone=canary, note=canary))
        stand.capture.member_identified(MemberIdentified(identifiers=(Identifier("phone", canary),), event_id=canary))
    await stand.records()
    held = b"".join(path.read_bytes() for path in stand.till.folder.iterdir())
    assert len(held) > 1000
    assert not [canary for canary in canaries if canary.encode() in held]


@pytest.mark.parametrize(
    ("own_id", "number", "tagged"),
    [
        ("6e1c2f0a-8a47-4b7c-9d7e", "7", True),
        ("2026-7-0042", "7", False),
        ("7", "7", False),
        ("77-7x", "7", True),
        ("77-7", "7", False),
        ("order555123", "55512", True),
        ("order555123", "555123", False),
        ("shop-BOB@EXAMPLE.COM-1", "bob@example.com", False),
    ],
)
async def test_a_short_identifier_names_somebody_only_where_it_stands_by_itself(
    stand: Stand, own_id: str, number: str, tagged: bool
) -> None:
    customer = Customer((Identifier("account", number),))
    sold = sale(pos_id=own_id, customer=customer)
    first, again = stand.capture.transaction(sold), stand.capture.transaction(sold)
    assert (first.repeat, again.repeat) == (False, tagged)
