"""What a record says that conditions may ask for is the same wherever it is asked, in any year."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol.events import MemberIdentified
from tillstream_protocol.facts import (
    identification_facts,
    identification_occasion_key,
    local_hour_ms,
    sale_facts,
    sale_occasion_key,
)
from tillstream_protocol.rules import VARIABLES
from tillstream_protocol.transaction import Customer, Identifier, Line, Moment, Source, Transaction

FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999
TILL = b"t" * 16
SOMEBODY = Identifier(scheme="loyalty", value="4711")


def sale(**changes: Any) -> Transaction:
    fields: dict[str, Any] = {
        "source": Source(system="pos"),
        "kind": "sale",
        "pos_id": "1",
        "business_date": "2026-01-02",
        "end": Moment(at=1_767_349_800_000, offset_minutes=60),
        "currency": "EUR",
        "total": 500,
        "retailer": "r1",
        "store": "s1",
        "till": "t1",
    }
    return Transaction(**{**fields, **changes})


def test_a_sale_tells_of_its_goods_its_place_and_its_local_time() -> None:
    lines = (
        Line(seq=1, amount=1, sku="A1", hierarchy=("food", "coffee")),
        Line(seq=2, amount=1, hierarchy=("food",)),
        Line(seq=3, amount=1, sku="A1", hierarchy=("toys",)),
        Line(seq=4, amount=1, sku="void", hierarchy=("void",), void=True),
    )
    assert sale_facts(sale(lines=lines)) == {
        "sale.kind": "sale",
        "sale.total": 500,
        "sale.currency": "EUR",
        "sale.lines": 3,
        "sale.skus": ("A1", "A1"),
        "sale.categories": ("food", "toys"),
        "till.store": "s1",
        "till.retailer": "r1",
        "member.known": False,
        "time.hour": 11,
        "time.weekday": 4,
    }


def test_a_member_is_known_by_an_identifier() -> None:
    assert sale_facts(sale(customer=Customer(identifiers=(SOMEBODY,))))["member.known"] is True
    assert sale_facts(sale(customer=Customer(name="somebody")))["member.known"] is False


def test_an_identification_tells_of_its_place_and_time() -> None:
    known = identification_facts(
        MemberIdentified(identifiers=(SOMEBODY,)), retailer="r1", store="s1", at_ms=1_767_349_800_000
    )
    assert known == {
        "till.store": "s1",
        "till.retailer": "r1",
        "member.known": True,
        "time.hour": 10,
        "time.weekday": 4,
    }
    moved = MemberIdentified(identifiers=(SOMEBODY,), store="s2")
    assert identification_facts(moved, retailer="r1", store="s1", at_ms=0)["till.store"] == "s2"


def test_every_fact_is_a_variable() -> None:
    event = MemberIdentified(identifiers=(SOMEBODY,))
    named = {**sale_facts(sale()), **identification_facts(event, retailer="r", store="s", at_ms=0)}
    assert set(named) <= set(VARIABLES)


@given(at=st.integers(FIRST + 10**8, LAST - 10**8), offset=st.integers(-1080, 1080))
def test_the_hour_and_the_weekday_are_those_of_the_calendar(at: int, offset: int) -> None:
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at, minutes=offset)
    moment = Moment(at=at, offset_minutes=offset)
    known = sale_facts(sale(end=moment))
    assert (known["time.hour"], known["time.weekday"]) == (local.hour, local.weekday())
    hour = local.replace(minute=0, second=0, microsecond=0)
    assert local_hour_ms(moment) == (hour - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def test_the_first_and_the_last_moment_there_are_have_an_hour() -> None:
    for at, offset in ((FIRST, -1080), (LAST, 1080)):
        known = sale_facts(sale(end=Moment(at=at, offset_minutes=offset)))
        assert (known["time.hour"], known["time.weekday"]) in {(6, 6), (17, 5)}


def test_a_revision_is_the_same_occasion_and_another_sale_is_not() -> None:
    assert sale_occasion_key(sale(revision=2, total=1)) == sale_occasion_key(sale())
    others = [sale(pos_id="2"), sale(store="s2"), sale(till="t2"), sale(business_date="2026-01-03")]
    others.append(sale(retailer="another"))
    assert len({sale_occasion_key(one) for one in (sale(), *others)}) == 6


def test_an_identification_is_named_by_its_event() -> None:
    first, second = (MemberIdentified(identifiers=(SOMEBODY,), event_id=name) for name in ("1", "2"))
    assert identification_occasion_key(first, TILL) != identification_occasion_key(second, TILL)
    assert identification_occasion_key(first, TILL) != identification_occasion_key(first, b"T" * 16)
    assert identification_occasion_key(first, TILL) != sale_occasion_key(sale(pos_id="1"))


def test_the_vector_occasions_have_their_keys(vectors: Any) -> None:
    said = {one["of"]: bytes.fromhex(one["key"]) for one in vectors("offers")["occasions"]}
    known = sale(source=Source(system="example-pos"), pos_id="1001")
    assert sale_occasion_key(known) == said["sale"]
    event = MemberIdentified(identifiers=(SOMEBODY,), event_id="e-1")
    assert identification_occasion_key(event, bytes.fromhex(vectors("offers")["till"])) == said["identification"]
