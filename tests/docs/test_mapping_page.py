"""The reference of mappings says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec import NODEFAULT, Struct

from support.golden import written
from tillstream_protocol.adapters import Setting, mapping, mapping_format
from tillstream_protocol.transaction import reconcile

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "mapping.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```json mapping\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(EXPORT,) = re.findall(r"^```csv\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(SHOWN,) = re.findall(r"^```json transaction\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
STRUCTS = {
    name: kind
    for name, kind in vars(mapping_format).items()
    if isinstance(kind, type)
    and issubclass(kind, Struct)
    and kind.__module__ == mapping_format.__name__
    and not name.startswith("_")
}


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_every_field_is_listed_and_what_is_required_is_said(name: str) -> None:
    lines = PAGE.split(f"| `{name}` | type |", 1)[1].splitlines()[2:]
    end = next((index for index, line in enumerate(lines) if not line.startswith("|")), len(lines))
    listed = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[:end]]
    fields = msgspec.structs.fields(STRUCTS[name])
    assert [row[0].strip("`") for row in listed] == [field.name for field in fields]
    for row, field in zip(listed, fields, strict=True):
        required = field.default is NODEFAULT and field.default_factory is NODEFAULT
        assert (row[2] == "required") is required, field.name


def test_the_example_makes_what_the_page_shows() -> None:
    setting = Setting(zone=ZoneInfo("Europe/Berlin"), options={"mapping": json.loads(EXAMPLES[0])})
    sale, back = mapping.read(EXPORT.encode(), setting)
    assert written([back]) == [json.loads(SHOWN)]
    assert (reconcile(sale.transaction), reconcile(back.transaction)) == (True, True)


def test_the_json_example_is_a_mapping_that_reads() -> None:
    receipt = {
        "no": 7,
        "closed": 1_790_003_700,
        "sum": {"due": 400, "tax": 64},
        "items": [{"plu": 12, "label": "Candle", "total": 400, "shelf": "A3"}],
        "paid": [{"how": "cash", "amount": 400}],
    }
    data = json.dumps({"day": {"receipts": [receipt]}}).encode()
    (reading,) = mapping.read(data, Setting("EUR", options={"mapping": json.loads(EXAMPLES[1])}))
    sale = reading.transaction
    assert (sale.total, sale.pos_id, sale.lines[0].sku, sale.tenders[0].type) == (400, "7", "12", "cash")
    assert sale.lines[0].ext == {"shelf": "A3"}
    assert sale.ext == {"sum": {"tax": 64}, "paid": [{}], "assumed": ["business_date", "currency"]}
