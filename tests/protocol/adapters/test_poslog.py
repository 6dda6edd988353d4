"""POSLog files: NCR's genuine one, and one of each kind after the schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.broken_xml import broken, lost
from support.golden import DATA, golden, read_or_refused, refusal, sample, written
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.poslog import ADAPTER
from tillstream_protocol.errors import TooLarge
from tillstream_protocol.transaction import Transaction, idempotency_key, reconcile

SAMPLES = sorted((DATA / "poslog").glob("*.xml"))
AMERICAN = Setting(zone=ZoneInfo("America/Los_Angeles"))
GERMAN = Setting("EUR", ZoneInfo("Europe/Berlin"))
SMALL = sample("poslog/SMALL.xml")
KINDS = sample("poslog/kinds-2.xml")
SIX = sample("poslog/version-6.xml")


def transaction(lines: str, total: str = "0") -> Transaction:
    """A sale of NCR's kind with these lines."""
    sale = (
        '<POSLog xmlns:acs="http://www.ncr.com/rsd/acs/tlog/markup/poslog/2.1"><Transaction><SequenceNumber>1'
        "</SequenceNumber><EndDateTime>2026-03-01T10:00:00</EndDateTime><RetailTransaction>"
        f'{lines}<Total TotalType="TransactionGrandAmount">{total}</Total></RetailTransaction></Transaction></POSLog>'
    )
    (reading,) = ADAPTER.read(sale.encode(), GERMAN)
    return reading.transaction


def sold(item: str, amount: str, *, void: bool = False) -> str:
    flag = ' VoidFlag="true"' if void else ""
    return f"<LineItem{flag}><Sale><ItemID>{item}</ItemID><ExtendedAmount>{amount}</ExtendedAmount></Sale></LineItem>"


def test_ncrs_genuine_file_is_read_whole() -> None:
    readings = ADAPTER.read(SMALL, AMERICAN)
    assert written(readings) == golden("poslog/SMALL.xml")
    assert [reconcile(one.transaction) for one in readings] == [None, True]
    start, middle = SMALL.index(b"<Transaction>"), SMALL.rindex(b"<Transaction>")
    assert readings[0].original == SMALL[start:middle]
    assert readings[1].original == SMALL[middle : SMALL.rindex(b"</POSLog>")]


@pytest.mark.parametrize(
    ("name", "adds_up"),
    [
        # Only what moves goods against money can add up.
        ("kinds-2", [True, True, None, True, None, None, None, None, None]),
        ("version-6", [True]),
    ],
)
def test_each_kind_of_transaction_is_read_whole(name: str, adds_up: list[bool | None]) -> None:
    readings = ADAPTER.read(sample(f"poslog/{name}.xml"), GERMAN)
    assert written(readings) == golden(f"poslog/{name}.xml")
    assert [reconcile(one.transaction) for one in readings] == adds_up


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_nothing_of_a_file_is_lost(path: Path) -> None:
    said_otherwise = {
        *("Stock", "Deposit", "Sale", "Return", "Refund", "Subtract", "Resume", "Suspended", "PostVoided"),
        *(f"Transaction{name}" for name in ("GrandAmount", "TaxAmount", "NetAmount", "GrossAmount")),
        *("TransactionTotalSavings", "TransactionTenderApplied", "true", "false"),
        *("NDExMTExKioqKioqMTExMQ==", "c2VjcmV0"),  # a masked card number, readable now, and a track, which is dropped
    }
    data = path.read_bytes()
    assert lost(data, ADAPTER.read(data, GERMAN)) <= said_otherwise


def test_kinds_flags_and_links_are_told_apart() -> None:
    made = [one.transaction for one in ADAPTER.read(KINDS, GERMAN)]
    kinds = ["sale", "return", "suspend", "exchange", "void", "cancel", "no_sale", "paid_out", "sign_off"]
    assert [one.kind for one in made] == kinds
    relations = [link.relation for one in made for link in one.links]
    assert relations == ["original", "resumes", "voids"]
    assert (made[0].offline, made[5].training, made[1].end.offset_from) == (True, True, "explicit")


def test_versions_are_told_apart_and_keep_the_same_key() -> None:
    (six,) = ADAPTER.read(SIX, GERMAN)
    assert six.transaction.source.version == "6.0.0"
    assert idempotency_key(six.transaction) == ("arts-poslog", "berlin-1", "T-2", "2026-03-02", "501")
    assert ADAPTER.read(SMALL, AMERICAN)[1].transaction.source.version == "2.1"


def test_the_same_sale_sent_again_keeps_its_key() -> None:
    again = SMALL.replace(b">1.07<", b">1.08<")
    first, second = (ADAPTER.read(data, AMERICAN)[1].transaction for data in (SMALL, again))
    assert idempotency_key(first) == idempotency_key(second)
    assert second.revision >= first.revision
    assert second.total == 108


def test_a_line_that_takes_back_another_strikes_both_out() -> None:
    made = transaction(sold("A", "2.00") + sold("B", "3.00") + sold("A", "-2.00", void=True), "3.00")
    assert [line.void for line in made.lines] == [True, False, True]
    assert reconcile(made)


def test_a_line_that_takes_back_a_part_counts_as_it_stands() -> None:
    made = transaction(sold("A", "4.00") + sold("A", "-2.00", void=True), "2.00")
    assert [line.void for line in made.lines] == [False, False]
    assert made.lines[1].ext == {"rest": {"@VoidFlag": "true"}}
    assert reconcile(made)


def test_rewards_beyond_what_fits_become_lines() -> None:
    reward = (
        '<LineItem><LoyaltyReward acs:detailedData="true"><PromotionID>P</PromotionID><acs:RewardCategory>Monetary'
        "</acs:RewardCategory><acs:ExtendedRewardAmount>-0.10</acs:ExtendedRewardAmount></LoyaltyReward></LineItem>"
    )
    made = transaction(sold("A", "20.00") + reward * 103, "9.70")
    assert (len(made.discounts), [line.amount for line in made.lines]) == (100, [2000, -10, -10, -10])
    assert (made.lines[1].ext or {})["promotion"] == "P"
    assert reconcile(made)


def test_lines_and_links_of_one_transaction_are_bounded() -> None:
    with pytest.raises(TooLarge) as caught:
        transaction(sold("A", "1.00") * 5_001)
    assert caught.value.field == "POSLog/Transaction/RetailTransaction/LineItem[5001]"
    links = "".join(f"<TransactionLink><SequenceNumber>{n}</SequenceNumber></TransactionLink>" for n in range(51))
    assert len(transaction(links[: links.rindex("<TransactionLink>")] * 2).links) == 50
    with pytest.raises(TooLarge):
        transaction(links)


def test_a_price_modifier_without_an_amount_stays_in_ext() -> None:
    modifier = "<RetailPriceModifier><NewPrice>1.00</NewPrice></RetailPriceModifier>"
    made = transaction(f"<LineItem><Sale><ExtendedAmount>1.00</ExtendedAmount>{modifier}</Sale></LineItem>", "1.00")
    assert (made.lines[0].discounts, made.lines[0].ext) == (
        (), {"rest": {"Sale/RetailPriceModifier/NewPrice": "1.00"}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inside", "tender"),
    [
        ("<Amount>5.00</Amount>", {"type": "other", "amount": 500}),
        ("<TenderID>1</TenderID><Amount>5.00</Amount>", {"type": "1", "amount": 500}),
        (
            "<TenderID>1</TenderID><Amount>5</Amount><AmountAppliedToBill>4</AmountAppliedToBill>"
            "<TenderChange><Amount>1</Amount></TenderChange>",
            {"type": "1", "amount": 400, "tendered": 500, "change": 100},
        ),
        (
            "<TenderID>1</TenderID><Amount>-1</Amount><TenderChange><Amount>-1</Amount></TenderChange>",
            {"type": "1", "amount": -100, "change": 100},
        ),
        (
            "<TenderID>1</TenderID><Amount>5</Amount><ForeignCurrency><CurrencyCode>JPY</CurrencyCode>"
            "<OriginalFaceAmount>800</OriginalFaceAmount></ForeignCurrency>",
            {"type": "1", "amount": 500, "foreign_currency": "JPY", "foreign_amount": 800},
        ),
        (
            "<TenderID>1</TenderID><Amount>5</Amount><ForeignCurrency><CurrencyCode>JPY</CurrencyCode>"
            "</ForeignCurrency>",
            {"type": "1", "amount": 500, "foreign_currency": "JPY"},
        ),
    ],
)
def test_tenders_are_told_as_they_settled(inside: str, tender: dict[str, Any]) -> None:
    made = transaction(f"<LineItem><Tender>{inside}</Tender></LineItem>")
    assert msgspec.to_builtins(made.tenders[0]) == tender


@pytest.mark.parametrize(
    ("number", "card"),
    [("411111******1111", "411111******1111"), ("NDExMQ==", "4111"), ("bm90IGEgY2FyZA==", None), ("é", None)],
)
def test_a_card_is_read_masked_or_in_base64_and_else_left_alone(number: str, card: str | None) -> None:
    debit = f"<CreditDebit><PrimaryAccountNumber>{number}</PrimaryAccountNumber></CreditDebit>"
    tender = f'<LineItem><Tender TenderType="Card"><Amount>1</Amount>{debit}</Tender></LineItem>'
    made = transaction(tender).tenders[0]
    left = None if card else {"rest": {"Tender/CreditDebit/PrimaryAccountNumber": number}}
    assert (made.card, made.ext) == (card, left)


def test_more_that_is_personal_than_fits_stands_together() -> None:
    customer = "".join(f"<Note>{n}</Note>" for n in range(60))
    made = transaction(f"<Customer>{customer}</Customer>").customer
    assert made is not None
    assert made.personal is not None
    assert (len(made.personal), made.personal["…"].count("\n")) == (50, 10)


def test_a_customer_of_too_many_names_is_refused() -> None:
    accounts = "".join(f"<LoyaltyAccount><LoyaltyID>{n}</LoyaltyID></LoyaltyAccount>" for n in range(17))
    with pytest.raises(TooLarge):
        transaction(accounts)


@pytest.mark.parametrize(
    ("tax", "code"), [("<TaxGroupID>G1</TaxGroupID>", "G1"), ("<TaxRuleID>7</TaxRuleID>", "7"), ("", "tax")]
)
def test_a_tax_is_named_as_the_till_names_it(tax: str, code: str) -> None:
    made = transaction(f"<LineItem><Tax>{tax}<Amount>1</Amount></Tax></LineItem>")
    assert [one.code for one in made.taxes] == [code]


def test_a_second_number_of_the_same_kind_stays_in_ext() -> None:
    identity = "<POSIdentity><POSItemID>{}</POSItemID></POSIdentity>"
    sale = identity.format("1") + identity.format("2") + "<ItemID>3</ItemID><ExtendedAmount>1</ExtendedAmount>"
    line = transaction(f"<LineItem><Sale>{sale}</Sale></LineItem>").lines[0]
    assert (line.sku, line.scan, line.ext) == ("3", "1", {"rest": {"Sale/POSIdentity[2]/POSItemID": "2"}})


def test_money_paid_in_has_its_tenders() -> None:
    paid = b'<PaidIn><Amount>12.00</Amount><Tender TenderType="Cash"><Amount>12.00</Amount></Tender></PaidIn>'
    start, end = KINDS.index(b"<PaidOut>"), KINDS.index(b"</PaidOut>") + len(b"</PaidOut>")
    made = ADAPTER.read(KINDS[:start] + paid + KINDS[end:], GERMAN)[7].transaction
    assert (made.kind, made.total, [one.amount for one in made.tenders]) == ("paid_in", 1200, [1200])


def test_track_data_is_dropped() -> None:
    made = written(ADAPTER.read(SIX, GERMAN))
    assert "c2VjcmV0" not in str(made)
    assert made[0]["tenders"][0]["card"] == "411111******1111"


def test_another_kind_is_refused_unless_the_setting_passes_over_it() -> None:
    odd = KINDS.replace(b"TenderControlTransaction", b"InventoryControlTransaction")
    assert refusal(lambda: ADAPTER.read(odd, GERMAN)).field == "POSLog/Transaction[8]/InventoryControlTransaction"
    passing = Setting("EUR", GERMAN.zone, {"skip": ["InventoryControlTransaction"]})
    assert len(ADAPTER.read(odd, passing)) == 8
    assert ADAPTER.read(b"<POSLog/>", GERMAN) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b"POSLog", b"POSFrog", "POSFrog"),
        (b'"Suspended"', b'"Lost"', "POSLog/Transaction[3]/RetailTransaction@TransactionStatus"),
        (b"<OperatorSignOff/>", b"<Reboot/>", "POSLog/Transaction[9]/ControlTransaction"),
        (b"<OperatorSignOff/>", b"", "POSLog/Transaction[9]/ControlTransaction"),
        (b"<RetailTransaction/>", b"", "POSLog/Transaction[6]"),
        (b"EndDateTime>2026-03-02T09:11:00<", b"EndDateTime><", "POSLog/Transaction[3]/EndDateTime"),
        (b"<SequenceNumber>1006<", b"<SequenceNumber><", "POSLog/Transaction[7]/SequenceNumber"),
        (
            b"<SequenceNumber>1001</SequenceNumber></TransactionLink>",
            b"</TransactionLink>",
            "POSLog/Transaction[2]/RetailTransaction/LineItem[1]/Return/TransactionLink",
        ),
        (b">17.49</ExtendedAmount><Quantity>", b">1e99</ExtendedAmount><Quantity>", None),
        (b"2026-03-02</BusinessDayDate><EndDateTime>2026-03-02T20", b"soon</BusinessDayDate><EndDateTime>2026-03-02T20",
         "POSLog/Transaction[9]: business_date"),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused_by_its_place(old: bytes, new: bytes, place: str | None) -> None:
    assert old in KINDS
    where = place or "POSLog/Transaction[2]/RetailTransaction/LineItem[1]/Return/ExtendedAmount"
    assert refusal(lambda: ADAPTER.read(KINDS.replace(old, new), GERMAN)).field == where


@settings(max_examples=300, deadline=None)
@given(st.one_of(broken(SMALL), broken(KINDS), broken(SIX)))
def test_a_file_broken_anywhere_is_read_or_refused(data: bytes) -> None:
    read_or_refused(ADAPTER, data, GERMAN)


@given(st.binary(max_size=300), st.integers(0, len(KINDS)))
def test_whatever_bytes_are_read_or_refused(data: bytes, at: int) -> None:
    for sent in (data, KINDS[:at] + data + KINDS[at + len(data) :]):
        read_or_refused(ADAPTER, sent, GERMAN)
