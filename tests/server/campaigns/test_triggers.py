"""What records set off: one decision an offer, pushed to the till that the member stands at."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from msgspec.structs import replace

from support.campaigning import EPOCH, NOW, REGULAR, Server, Till, campaign, sale
from tillstream_protocol.decisions import Budget, Decision, Occasion, decide, ready
from tillstream_protocol.events import OfferAnswered, OfferShown, Record
from tillstream_protocol.facts import basket_occasion_key, sale_facts
from tillstream_protocol.messages import OfferPush, PackPush, Push
from tillstream_server.campaigns.leases import SERVER, server_lease
from tillstream_server.campaigns.triggers import Marked
from tillstream_server.ledger import outbox

ALICE = b"a" * 16
BOB = b"b" * 16


def offer(push: Push) -> OfferPush:
    assert isinstance(push.body, OfferPush)
    return push.body


async def test_a_sale_that_meets_the_condition_brings_an_offer_to_its_till(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign(valid_for_s=60))
    [push] = await server.processes(server.sells(till, sale(total=1000)))
    assert push.seq == 1
    assert push.expires_ms == NOW + 60_000
    assert (offer(push).epoch, offer(push).seq) == (EPOCH, 0)
    assert offer(push).decision.decided_at == "server"
    [stored] = await server.decisions()
    assert (stored.offer_id, stored.outcome, stored.till_id) == (
        offer(push).decision.offer_id,
        "offered",
        till.till_id,
    )
    assert (stored.verdict, stored.pushed_ms, stored.received_ms) == (None, NOW, None)


async def test_a_sale_that_no_longer_holds_keeps_the_tills_decision_and_makes_no_other(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign())
    replaced = replace(server.sells(till, sale(total=1000)), decides=False)
    assert await server.processes(replaced) == []
    assert await server.decisions() == []


async def test_a_sale_below_the_condition_sets_off_nothing(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign())
    assert await server.processes(server.sells(till, sale(total=999))) == []
    assert await server.decisions() == []


async def test_an_identification_brings_an_offer_for_its_basket(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign("hello", trigger="member_identified", condition=REGULAR))
    [push] = await server.processes(server.identifies(till, "event-1", subject=ALICE, basket="b-7"))
    assert offer(push).basket == "b-7"


async def test_a_campaign_of_once_a_member_offers_each_member_once(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign(once_per="member"))
    pushes = await server.processes(
        server.sells(till, sale(1), subject=ALICE),
        server.sells(till, sale(2), subject=ALICE),
        server.sells(till, sale(3), subject=BOB),
        server.sells(till, sale(4)),
    )
    assert len(pushes) == 2
    assert await server.processes(server.sells(till, sale(5), subject=ALICE)) == []


async def test_a_revision_is_the_same_occasion_and_makes_no_second_offer(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign())
    await server.processes(server.sells(till, sale(1)))
    assert await server.processes(server.sells(till, sale(1, total=5000))) == []
    assert len(await server.decisions()) == 1


async def test_at_most_three_offers_an_occasion_counting_what_the_till_made(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign("a"), campaign("b"))
    till.takes(await server.issues(device))
    await server.puts(*(campaign(name) for name in "cdef"))
    record = server.sells(device, sale(1), decisions=till.decides(sale(1)))
    pushes = await server.processes(record)
    assert [offer(push).decision.campaign for push in pushes] == ["c"]
    assert await server.processes(replace(record, ledger_id=99, seq=1)) == []


async def test_a_stale_record_fires_nothing_and_the_refusal_is_kept(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign(fresh_for_s=900))
    assert await server.processes(server.sells(till, sale(1), age_ms=900_001)) == []
    [refused] = await server.decisions()
    assert (refused.outcome, refused.reason, refused.pushed_ms) == ("refused", "stale", None)
    assert len(await server.processes(server.sells(till, sale(2), age_ms=900_000))) == 1


async def test_a_stale_record_does_not_cost_a_member_the_one_offer(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign(once_per="member"))
    assert await server.processes(server.sells(till, sale(1), subject=ALICE, age_ms=10**9)) == []
    assert await server.decisions() == []
    assert len(await server.processes(server.sells(till, sale(2), subject=ALICE))) == 1


async def test_only_the_named_stores_take_part(server: Server) -> None:
    north, south = await server.enrols(), await server.enrols(store="south")
    await server.puts(campaign(stores=("south",)))
    assert await server.processes(server.sells(north, sale(1))) == []
    assert len(await server.processes(server.sells(south, sale(2)))) == 1


async def test_a_campaign_that_ended_decides_no_more(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign())
    await server.ends("big-sale")
    assert await server.processes(server.sells(till, sale())) == []


async def test_a_rule_that_hardly_anybody_reaches_finds_the_one_that_does(server: Server) -> None:
    till = await server.enrols()
    await server.puts(
        campaign("never", condition={">=": [{"var": "member.visits"}, 100]}),
        campaign("once", condition={">=": [{"var": "member.visits"}, 50]}),
        campaign("few", condition={"<": [{"var": "member.visits"}, 2]}),
    )
    visits = (7, 50, None, 1)
    known = [{} if number is None else {"member.visits": number} for number in visits]
    fired = [replace(server.sells(till, sale(seq), facts=facts), seq=seq) for seq, facts in enumerate(known)]
    pushes = await server.processes(*fired)
    assert [(offer(push).decision.campaign, offer(push).seq) for push in pushes] == [("once", 1), ("few", 3)]


async def test_offers_stop_when_the_budget_is_spent(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign(condition=REGULAR, budget=Budget(units=2, lease=1)))
    regular = {"member.visits": 9}
    pushes = await server.processes(*(server.sells(till, sale(n), facts=regular) for n in range(3)))
    assert len(pushes) == 2
    assert offer(pushes[0]).decision.lease == server_lease("acme", "big-sale")
    assert await server.processes(server.sells(till, sale(9), facts=regular)) == []
    assert [d.reason for d in await server.decisions()] == [None, None, "budget_exhausted", "budget_exhausted"]
    assert await server.leases() == [(server_lease("acme", "big-sale"), SERVER, "big-sale", 2)]


async def test_a_raised_budget_goes_on_where_the_old_one_ended(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign(condition=REGULAR, budget=Budget(units=1, lease=1)))
    regular = {"member.visits": 9}
    await server.processes(server.sells(till, sale(1), facts=regular), server.sells(till, sale(2), facts=regular))
    await server.puts(campaign(version=2, condition=REGULAR, budget=Budget(units=2, lease=1)))
    pushes = await server.processes(*(server.sells(till, sale(n), facts=regular) for n in (3, 4)))
    assert len(pushes) == 1


async def test_what_the_till_decided_is_kept_and_not_decided_again(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign())
    till.takes(await server.issues(device))
    assert await server.processes(server.sells(device, sale(), decisions=till.decides(sale()))) == []
    [stored] = await server.decisions()
    assert (stored.decided_at, stored.verdict, stored.pushed_ms) == ("edge", "agreed", None)


async def test_a_decision_by_an_old_version_is_judged_by_that_version(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign())
    till.takes(await server.issues(device))
    await server.puts(campaign(version=2, condition={">=": [{"var": "sale.total"}, 10**6]}))
    await server.processes(server.sells(device, sale(), decisions=till.decides(sale())))
    assert [d.verdict for d in await server.decisions()] == ["agreed"]


def altered(decision: Decision, what: str) -> Decision:
    match what:
        case "another version":
            return msgspec.structs.replace(decision, campaign_version=7)
        case "another campaign":
            return msgspec.structs.replace(decision, campaign="nobody-knows")
        case "another offer id":
            return msgspec.structs.replace(decision, offer_id=b"x" * 16)
        case "a later expiry":
            return msgspec.structs.replace(decision, expires_ms=decision.expires_ms + 1)
        case "no effects":
            return msgspec.structs.replace(decision, effects=())
        case "a lease nobody gave":
            return msgspec.structs.replace(decision, lease=b"l" * 16)
        case _:
            return msgspec.structs.replace(decision, outcome="withheld")


@pytest.mark.parametrize(
    "what",
    [
        "another version",
        "another campaign",
        "another offer id",
        "a later expiry",
        "no effects",
        "a lease nobody gave",
        "withheld",
    ],
)
async def test_a_decision_that_the_server_would_not_make_differs(server: Server, what: str) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign())
    till.takes(await server.issues(device))
    [decision] = till.decides(sale())
    await server.processes(server.sells(device, sale(), decisions=[altered(decision, what)]))
    assert (await server.decisions())[0].verdict == "differs"


async def test_a_condition_that_did_not_hold_differs(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign())
    till.takes(await server.issues(device))
    await server.processes(server.sells(device, sale(total=1), decisions=till.decides(sale())))
    assert (await server.decisions())[0].verdict == "differs"


async def test_a_refusal_for_want_of_a_clock_is_agreed_where_the_record_says_so(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign())
    till.takes(await server.issues(device))
    [decision] = till.decides(sale(1))
    refusal = msgspec.structs.replace(decision, outcome="refused", reason="clock_untrusted", effects=())
    fired = server.sells(device, sale(1), decisions=[refusal])
    untrusted = msgspec.structs.replace(fired.record, clock_trusted=False)
    await server.processes(replace(fired, record=untrusted))
    [other] = till.decides(sale(2))
    lame = msgspec.structs.replace(other, outcome="refused", reason="clock_untrusted", effects=())
    await server.processes(server.sells(device, sale(2), decisions=[lame]))
    assert [d.verdict for d in await server.decisions()] == ["agreed", "differs"]


async def test_a_stale_refusal_at_the_till_is_agreed(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign())
    till.takes(await server.issues(device))
    [decision] = till.decides(sale())
    refusal = msgspec.structs.replace(decision, outcome="refused", reason="stale", effects=())
    await server.processes(server.sells(device, sale(), decisions=[refusal]))
    assert [d.verdict for d in await server.decisions()] == ["agreed"]


async def test_a_spent_lease_is_renewed_while_the_budget_lasts(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign(budget=Budget(units=3, lease=2)))
    till.takes(await server.issues(device))
    records = [server.sells(device, sale(n), decisions=till.decides(sale(n))) for n in range(3)]
    [push] = await server.processes(*records)
    assert isinstance(push.body, PackPush)
    assert push.expires_ms == NOW + server.packs.lifetime_ms
    pack = server.opens(push.body.pack, device)
    assert [lease.units for lease in pack.leases] == [1]
    assert [(d.outcome, d.verdict) for d in await server.decisions()] == [
        ("offered", "agreed"),
        ("offered", "agreed"),
        ("refused", "agreed"),
    ]
    till.takes(pack)
    last = [server.sells(device, sale(n), decisions=till.decides(sale(n))) for n in (7, 8)]
    assert await server.processes(*last) == []


async def test_an_overspent_lease_differs(server: Server) -> None:
    device = await server.enrols()
    await server.puts(campaign(budget=Budget(units=9, lease=1)))
    pack = await server.issues(device)
    restored, original = Till(device), Till(device)
    restored.takes(pack)
    original.takes(pack)
    await server.processes(server.sells(device, sale(1), decisions=original.decides(sale(1))))
    await server.processes(server.sells(device, sale(2), decisions=restored.decides(sale(2))))
    assert [d.verdict for d in await server.decisions()] == ["agreed", "differs"]


async def test_another_tills_lease_differs_and_is_not_spent(server: Server) -> None:
    mine, yours = await server.enrols("1"), await server.enrols("2")
    await server.puts(campaign(budget=Budget(units=9, lease=1)))
    thief, owner = Till(mine), Till(yours)
    pack = await server.issues(yours)
    thief.takes(pack)
    owner.takes(pack)
    await server.processes(server.sells(mine, sale(1), decisions=thief.decides(sale(1))))
    await server.processes(server.sells(yours, sale(2), decisions=owner.decides(sale(2))))
    assert [d.verdict for d in await server.decisions()] == ["differs", "agreed"]


async def test_the_first_showing_is_noted_once(server: Server) -> None:
    till, other = await server.enrols("1"), await server.enrols("2")
    await server.puts(campaign())
    [push] = await server.processes(server.sells(till, sale()))
    name = offer(push).decision.offer_id
    async with server.database.write() as conn:
        await server.triggers.mark(conn, [])
        await server.triggers.mark(conn, [Marked(other, OfferShown(name, "big-sale"), NOW - 5)])
        await server.triggers.mark(conn, [Marked(till, OfferAnswered(name, "big-sale", "accepted"), NOW + 9)])
        await server.triggers.mark(conn, [Marked(till, OfferShown(name, "big-sale"), NOW + 1)])
        await server.triggers.mark(conn, [Marked(till, OfferShown(name, "big-sale"), NOW + 5)])
    assert [d.shown_ms for d in await server.decisions()] == [NOW + 1]


async def test_what_was_fired_is_in_the_outbox_of_its_till(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign())
    pushes = await server.processes(server.sells(till, sale()))
    async with server.database.read() as conn:
        assert await outbox.after(conn, till.till_id, 0, NOW) == pushes


async def test_a_rolled_back_batch_leaves_nothing_and_is_decided_anew(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign(condition=REGULAR, budget=Budget(units=1, lease=1)))
    fired = server.sells(till, sale(), facts={"member.visits": 9})
    with suppress(ZeroDivisionError):
        async with server.database.write() as conn:
            await server.triggers.fire(conn, [fired])
            raise ZeroDivisionError
    assert await server.decisions() == []
    [push] = await server.processes(fired)
    assert push.seq == 1


BASKET = b"k" * 16


async def settled(server: Server, *, key: bytes = BASKET, total: int = 2500) -> list[str | None]:
    """The verdicts on a till's decision about an open basket that became a sale."""
    device = await server.enrols()
    one = campaign(trigger="basket")
    await server.puts(one)
    closed = sale(total=total)
    occasion = Occasion(
        trigger="basket",
        store="north",
        facts=sale_facts(sale()),
        record_key=basket_occasion_key(device.till_id, BASKET),
        member_key=None,
        offer_key=server.keys.offer_key(device.retailer),
        now_ms=NOW,
        age_ms=0,
        side="edge",
    )
    decisions = decide([ready(one)], occasion, draw=lambda _: None)
    fired = server.sells(device, closed, decisions=decisions)
    record = Record(closed, NOW, version=2, decisions=tuple(decisions), basket=key)
    assert await server.processes(replace(fired, record=record)) == []
    return [stored.verdict for stored in await server.decisions()]


async def test_what_a_till_decided_on_an_open_basket_is_decided_again_on_its_sale(server: Server) -> None:
    assert await settled(server) == ["agreed"]


async def test_a_basket_that_became_another_sale_is_no_reason_for_its_offer(server: Server) -> None:
    assert await settled(server, total=1) == ["differs"]


async def test_an_offer_on_another_basket_is_not_this_ones(server: Server) -> None:
    assert await settled(server, key=b"x" * 16) == ["differs"]


async def test_the_server_makes_no_offer_of_its_own_on_a_basket(server: Server) -> None:
    device = await server.enrols()
    await server.puts(campaign(trigger="basket"))
    assert await server.processes(server.sells(device, sale())) == []
    assert await server.decisions() == []
