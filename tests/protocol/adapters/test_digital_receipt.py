"""Digital receipts: the Swedish standard's own samples, read whole."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.broken_xml import broken, lost
from support.golden import DATA, golden, read_or_refused, refusal, sample, written
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.digital_receipt import ADAPTER
from tillstream_protocol.transaction import Transaction, reconcile

SAMPLES = sorted((DATA / "digital_receipt").glob("*.xml"))
SETTING = Setting(zone=ZoneInfo("Europe/Stockholm"))
SALE = sample("digital_receipt/swe-standard-dr-sale.xml")
RETURN = sample("digital_receipt/swe-standard-dr-return.xml")


def receipt(data: bytes) -> Transaction:
    (reading,) = ADAPTER.read(data, SETTING)
    return reading.transaction


@pytest.mark.parametrize(
    ("name", "adds_up"),
    [
        # The sample's own lines come to 583.50, its total is 558.00.
        ("swe-standard-dr-sale", False),
        ("swe-standard-dr-sample-1", True),
        # Deposits stand in the amounts of their bottles and in lines of their own.
        ("swe-standard-dr-sample-2", False),
        ("swe-standard-dr-return", True),
        # No line has an amount.
        ("swe-standard-dr-sale-min-with-image-attachment", False),
    ],
)
def test_a_genuine_receipt_is_read_whole(name: str, adds_up: bool) -> None:
    data = sample(f"digital_receipt/{name}.xml")
    readings = ADAPTER.read(data, SETTING)
    assert written(readings) == golden(f"digital_receipt/{name}.xml")
    assert readings[0].original == data
    assert reconcile(readings[0].transaction) is adds_up


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_nothing_of_a_genuine_receipt_is_lost(path: Path) -> None:
    said_otherwise = {
        *("Stock", "Deposit", "GTIN", "Add", "Sale", "Refund", "Return", "ReturnTransaction", "false"),
        *("TransactionNetAmount", "TransactionGrandAmount", "TransactionTaxAmount", "NationalIdentityNumber"),
        *("KioqKioqKioqKioqMTM4MA==", "KioqKioqKioqKioqNDA0NA=="),  # masked card numbers, readable now
        *("6", "0"),  # the version, which stands together
    }
    data = path.read_bytes()
    assert lost(data, ADAPTER.read(data, SETTING)) <= said_otherwise


def test_a_return_is_negative_and_names_its_original() -> None:
    returned = receipt(RETURN)
    assert (returned.kind, returned.total, returned.lines[0].amount, returned.lines[0].quantity) == (
        "return", -4900, -4900, "-1",
    )  # fmt: skip
    (link,) = returned.links
    assert (link.relation, link.receipt) == ("original", "1281111260543493")
    assert returned.tenders[0].refund


def test_a_masked_card_number_is_readable_and_so_can_be_redacted() -> None:
    sale = receipt(sample("digital_receipt/swe-standard-dr-sale-min-with-image-attachment.xml"))
    assert sale.tenders[0].card == "************1380"


def test_several_receipts_each_have_their_own_bytes() -> None:
    inside = SALE[SALE.index(b"<nam:Transaction>") : SALE.index(b"</nam:DigitalReceipt>")].rstrip()
    second = inside.replace(b"123789798712300", b"123789798712301")
    first, other = ADAPTER.read(SALE.replace(inside, inside + b"\n" + second), SETTING)
    assert (first.original, other.original) == (inside, second)
    assert other.transaction.pos_id == "123789798712301"


def test_a_receipt_abroad_says_itself_whether_amounts_hold_the_tax() -> None:
    tax = b"<LineItem><Tax><TaxableAmount>10</TaxableAmount><Amount>1</Amount></Tax></LineItem>"
    body = b"<RetailTransaction>" + tax + b'<Total TotalType="TransactionGrandAmount">11</Total></RetailTransaction>'
    data = (
        b"<DigitalReceipt><Transaction><SequenceNumber>1</SequenceNumber><CurrencyCode>USD</CurrencyCode>"
        b"<ReceiptDateTime>2026-03-01T10:00:00-05:00</ReceiptDateTime>" + body + b"</Transaction></DigitalReceipt>"
    )
    assert not receipt(data).taxes[0].included
    said = data.replace(b"<TaxableAmount>", b'<TaxableAmount TaxIncludedInTaxableAmountFlag="true">')
    assert receipt(said).taxes[0].included


def test_a_receipt_without_a_number_is_named_by_what_is_printed_on_it() -> None:
    unnumbered = SALE.replace(b"<nam:SequenceNumber>123789798712300</nam:SequenceNumber>", b"")
    assert receipt(unnumbered).pos_id == "02890093672714"
    nameless = unnumbered.replace(b">02890093672714<", b"><").replace(b">1281111260543493<", b"><")
    assert refusal(lambda: ADAPTER.read(nameless, SETTING)).field == "DigitalReceipt/Transaction/SequenceNumber"


def test_a_control_unit_keeps_its_other_lines() -> None:
    unit = b'<se:ControlUnit><se:Text Name="Modell">M1</se:Text><se:Text Name="tillverkningsnummer">N1</se:Text>'
    fiscal = receipt(SALE.replace(b"</nam:DigitalReceipt>", unit + b"</se:ControlUnit></nam:DigitalReceipt>")).fiscal
    assert fiscal is not None
    assert (fiscal.device, (fiscal.ext or {})["rest"]) == (
        "N1", {"se:Text[1]": "M1", "se:Text[1]@Name": "Modell", "se:Text[2]@Name": "tillverkningsnummer"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b"DigitalReceipt", b"DigitalTicket", "DigitalTicket"),
        (b"nam:Transaction>", b"nam:Transition>", "DigitalReceipt/Transaction"),
        (b"nam:RetailTransaction>", b"nam:Retail>", "DigitalReceipt/Transaction/RetailTransaction"),
        (b"nam:ReceiptDateTime>", b"nam:Receipt>", "DigitalReceipt/Transaction/ReceiptDateTime"),
        (b"2017-12-02T11:49:00+01:00", b"yesterday", "DigitalReceipt/Transaction/ReceiptDateTime"),
        (b">138.00<", b">1 38<", "DigitalReceipt/Transaction/RetailTransaction/LineItem[1]/Sale/ExtendedAmount"),
        (b">558.50<", b">many<", "DigitalReceipt/Transaction/RetailTransaction/Total[1]"),
        (
            b'<nam:ExtendedAmount Currency="SEK" Action="Add">138',
            b'<nam:ExtendedAmount Currency="EUR">138',
            "DigitalReceipt/Transaction/RetailTransaction/LineItem[1]/Sale/ExtendedAmount",
        ),
        (
            b"<nam:SequenceNumber>2</nam",
            b"<nam:SequenceNumber>-2</nam",
            "DigitalReceipt/Transaction/RetailTransaction/LineItem[2]/SequenceNumber",
        ),
        (b"<nam:Transaction>", b'<nam:Transaction TypeCode="Odd">', "DigitalReceipt/Transaction@TypeCode"),
        (b">Olle<", b">" + b"x" * 300 + b"<", "DigitalReceipt/Transaction: operator"),
    ],
)
def test_what_is_broken_is_refused_by_its_place(old: bytes, new: bytes, place: str) -> None:
    assert old in SALE
    assert refusal(lambda: ADAPTER.read(SALE.replace(old, new), SETTING)).field == place


def test_a_truncated_receipt_is_refused_by_its_line() -> None:
    assert refusal(lambda: ADAPTER.read(SALE[:5000], SETTING)).field == "line 83, column 17"


def test_without_a_currency_anywhere_nothing_is_guessed() -> None:
    place = "DigitalReceipt/Transaction/CurrencyCode"
    assert refusal(lambda: ADAPTER.read(SALE.replace(b"CurrencyCode>SEK<", b"CurrencyCode><"), SETTING)).field == place


@settings(max_examples=300, deadline=None)
@given(st.one_of(broken(SALE), broken(RETURN)))
def test_a_receipt_broken_anywhere_is_read_or_refused(data: bytes) -> None:
    read_or_refused(ADAPTER, data, SETTING)


@given(st.binary(max_size=300), st.integers(0, len(SALE)))
def test_whatever_bytes_are_read_or_refused(data: bytes, at: int) -> None:
    for sent in (data, SALE[:at] + data + SALE[at + len(data) :]):
        read_or_refused(ADAPTER, sent, SETTING)
