"""A batch's way into the ledger: once, whole, and with all it causes."""

from __future__ import annotations

import asyncio
import gc
import os
from decimal import Decimal
from pathlib import Path

import pytest

from support.pipelining import DAY, HOUR, NOW, Server, Till, member, sale, server_at, void
from tillstream_protocol.decisions import Decision
from tillstream_protocol.events import MemberIdentified, OfferAnswered, OfferShown, Record
from tillstream_protocol.messages import Range
from tillstream_protocol.transaction import Customer, Identifier, Line, Link, Moment
from tillstream_server.ledger.database import LedgerFault, on_driver
from tillstream_server.pipeline.projections import Deltas, Projector

OFFER = b"o" * 16


CATEGORIES = """
SELECT c.key, json_extract(c.value, '$[0]'), json_extract(c.value, '$[1]')
FROM member_stats, json_each(member_stats.categories) c ORDER BY 1
"""


async def revenue(server: Server) -> int:
    ((amount,),) = await server.rows("SELECT coalesce(sum(amount_minor), 0) FROM sales_by_hour")
    assert isinstance(amount, int)
    return amount


async def stats(server: Server) -> list[tuple[int, int, int, int | None]]:
    rows = await server.rows("SELECT transactions, visits, spend_minor, last_visit_ms FROM member_stats")
    return [(a, b, c, d) for a, b, c, d in rows]


async def test_a_sale_is_in_the_ledger_and_in_every_figure(server: Server) -> None:
    outcome = await server.take(sale("1", 1000, 250, customer=member()))
    assert outcome.reply_acked == (Range(0, 0),)
    assert outcome.counts == {"stored": 1, "repeat": 0, "duplicate": 0, "dead": 0, "conflict": 0}
    assert await server.rows("SELECT kind, body_type, at_ms, business_date, amount_minor FROM ledger") == [
        (1, "transaction", NOW, "2026-09-20", 1250)
    ]
    assert await server.rows("SELECT * FROM sales_by_hour") == [("acme", "s1", NOW - NOW % HOUR, "USD", 1, 1250, 2)]
    assert await server.rows("SELECT sku, quantity_micro, amount_minor, lines FROM products_by_day ORDER BY sku") == [
        ("sku-0", 1_000_000, 1000, 1),
        ("sku-1", 1_000_000, 250, 1),
    ]
    assert await stats(server) == [(1, 1, 1250, NOW)]
    assert await server.rows(CATEGORIES) == [
        ("FOOD", 1, 1000),
        ("HOME", 1, 250),
    ]


def folds() -> int:
    """How many there are in memory, whoever made them."""
    return sum(isinstance(one, (Projector, Deltas)) for one in gc.get_objects())


async def test_what_a_batch_has_made_is_gone_without_a_garbage_collection(server: Server) -> None:
    gc.collect()
    gc.disable()
    try:
        before = folds()
        await server.take(sale("1", customer=member()))
        assert folds() == before
    finally:
        gc.enable()


async def test_the_hour_is_the_stores_own(server: Server) -> None:
    await server.take(sale(end=Moment(NOW, offset_minutes=-300)))
    local = NOW - 5 * HOUR
    assert await server.rows("SELECT hour_ms FROM sales_by_hour") == [(local - local % HOUR,)]
    quarter = NOW % HOUR // (HOUR // 4)
    counted = await server.rows(f"SELECT hour_ms, transactions_{quarter}, amount_minor_{quarter} FROM sales_by_quarter")
    assert counted == [(NOW - NOW % HOUR, 1, 1000)]


async def test_quantities_are_exact(server: Server) -> None:
    lines = tuple(Line(seq=i, amount=1, sku="a", quantity=q) for i, q in enumerate(("0.1", "0.2", "-1.000001", "+2")))
    await server.take(sale(lines=lines))
    ((micro,),) = await server.rows("SELECT quantity_micro FROM products_by_day")
    assert micro == (Decimal("0.3") - Decimal("1.000001") + 2) * 1_000_000


async def test_void_lines_and_lines_without_an_article_are_in_no_product(server: Server) -> None:
    lines = (
        Line(seq=0, amount=100, sku="a"),
        Line(seq=1, amount=100, sku="b", void=True),
        Line(seq=2, amount=50, type="fee", sku="bag"),
        Line(seq=3, amount=70, gtin="40012345"),
        Line(seq=4, amount=30),
    )
    await server.take(sale(lines=lines, total=250))
    assert await server.rows("SELECT sku, amount_minor FROM products_by_day ORDER BY sku") == [
        ("40012345", 70),
        ("a", 100),
    ]
    assert await server.rows("SELECT lines, amount_minor FROM sales_by_hour") == [(4, 250)]


# Repeats


async def test_a_repeat_is_acknowledged_again_and_counts_nothing(server: Server) -> None:
    till = server.till()
    batch = till.batch(sale("1", customer=member()), sale("2"))
    await server.pipeline.process(till.device, batch)
    before = await server.projections()
    outcome = await server.pipeline.process(till.device, batch)
    assert outcome.reply_acked == (Range(0, 1),)
    assert (outcome.repeated, outcome.counts["stored"]) == (2, 0)
    assert await server.projections() == before
    assert await server.rows("SELECT reason, count FROM refusal") == [("repeat", 2)]
    assert len(server.listener.fired) == 2


async def test_a_batch_that_overlaps_gives_what_is_new(server: Server) -> None:
    till = server.till()
    frames = [till.frame(Record(sale(str(i)), NOW)) for i in range(4)]
    await server.pipeline.process(till.device, till.frames(*frames[:3]))
    outcome = await server.pipeline.process(till.device, till.frames(*frames[1:]))
    assert (outcome.counts["stored"], outcome.repeated) == (1, 2)
    assert outcome.reply_acked == (Range(0, 3),)


async def test_one_name_twice_in_a_batch_counts_once(server: Server) -> None:
    till = server.till()
    frame = till.frame(Record(sale(), NOW))
    outcome = await server.pipeline.process(till.device, till.frames(frame, frame))
    assert (outcome.counts["stored"], outcome.repeated) == (1, 1)


async def test_later_records_may_come_first(server: Server) -> None:
    till = server.till()
    frames = [till.frame(Record(sale(str(i)), NOW)) for i in range(3)]
    outcome = await server.pipeline.process(till.device, till.frames(frames[2]))
    assert outcome.reply_acked == (Range(2, 2),)
    outcome = await server.pipeline.process(till.device, till.frames(frames[0], frames[1]))
    assert outcome.reply_acked == (Range(0, 2),)


async def test_the_same_name_with_another_content_is_set_aside_and_told(server: Server) -> None:
    till = server.till()
    first, other = (till.frame(Record(sale("1", price), NOW), seq=0) for price in (100, 999))
    await server.pipeline.process(till.device, till.frames(first))
    for _ in range(2):
        outcome = await server.pipeline.process(till.device, till.frames(other))
        assert outcome.conflicts == (0,)
        assert [letter.code for letter in outcome.dead] == ["conflict"]
        assert outcome.reply_acked == (Range(0, 0),)
    assert await revenue(server) == 100
    assert await server.rows("SELECT seq, frame FROM conflict") == [(0, other)]


# Dead letters


async def test_a_dead_letter_never_blocks_and_is_told_again(server: Server) -> None:
    till = server.till()
    frames = [till.frame(b"rubbish"), till.frame(Record(sale(), NOW))]
    first = await server.pipeline.process(till.device, till.frames(*frames))
    again = await server.pipeline.process(till.device, till.frames(*frames))
    assert first.reply_acked == again.reply_acked == (Range(0, 1),)
    assert first.dead == again.dead
    assert (again.repeated, again.counts["dead"]) == (2, 0)
    assert await server.rows("SELECT seq, frame FROM dead_letter") == [(0, frames[0])]


async def test_a_good_copy_supersedes_a_dead_letter(server: Server) -> None:
    till = server.till()
    await server.pipeline.process(till.device, till.frames(till.frame(b"rubbish", seq=0)))
    outcome = await server.pipeline.process(till.device, till.frames(till.frame(Record(sale(), NOW), seq=0)))
    assert (outcome.counts["stored"], outcome.dead) == (1, ())
    assert await server.rows("SELECT count(*) FROM dead_letter") == [(0,)]
    assert await revenue(server) == 1000


async def test_a_bad_copy_of_what_is_stored_is_only_a_repeat(server: Server) -> None:
    till = server.till()
    await server.pipeline.process(till.device, till.frames(till.frame(Record(sale(), NOW), seq=0)))
    outcome = await server.pipeline.process(till.device, till.frames(till.frame(b"rubbish", seq=0)))
    assert (outcome.repeated, outcome.dead, outcome.conflicts) == (1, (), ())


# Duplicates and revisions


async def test_the_same_sale_from_two_doors_counts_once(server: Server) -> None:
    await server.take(sale("1", customer=member()))
    outcome = await server.take(sale("1", customer=member()), till="2")
    assert (outcome.counts["stored"], outcome.counts["duplicate"]) == (0, 1)
    assert outcome.reply_acked == (Range(0, 0),)
    assert await revenue(server) == 1000
    assert await stats(server) == [(1, 1, 1000, NOW)]
    assert len(server.listener.fired) == 1


async def test_a_duplicates_name_is_a_name(server: Server) -> None:
    await server.take(sale("1"))
    till = server.till("2")
    await server.pipeline.process(till.device, till.frames(till.frame(Record(sale("1"), NOW), seq=0)))
    again = await server.pipeline.process(till.device, till.frames(till.frame(Record(sale("1"), NOW), seq=0)))
    other = await server.pipeline.process(till.device, till.frames(till.frame(Record(sale("2"), NOW), seq=0)))
    assert (again.repeated, other.conflicts) == (1, (0,))


async def test_a_repeated_identification_is_a_duplicate(server: Server) -> None:
    event = MemberIdentified((Identifier("loyalty", "4711"),), event_id="e1", at=NOW)
    outcome = await server.take(event, event)
    assert (outcome.counts["stored"], outcome.counts["duplicate"]) == (1, 1)
    assert len(server.listener.fired) == 1


async def test_identifications_without_an_id_are_all_kept(server: Server) -> None:
    event = MemberIdentified((Identifier("loyalty", "4711"),))
    assert (await server.take(event, event)).counts["stored"] == 2


async def test_a_revision_replaces_what_it_revises(server: Server) -> None:
    await server.take(sale("1", 1000, customer=member("old")))
    await server.take(sale("1", 400, 300, revision=1, customer=member("new"), end=Moment(NOW + DAY)))
    assert await revenue(server) == 700
    assert await stats(server) == [(1, 1, 700, NOW + DAY)]
    assert await server.rows("SELECT sku, amount_minor, lines FROM products_by_day ORDER BY sku") == [
        ("sku-0", 400, 1),
        ("sku-1", 300, 1),
    ]
    assert await server.rows("SELECT count(*) FROM ledger") == [(2,)]


async def test_an_older_revision_that_comes_late_changes_nothing(server: Server) -> None:
    await server.take(sale("1", 700, revision=2))
    before = await server.projections()
    await server.take(sale("1", 1000, revision=1))
    assert await server.projections() == before
    assert len(server.listener.fired) == 1


async def test_equal_revisions_replace_in_the_order_of_capture(server: Server) -> None:
    await server.take(Record(sale("1", 700), captured_at=NOW + 1))
    await server.take(Record(sale("1", 1000), captured_at=NOW))
    assert await revenue(server) == 700


async def test_a_sale_changed_back_is_as_it_was_first(server: Server) -> None:
    for second, price in enumerate((700, 1000, 700)):
        await server.take(Record(sale("1", price), captured_at=NOW + second))
    assert await revenue(server) == 700


async def test_a_content_that_came_again_has_the_highest_of_its_ranks(server: Server) -> None:
    for second, price in enumerate((700, 1000)):
        await server.take(Record(sale("1", price), captured_at=NOW + second))
    await server.take(Record(sale("1", 700), captured_at=NOW + 5), till="2")
    await server.take(Record(sale("1", 1000), captured_at=NOW + 4))
    assert await revenue(server) == 700
    await server.take(Record(sale("1", 1000), captured_at=NOW + 6))
    assert await revenue(server) == 1000


async def test_of_names_captured_at_one_time_the_highest_number_counts(server: Server) -> None:
    await server.take(sale("1", 700), sale("1", 1000))
    other = server.till("2")
    for seq in (5, 0):
        again = other.frame(Record(sale("1", 700), captured_at=NOW), seq=seq)
        await server.pipeline.process(other.device, other.frames(again))
    await server.take(sale("2"), sale("1", 1000))
    assert await revenue(server) == 1700


async def test_what_came_again_many_times_takes_no_longer_than_what_came_again_once(server: Server) -> None:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    async def again(captured_ms: int) -> int:
        nonlocal steps
        steps = 0
        await server.take(Record(sale("1"), captured_at=captured_ms))
        return steps

    await server.take(sale("1"))
    async with server.database.write() as conn:
        await on_driver(conn, lambda driver: driver.set_progress_handler(step, 10))
    few = [await again(NOW + number) for number in range(10)][-1]
    await server.take(*(Record(sale("1"), captured_at=NOW + number // 2) for number in range(1000)))
    assert await again(NOW + 10_000) < few * 1.5


async def test_a_dated_content_that_came_again_is_no_later_change(server: Server) -> None:
    for second, price in enumerate((700, 700, 1000)):
        await server.take(Record(sale("1", price, changed_at=NOW), captured_at=NOW + (0, 9, 1)[second]))
    assert await revenue(server) == 1000


async def test_taking_the_last_visit_back_restores_the_one_before(server: Server) -> None:
    for number in range(3):
        await server.take(sale(str(number), customer=member(), end=Moment(NOW + number * DAY)))
    await server.take(void("v", "2"))
    assert await stats(server) == [(2, 2, 2000, NOW + DAY)]


async def test_a_return_taken_back_is_no_visit_taken_back(server: Server) -> None:
    await server.take(sale("1", customer=member()))
    back = sale("2", kind="return", lines=(), total=-400, customer=member(), end=Moment(NOW + DAY))
    await server.take(back)
    await server.take(void("v", "2"))
    assert await stats(server) == [(1, 1, 1000, NOW)]


async def test_members_whose_visits_are_found_by_one_number_are_told_apart(tmp_path: Path) -> None:
    async with server_at(tmp_path, randomness=lambda size: bytes(size - 12) + os.urandom(12)) as server:
        for number in range(4):
            who = member(("one", "other")[number % 2])
            await server.take(sale(str(number), customer=who, end=Moment(NOW + number * DAY)))
        await server.take(void("v", "3"), void("w", "2"))
        assert await server.rows("SELECT DISTINCT member FROM sale WHERE member IS NOT NULL") == [(0,)]
        assert sorted(await stats(server)) == [(1, 1, 1000, NOW), (1, 1, 1000, NOW + DAY)]


# Voids, returns, training


async def test_a_void_takes_back_the_sale(server: Server) -> None:
    await server.take(sale("1", customer=member()))
    await server.take(void("v", "1"))
    for table in ("sales_by_hour", "sales_by_quarter", "products_by_day", "member_stats"):
        assert await server.rows(f"SELECT count(*) FROM {table}") == [(0,)]
    assert await server.rows("SELECT counted_ms, member FROM sale ORDER BY ledger_id") == [(None, None), (None, None)]


async def test_a_void_that_comes_first_is_not_forgotten(server: Server) -> None:
    await server.take(void("v", "1"))
    await server.take(sale("1", customer=member()))
    assert await revenue(server) == 0
    assert [fired.body.pos_id for fired in server.listener.fired] == ["v"]  # type: ignore[union-attr]


async def test_two_voids_take_back_once(server: Server) -> None:
    await server.take(sale("1"), sale("2"), void("v", "1"), void("w", "1"))
    assert await revenue(server) == 1000


async def test_a_revised_void_voids_no_more(server: Server) -> None:
    await server.take(sale("1", customer=member()), sale("2"), void("v", "1"))
    await server.take(void("v", "2", revision=1))
    assert await revenue(server) == 1000
    assert await stats(server) == [(1, 1, 1000, NOW)]


async def test_a_sale_revised_after_its_void_stays_void(server: Server) -> None:
    await server.take(sale("1"), void("v", "1"))
    await server.take(sale("1", 500, revision=1))
    assert await revenue(server) == 0


async def test_a_void_names_another_tills_sale_by_its_link(server: Server) -> None:
    await server.take(sale("1"), sale("1", till="2"))
    link = Link("voids", "1", till="2", business_date="2026-09-20")
    await server.take(sale("v", kind="void", lines=(), total=0, links=(link,)))
    assert await server.rows("SELECT counted_ms FROM sale ORDER BY ledger_id") == [(NOW,), (None,), (None,)]


async def test_only_a_void_voids(server: Server) -> None:
    await server.take(sale("1"), sale("2", links=(Link("voids", "1"),)))
    await server.take(void("v", "1", training=True))
    assert await revenue(server) == 2000


async def test_a_return_lowers_spend_and_is_no_visit(server: Server) -> None:
    await server.take(sale("1", 1000, customer=member()))
    back = (Line(seq=0, amount=-400, quantity="-1", sku="sku-0", hierarchy=("FOOD",)),)
    await server.take(sale("2", kind="return", lines=back, total=-400, customer=member(), end=Moment(NOW + DAY)))
    assert await revenue(server) == 600
    assert await stats(server) == [(2, 1, 600, NOW)]
    assert await server.rows("SELECT quantity_micro, amount_minor, lines FROM products_by_day") == [(0, 600, 2)]


@pytest.mark.parametrize("flag", ["training", "test"])
async def test_training_is_kept_but_counts_nowhere_and_sets_off_nothing(server: Server, flag: str) -> None:
    await server.take(sale("1", customer=member(), **{flag: True}))
    assert await revenue(server) == 0
    assert await server.rows("SELECT training, counted_ms FROM sale JOIN ledger ON id = ledger_id") == [(1, None)]
    assert server.listener.fired == []


async def test_what_sells_nothing_is_in_no_figure(server: Server) -> None:
    await server.take(*(sale(kind, kind=kind) for kind in ("suspend", "no_sale", "open", "paid_in")))
    assert await revenue(server) == 0


async def test_currencies_are_never_added(server: Server) -> None:
    await server.take(sale("1", 100, customer=member()), sale("2", 200, currency="EUR", customer=member()))
    assert await server.rows("SELECT currency, amount_minor FROM sales_by_hour") == [("EUR", 200), ("USD", 100)]
    assert await server.rows("SELECT currency, spend_minor FROM member_stats ORDER BY 1") == [
        ("EUR", 200),
        ("USD", 100),
    ]
    facts = server.listener.fired[1].facts.all()
    assert (facts["member.visits"], facts["member.spend"]) == (2, 200)


# What is set off


async def test_a_record_sets_off_what_it_finds_at_that_moment(server: Server) -> None:
    records = [sale(str(i), 100 * (i + 1), customer=member(), end=Moment(NOW + i * 3 * DAY)) for i in range(3)]
    await server.take(*records)
    seen = [(f.facts.all()["member.visits"], f.facts.all()["member.spend"]) for f in server.listener.fired]
    assert seen == [(1, 100), (2, 300), (3, 600)]
    assert [f.facts.all().get("member.days_since_last_visit") for f in server.listener.fired] == [None, 3, 3]
    first = server.listener.fired[0]
    assert (first.trigger, first.store, first.seq, first.subject is not None) == ("transaction", "s1", 0, True)
    assert first.facts.all()["sale.total"] == 100
    assert first.facts.all()["member.categories"] == ("FOOD",)


async def test_figures_go_on_from_batch_to_batch(server: Server) -> None:
    await server.take(sale("1", customer=member()))
    await server.take(sale("2", 100, 200, customer=member(), end=Moment(NOW + 2 * DAY)))
    facts = server.listener.fired[1].facts.all()
    assert facts["member.visits"] == 2
    assert facts["member.days_since_last_visit"] == 2
    assert facts["member.categories"] == ("FOOD", "HOME")


async def test_days_are_unknown_for_a_record_that_comes_after_a_later_one(server: Server) -> None:
    await server.take(sale("1", customer=member(), end=Moment(NOW + DAY)), sale("2", customer=member()))
    assert "member.days_since_last_visit" not in server.listener.fired[1].facts.all()


async def test_nobody_has_no_figures(server: Server) -> None:
    await server.take(sale("1"))
    facts = server.listener.fired[0].facts.all()
    assert facts["member.known"] is False
    assert "member.visits" not in facts


async def test_an_identification_sets_off_with_the_members_figures(server: Server) -> None:
    await server.take(sale("1", customer=member()))
    event = MemberIdentified((Identifier("loyalty", "4711"),), event_id="e", at=NOW + 5 * DAY)
    await server.take(event)
    fired = server.listener.fired[1]
    assert (fired.trigger, fired.body) == ("member_identified", event)
    assert (fired.facts.all()["member.visits"], fired.facts.all()["member.days_since_last_visit"]) == (1, 5)


async def test_age_is_from_capture_to_now(server: Server) -> None:
    await server.take(Record(sale("1"), captured_at=NOW - HOUR), Record(sale("2"), captured_at=NOW + HOUR))
    assert [fired.age_ms for fired in server.listener.fired] == [HOUR, 0]


async def test_what_became_of_offers_is_passed_on(server: Server) -> None:
    await server.take(OfferShown(OFFER, "c"), OfferAnswered(OFFER, "c", "accepted"))
    assert [marked.at_ms for marked in server.listener.marked] == [NOW, NOW]
    assert server.listener.fired == []


async def test_an_offer_shown_in_the_batch_of_its_sale_is_noted_after_the_decision_is_kept(server: Server) -> None:
    await server.take(sale("1"), OfferShown(OFFER, "c"))
    assert server.listener.told == ["fire", "mark"]


async def test_on_a_sale_that_a_revision_has_replaced_the_server_decides_nothing(server: Server) -> None:
    made = Decision(OFFER, "c", 1, "offered", "edge", NOW, NOW)
    await server.take(sale("1", revision=2))
    await server.take(Record(body=sale("1", revision=1), captured_at=NOW, decisions=(made,)))
    assert [fired.decides for fired in server.listener.fired] == [True, False]


async def test_when_the_database_fails_nothing_was_taken(server: Server) -> None:
    till = server.till()
    batch = till.batch(sale("1", customer=member()))
    server.listener.error = LedgerFault("planted")
    with pytest.raises(LedgerFault):
        await server.pipeline.process(till.device, batch)
    for table in ("ledger", "received", "sale", "sales_by_hour", "member_stats", "identifier", "vault_item", "epoch"):
        assert await server.rows(f"SELECT count(*) FROM {table}") == [(0,)]
    server.listener.error = None
    assert (await server.pipeline.process(till.device, batch)).counts["stored"] == 1
    assert len(await server.reveal(Identifier("loyalty", "4711"))) == 1


async def test_many_tills_at_once_lose_nothing(server: Server) -> None:
    tills = [Till(server.keys, str(number)) for number in range(8)]
    batches = [
        (till, till.batch(*(sale(f"{n}-{i}", till=str(n), customer=member(str(i))) for i in range(10))))
        for n, till in enumerate(tills)
    ]
    await asyncio.gather(*(server.pipeline.process(till.device, batch) for till, batch in batches * 2))
    assert await revenue(server) == 80_000
    assert len(await stats(server)) == 10
    assert await server.rows("SELECT count(*), sum(last_seq) FROM received") == [(8, 72)]


async def test_several_identifiers_are_several_subjects(server: Server) -> None:
    both = Customer(identifiers=(Identifier("loyalty", "4711"), Identifier("email", "ann@example.com")))
    await server.take(sale("1", customer=both))
    loyalty, email = [await server.subject_of(identifier) for identifier in both.identifiers]
    assert await server.rows("SELECT subject FROM ledger") == [(loyalty,)]
    assert await server.rows("SELECT subject FROM companion") == [(email,)]
    assert await server.rows("SELECT subject FROM member_stats") == [(loyalty,)]
