"""A technician sees what an adapter makes of a file before a POS is connected by it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tillstream_agent.cli import OK, USAGE, main
from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.transaction import Transaction

DATA = Path(__file__).parents[1] / "data"
RECEIPT = DATA / "digital_receipt" / "swe-standard-dr-sale.xml"


def test_every_adapter_is_listed_with_what_it_was_tried_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "--list"]) == OK
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(ADAPTERS)
    assert next(row for row in rows if row.startswith("naxml")).endswith("not yet tried on genuine data")
    assert main(["adapt", "--list", "--json"]) == OK
    told = json.loads(capsys.readouterr().out)["adapters"]
    assert [one["name"] for one in told] == list(ADAPTERS)


@pytest.mark.parametrize(("name", "adapter"), ADAPTERS.items())
def test_an_adapter_is_called_what_it_calls_itself(name: str, adapter: object) -> None:
    assert getattr(adapter, "name", None) == name


def test_a_file_is_told_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "digital_receipt", str(RECEIPT), "--zone", "Europe/Stockholm"]) == OK
    said = capsys.readouterr().out
    assert said.startswith("sale ")
    assert "558.00 SEK, 4 lines, 2 tenders; DOES NOT ADD UP" in said.splitlines()[0]
    assert "assumed: business_date" in said
    assert main(["adapt", "digital_receipt", str(RECEIPT), "--zone", "Europe/Stockholm", "--json"]) == OK
    (told,) = json.loads(capsys.readouterr().out)["transactions"]
    sale = msgspec.convert(told["transaction"], Transaction)
    assert f"sale {sale.pos_id} of {sale.business_date}: " in said
    assert told["original_bytes"] == RECEIPT.stat().st_size


def test_options_reach_the_adapter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text("{}")
    arguments = ["adapt", "mapping", str(RECEIPT), "--options", str(tmp_path / "options.json")]
    assert main(arguments) == USAGE
    assert "mapping" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["adapt"], "say which adapter"),
        (["adapt", "nobody", str(RECEIPT)], "there is no adapter 'nobody'"),
        (["adapt", "square", "/nowhere/x.json"], "cannot be read"),
        (["adapt", "square", str(RECEIPT)], "no valid JSON"),
        (["adapt", "square", str(RECEIPT), "--zone", "Mars/Olympus"], "'Mars/Olympus' is no time zone"),
        (["adapt", "square", str(RECEIPT), "--zone", "../etc"], "is no time zone"),
        (["adapt", "square", str(RECEIPT), "--options", str(RECEIPT)], "is no JSON object"),
    ],
)
def test_what_cannot_be_shown_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == USAGE
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


def test_a_file_over_the_limit_is_called_too_large(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.adapting._MAX_OPTIONS", 4)
    (tmp_path / "options.json").write_text('{"a": 1}')
    assert main(["adapt", "square", str(RECEIPT), "--options", str(tmp_path / "options.json")]) == USAGE
    assert "options.json is too large" in capsys.readouterr().err
