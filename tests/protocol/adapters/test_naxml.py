"""NAXML journals, after public documentation: there is no genuine file to try them on yet."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.broken_xml import broken, lost
from support.golden import golden, read_or_refused, refusal, sample, written
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.naxml import ADAPTER
from tillstream_protocol.transaction import reconcile

SAMPLE = "naxml/journal.xml"
JOURNAL = sample(SAMPLE)
SETTING = Setting(zone=ZoneInfo("America/Chicago"))
REPORT = "NAXML-POSJournal/JournalReport"


def test_each_kind_of_event_is_read_whole() -> None:
    readings = ADAPTER.read(JOURNAL, SETTING)
    assert written(readings) == golden(SAMPLE)
    # Only what moves goods against money can add up.
    assert [reconcile(one.transaction) for one in readings] == [True, True, None, None, None, None, None]
    assert not ADAPTER.tried


def test_nothing_of_a_journal_is_lost_but_words_that_are_said_otherwise() -> None:
    readings = ADAPTER.read(JOURNAL, SETTING)
    assert lost(JOURNAL, readings) == {"Collected", "Refunded", "yes", "2026-03-01T00:00:00-05:00"}


def test_each_event_has_its_own_bytes() -> None:
    readings = ADAPTER.read(JOURNAL, SETTING)
    assert all(one.original.count(b"Event>") == 2 for one in readings)
    assert readings[0].original.startswith(b"<SaleEvent>")
    assert readings[0].original.endswith(b"</SaleEvent>")
    alone = JOURNAL[: JOURNAL.index(b"<RefundEvent>")] + b"</JournalReport></NAXML-POSJournal>"
    assert ADAPTER.read(alone, SETTING)[0].original == alone


def test_a_refund_is_negative_whichever_way_it_was_written() -> None:
    start, end = JOURNAL.index(b"<RefundEvent>"), JOURNAL.index(b"</RefundEvent>")
    refund = JOURNAL[start:end]
    for amount in (b">1.80<", b">1.95<"):
        refund = refund.replace(amount, amount.replace(b">", b">-"))
    refund = refund.replace(b"<SalesQuantity>", b"<SalesQuantity>-")
    positive, negative = (
        ADAPTER.read(data, SETTING)[1].transaction for data in (JOURNAL, JOURNAL[:start] + refund + JOURNAL[end:])
    )
    assert positive == negative
    assert (positive.total, positive.lines[0].amount, positive.taxes[0].amount) == (-195, -180, -15)


def test_a_journal_without_a_namespace_and_a_test_ping_are_read() -> None:
    plain = JOURNAL.replace(b' xmlns="http://www.naxml.org/POSBO/Vocabulary/2003-10-16"', b"")
    assert written(ADAPTER.read(plain, SETTING)) == golden(SAMPLE)
    assert ADAPTER.read(b"<NAXML-POSJournal/>", SETTING) == []


def test_what_has_no_field_stays_with_its_event() -> None:
    odd = JOURNAL.replace(b"LoyaltyInfo>", b"WashInfo>").replace(b'direction="Collected"', b'direction="Refunded"')
    sale = ADAPTER.read(odd, SETTING)[0].transaction
    rest = (sale.ext or {})["rest"]
    assert isinstance(rest, dict)
    assert rest["TransactionDetailGroup/TransactionLine[4]/WashInfo/LoyaltyID"] == "6001234"
    assert rest["TransactionSummary/TransactionTotalGrandAmount@direction"] == "Refunded"
    assert (sale.total, sale.customer) == (2400, None)


def test_another_detail_is_refused_unless_the_setting_passes_over_it() -> None:
    odd = JOURNAL.replace(b"SafeDropDetail", b"PumpTestDetail")
    assert refusal(lambda: ADAPTER.read(odd, SETTING)).field == f"{REPORT}/FinancialEvent"
    assert len(ADAPTER.read(odd, Setting(zone=SETTING.zone, options={"skip": ["PumpTestDetail"]}))) == 6


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b"NAXML-POSJournal", b"NAXML-Other", "NAXML-Other"),
        (b"OtherEvent>", b"OddEvent>", f"{REPORT}/OddEvent"),
        (b'detailType="open"', b'detailType="odd"', f"{REPORT}/OtherEvent"),
        (b"EventSequenceID>12<", b"EventSequenceID><", f"{REPORT}/OtherEvent/TransactionID"),
        (b">14:09:00<", b"><", f"{REPORT}/OtherEvent/EventEndDate"),
        (b">14:09:00<", b">late<", f"{REPORT}/OtherEvent/EventEndDate"),
        (b">USD<", b"><", "NAXML-POSJournal/TransmissionHeader"),
        (b'<SuspendFlag value="yes"/>', b'<SuspendFlag value="maybe"/>', f"{REPORT}/SaleEvent[2]/SuspendFlag"),
        (b"<OriginalTransactionID>9001</OriginalTransactionID></Linked", b"</Linked",
         f"{REPORT}/VoidEvent[1]/LinkedTransactionInfo/OriginalTransactionID"),
        (b">10.00<", b">ten<",
         f"{REPORT}/SaleEvent[2]/TransactionDetailGroup/TransactionLine/MoneyOrderLine/MoneyOrderFaceAmount"),
        (b"<BusinessDate>2026-03-01<", b"<BusinessDate>monday<", f"{REPORT}/SaleEvent[1]: business_date"),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused_by_its_place(old: bytes, new: bytes, place: str) -> None:
    assert old in JOURNAL
    assert refusal(lambda: ADAPTER.read(JOURNAL.replace(old, new), SETTING)).field == place


@settings(max_examples=300, deadline=None)
@given(broken(JOURNAL))
def test_a_journal_broken_anywhere_is_read_or_refused(data: bytes) -> None:
    read_or_refused(ADAPTER, data, SETTING)


@given(st.binary(max_size=300), st.integers(0, len(JOURNAL)))
def test_whatever_bytes_are_read_or_refused(data: bytes, at: int) -> None:
    for sent in (data, JOURNAL[:at] + data + JOURNAL[at + len(data) :]):
        read_or_refused(ADAPTER, sent, SETTING)
