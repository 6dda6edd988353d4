"""The page of receipt patterns says what the code does, and its example is read as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tillstream_protocol.adapters import Setting, escpos
from tillstream_protocol.adapters.printer_bytes import MAX_LINES
from tillstream_protocol.adapters.receipt_patterns import PATTERNS
from tillstream_protocol.transaction import reconcile

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "receipt-patterns.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def column(title: str, number: int) -> list[str]:
    """One column of the table that begins with this title; code marks are taken off."""
    lines = PAGE.split(f"| {title} |", 1)[1].splitlines()[2:]
    end = next((index for index, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [line.strip("|").split(" | ")[number].strip().strip("`") for line in lines[:end]]


def test_the_example_is_read_as_the_page_says() -> None:
    options = json.loads(block("json options"))
    (reading,) = escpos.ADAPTER.read(block("text receipt").encode(), Setting("USD", options=options))
    sale = reading.transaction
    assert sale.customer is not None
    assert json.loads(block("json reading")) == {
        "pos_id": sale.pos_id,
        "business_date": sale.business_date,
        "end": sale.end.text,
        "total": sale.total,
        "lines": [[line.name, line.quantity, line.amount, line.type] for line in sale.lines],
        "tenders": [[tender.type, tender.amount] for tender in sale.tenders],
        "loyalty": sale.customer.identifiers[0].value,
        "adds_up": reconcile(sale),
        "confidence": reading.confidence,
    }


def test_without_its_options_the_example_is_no_receipt() -> None:
    assert escpos.ADAPTER.read(block("text receipt").encode(), Setting("USD")) == []


def test_every_pattern_is_listed() -> None:
    assert column("pattern", 0) == list(PATTERNS)


def test_what_adds_to_the_confidence_is_listed() -> None:
    assert dict(zip(column("found", 0), map(float, column("found", 1)), strict=True)) == escpos._SURE


def test_the_limits_are_those_of_the_code() -> None:
    assert f"{escpos.MAX_JOB // 2**20} MiB and {MAX_LINES:,} lines" in PAGE
