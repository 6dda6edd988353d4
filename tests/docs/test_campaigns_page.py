"""The reference of campaigns says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from tillstream_protocol import decisions, effects, rules
from tillstream_protocol.decisions import EDGE_VARIABLES, Campaign
from tillstream_server.campaigns.book import MAX_ACTIVE, MAX_BOOK, MAX_CAMPAIGN, parse

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "campaigns.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```json {kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def table(first_column: str) -> list[list[str]]:
    """The rows below the header that begins with this column; code marks are taken off."""
    lines = PAGE.split(f"| {first_column} |", 1)[1].splitlines()[2:]
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


def test_every_json_block_is_checked_here() -> None:
    assert len(re.findall(r"^```json", PAGE, re.MULTILINE)) == len(blocks("campaign")) + len(blocks("condition"))


@pytest.mark.parametrize("example", blocks("campaign"))
def test_each_campaign_of_the_page_can_be_put_in_force(example: str) -> None:
    assert parse(example.encode()).id


@pytest.mark.parametrize("example", blocks("condition"))
def test_each_condition_of_the_page_compiles(example: str) -> None:
    assert callable(rules.compile_condition(msgspec.json.decode(example)))


def test_the_page_says_truly_who_decides_its_examples() -> None:
    at_edge = {(one := parse(example.encode())).id: decisions.ready(one).at_edge for example in blocks("campaign")}
    assert at_edge == {"thanks-20": True, "welcome-back": False, "free-coffee": True, "every-effect": True}


def test_every_field_is_listed_with_its_default() -> None:
    rows = table("field")
    fields = msgspec.structs.fields(Campaign)
    assert [row[0] for row in rows] == [field.name for field in fields]
    for row, field in zip(rows, fields, strict=True):
        assert (row[2] == "required") is field.required
        if isinstance(field.default, int | str):
            assert row[2].replace(",", "") == str(field.default)


def test_every_operator_is_listed_and_every_listed_one_is_used() -> None:
    listed = [row[0] for row in table("operator")]
    assert listed == ["var", *rules._OPERATORS]
    examples = "".join(blocks("campaign") + blocks("condition"))
    assert [operator for operator in listed if f'"{operator}":' not in examples] == []


def test_every_variable_is_listed_with_its_type_and_who_knows_it() -> None:
    listed = {row[0]: (row[1], row[2] == "yes") for row in table("variable")}
    assert listed == {name: (type_, name in EDGE_VARIABLES) for name, type_ in rules.VARIABLES.items()}


def test_every_effect_is_listed_with_its_fields_and_shown() -> None:
    rows = table("`type`")
    known = get_args(effects.Effect)
    assert [row[0] for row in rows] == [kind.__struct_config__.tag for kind in known]
    for row, kind in zip(rows, known, strict=True):
        assert re.findall(r"\w+", row[1]) == [field.name for field in msgspec.structs.fields(kind)]
    shown = {type(effect) for example in blocks("campaign") for effect in parse(example.encode()).effects}
    assert shown == set(known)


def test_every_reason_for_a_refusal_is_listed() -> None:
    assert {row[0] for row in table("reason")} == set(get_args(effects.RefusalCode))


def test_the_limits_are_those_of_the_code() -> None:
    assert f"{MAX_CAMPAIGN // 1024} KiB" in PAGE
    assert f"{MAX_ACTIVE:,} active" in PAGE
    assert f"{MAX_BOOK // 2**20} MiB" in PAGE
    assert f"{rules.MAX_NODES} terms" in PAGE
    assert f"{rules.MAX_LEVELS} levels" in PAGE
