"""A printed receipt is told from other slips, read by patterns, and given a confidence below 1."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.golden import golden, read_or_refused, refusal, sample, written
from tillstream_protocol.adapters import Reading, Setting, escpos
from tillstream_protocol.adapters.printer_bytes import MAX_LINES
from tillstream_protocol.transaction import reconcile

SETTING = Setting("EUR", ZoneInfo("Europe/Berlin"))
SAMPLE = "escpos/python-escpos-3.1_tcp9100.bin"
CUT = b"\x1dV\x00"
RECEIPT = """\
LADEN AM ECK
Bon-Nr. 4711        03.04.2026 17:15:09
Kassierer: 12
2 x Kaffee                 7,00 A
Brot                       3,20 B
Pfand                      0,25 A
Rabatt                    -0,45
Zwischensumme             10,00
SUMME                EUR  10,00
Gutschein                  5,00
Bar                       10,00
Rückgeld                   5,00
Kundenkarte: 9900112233
Vielen Dank!
"""


def readings(text: str, setting: Setting = SETTING, **options: Any) -> list[Reading]:
    chosen = {"code_page": "utf-8", **options}
    return escpos.ADAPTER.read(text.encode(), Setting(setting.currency, setting.zone, chosen))


def reading(text: str = RECEIPT, setting: Setting = SETTING, **options: Any) -> Reading:
    (one,) = readings(text, setting, **options)
    return one


def test_the_sample_is_read_as_its_golden_file_says() -> None:
    (one,) = escpos.ADAPTER.read(sample(SAMPLE), SETTING)
    assert written([one]) == golden(SAMPLE)
    assert reconcile(one.transaction) is True
    assert one.confidence == 0.85  # it has no number
    assert one.original == sample(SAMPLE)


def test_a_receipt_tells_all_that_it_has() -> None:
    sale = reading().transaction
    assert (sale.kind, sale.total, sale.currency, sale.receipt, sale.pos_id) == ("sale", 1000, "EUR", "4711", "4711")
    assert (sale.business_date, sale.end.text, sale.end.offset_from) == ("2026-04-03", "2026-04-03T17:15:09", "store")
    assert sale.operator == "12"
    assert [(line.name, line.quantity, line.amount, line.type) for line in sale.lines] == [
        ("Kaffee", "2", 700, "item"),
        ("Brot", "1", 320, "item"),
        ("Pfand", "1", 25, "deposit"),
        ("Rabatt", "1", -45, "discount"),
    ]
    assert [(tender.type, tender.amount, tender.tendered, tender.change) for tender in sale.tenders] == [
        ("gutschein", 500, None, None),
        ("bar", 500, 1000, 500),
    ]
    assert sale.customer is not None
    assert [one.value for one in sale.customer.identifiers] == ["9900112233"]
    assert sale.ext is not None
    assert sale.ext["unread"] == ["LADEN AM ECK", "Zwischensumme             10,00", "Vielen Dank!"]
    assert reconcile(sale) is True


def test_confidence_falls_with_what_is_missing() -> None:
    whole = reading().confidence
    odd = reading(RECEIPT.replace("3,20", "3,21")).confidence
    bare = reading("Tee    1,00\nTotal  2,00\n03.04.2026\n").confidence
    assert 1 > whole > odd > bare > 0
    assert (whole, odd, bare) == (0.95, 0.75, 0.55)


def test_the_same_bytes_have_the_same_name_and_others_another() -> None:
    nameless = RECEIPT.replace("Bon-Nr. 4711", "")
    one, again, other = (reading(text).transaction for text in (nameless, nameless, nameless.replace("Brot", "Brezel")))
    assert one.pos_id == again.pos_id != other.pos_id
    assert one.ext is not None
    assert one.ext["assumed"] == ["pos_id"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KITCHEN\n2 x Soup\nTable 4\n03.04.2026 12:00\n",
        "Total    5,00\n03.04.2026\n",
        "Tea      5,00\nTotal    5,00\n",
        "Tea      5,00\nThanks   \n03.04.2026\n",
    ],
    ids=["nothing", "kitchen", "total alone", "no date", "no total"],
)
def test_what_is_no_receipt_gives_nothing(text: str) -> None:
    assert readings(text) == []


def test_a_receipt_without_a_date_is_of_when_it_came_in() -> None:
    sale = reading("Tea      5,00\nTotal    5,00\n", received="2026-04-03T23:30:00+00:00").transaction
    assert (sale.business_date, sale.end.offset_from) == ("2026-04-04", "explicit")
    assert sale.ext is not None
    assert sale.ext["assumed"] == ["business_date", "currency", "end", "pos_id"]


def test_slips_of_one_job_are_read_each_by_itself() -> None:
    other = RECEIPT.replace("4711", "4712")
    job = RECEIPT.encode() + CUT + b"KITCHEN\nSoup\n" + CUT + other.encode() + CUT
    found = escpos.ADAPTER.read(job, Setting("EUR", options={"code_page": "utf-8"}))
    assert [one.transaction.pos_id for one in found] == ["4711", "4712"]
    assert [one.original for one in found] == [RECEIPT.encode() + CUT, other.encode() + CUT]


@pytest.mark.parametrize(
    ("line", "currency"),
    [("Total        €5.00", "EUR"), ("TOTAL  SEK    5,00", "SEK"), ("Total    £ 5.00", "GBP"), ("Total   5.00", "USD")],
)
def test_the_currency_is_the_printed_one_or_the_tills(line: str, currency: str) -> None:
    sale = reading(f"Tea     5.00\n{line}\n2026-04-03 09:00\n", Setting("USD")).transaction
    assert (sale.currency, sale.total) == (currency, 500)


def test_amounts_have_their_currencys_decimals() -> None:
    yen = reading("Tea     1,200\nTotal  JPY  1,200\n2026-04-03\n").transaction
    assert (yen.total, yen.exponent, yen.lines[0].amount) == (1200, 0, 1200)
    grouped = reading("Lamp  1.234,50\nTotal  1.234,50\n03.04.26\n").transaction
    assert (grouped.total, grouped.business_date) == (123450, "2026-04-03")


def test_what_is_given_back_is_a_return() -> None:
    back = reading("Tea     -5,00\nTotal   -5,00\nBar     5,00-\n2026-04-03\n").transaction
    assert (back.kind, back.total, back.tenders[0].refund) == ("return", -500, True)


@pytest.mark.parametrize(
    ("printed", "order", "when"),
    [
        ("04/03/26 5:15 PM", "mdy", "2026-04-03T17:15:00"),
        ("03.04.2026 12:05 am", "dmy", "2026-04-03T00:05:00"),
        ("2026-04-03T10:00:01.000Z", "dmy", "2026-04-03T10:00:01Z"),
        ("03-04-2026\n18:30", "dmy", "2026-04-03T18:30:00"),
        ("31.02.2026\n2026-04-03", "dmy", "2026-04-03T00:00:00"),
    ],
)
def test_dates_and_times_are_read_as_printed(printed: str, order: str, when: str) -> None:
    assert reading(f"Tea   5,00\nTotal  5,00\n{printed}\n", date_order=order).transaction.end.text == when


def test_practice_is_written() -> None:
    assert reading("*** TRAINING ***\n" + RECEIPT).transaction.training
    assert not reading("Training shoes   49,00\n" + RECEIPT).transaction.training


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"patterns": []}, "options.patterns"),
        ({"patterns": {"totals": "x"}}, "options.patterns.totals"),
        ({"patterns": {"total": "("}}, "options.patterns.total"),
        ({"patterns": {"total": 7}}, "options.patterns.total"),
        ({"patterns": {"total": "^Total"}}, "options.patterns.total"),
        ({"date_order": "ymd"}, "options.date_order"),
        ({"code_page": "nonsense"}, "options.code_page"),
        ({"code_pages": {"255": "hex"}}, "options.code_pages.255"),
        ({"code_pages": {"x": "utf-8"}}, "options.code_pages.x"),
        ({"code_pages": []}, "options.code_pages"),
        ({"double_byte": 5}, "options.double_byte"),
        ({"dialect": "zebra"}, "options.dialect"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict[str, Any], field: str) -> None:
    assert refusal(lambda: readings(RECEIPT, **options)).field == field


def test_a_time_of_receipt_that_is_none_is_named() -> None:
    text = "Tea      5,00\nTotal    5,00\n"
    assert refusal(lambda: readings(text, received="now")).field == "options.received"


def test_a_till_without_currency_is_told_once_there_is_a_receipt() -> None:
    text = RECEIPT.replace("EUR", "   ")
    assert refusal(lambda: readings(text, Setting())).field == "currency"
    assert readings("KITCHEN\n", Setting()) == []


def test_own_patterns_may_lack_what_is_optional() -> None:
    own = {"quantity": "(?P<quantity>many)", "time": "(?P<hour>noon)", "date": "(?P<iso>today|2026-04-03)"}
    sale = reading("many Tea   5,00\nTotal  5,00\ntoday\n2026-04-03 noon\n", patterns=own).transaction
    assert (sale.lines[0].quantity, sale.end.text) == ("1", "2026-04-03T00:00:00")


def test_jobs_are_bounded() -> None:
    assert refusal(lambda: escpos.ADAPTER.read(b"x" * (escpos.MAX_JOB + 1), SETTING)).code == "too_large"
    assert refusal(lambda: escpos.ADAPTER.read(b"x\n" * (MAX_LINES + 1), SETTING)).code == "too_large"


WORDS = [
    "Total",
    "Tea",
    "  ",
    "5,00",
    "-",
    "\n",
    "03.04.2026",
    "10:00",
    "Bar",
    "Rückgeld",
    "Bon 7",
    "€",
    "\x1d",
    "V",
    "A",
]


@given(st.lists(st.sampled_from(WORDS), max_size=60).map("".join))
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(escpos.ADAPTER, text.encode("cp858", "replace"), SETTING)


@given(st.binary(max_size=300), st.integers(0, 495), st.integers(0, 495))
def test_any_bytes_are_read_or_refused(data: bytes, start: int, end: int) -> None:
    whole = sample(SAMPLE)
    read_or_refused(escpos.ADAPTER, whole[:start] + data + whole[end:], SETTING)
