"""The reference of the agent's settings says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from tillstream_agent import config
from tillstream_agent.cli import main
from tillstream_agent.config import Config, load
from tillstream_agent.config_doors import AdapterTable, Address, DropTable, PrinterTable

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "agent-settings.md").read_text(encoding="utf-8")


def keys(section: str) -> list[tuple[str, str]]:
    """Each key of a door's table, and its default."""
    table = PAGE.split(f"### {section}\n", 1)[1].split("| key |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in table]
    return [(key, default) for key, default, *_ in cells]


def rows() -> list[list[str]]:
    """Name, default, allowed and flag of every setting; code marks are taken off."""
    lines = PAGE.split("| setting |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")][:4] for line in lines if line[:1] == "|"]


def test_every_setting_is_there_with_what_is_allowed() -> None:
    assert [(name, allowed) for name, _, allowed, _ in rows()] == [
        (setting.name, setting.expects) for setting in config._SETTINGS
    ]


def test_every_default_is_the_codes() -> None:
    defaults = load(environment={})
    told = {setting.attribute: default for setting, (_, default, _, _) in zip(config._SETTINGS, rows(), strict=True)}
    assert told == {
        field.name: shown(getattr(defaults, field.name))
        for field in fields(Config)
        if field.name not in ("doors", "lowered")
    }


def shown(value: object) -> str:
    """A default as the page has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.0f}" if isinstance(value, float) else str(value or "none")


def test_every_flag_is_one_of_the_run_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    usage = capsys.readouterr().out
    flags = [flag for *_, flag in rows() if flag != "–"]
    assert [flag for flag in flags if flag not in usage] == []
    assert len(flags) == 3


def test_the_example_is_taken(tmp_path: Path) -> None:
    (example,) = re.findall(r"^ *```toml\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "agent.toml").write_text(example.replace("\n   ", "\n").removeprefix("   "))
    given = load(
        tmp_path / "agent.toml", environment={"TILLSTREAM_HOOK_ORIGINS": "https://pos.example,https://till.example"}
    )
    assert (given.hook_port, given.journal_reserve_bytes) == (8711, 134217728)
    assert given.hook_origins == ("https://pos.example", "https://till.example")


@pytest.mark.parametrize(
    ("section", "table"), [("Adapters", AdapterTable), ("Watched folders", DropTable), ("Printers", PrinterTable)]
)
def test_every_key_of_a_door_is_there_with_its_default(section: str, table: type[msgspec.Struct]) -> None:
    told = dict(keys(section))
    assert list(told) == list(table.__struct_fields__)
    for one in msgspec.structs.fields(table):
        if one.default not in (msgspec.NODEFAULT, ""):
            assert told[one.name] in (shown(one.default), f"{one.default}")
        if one.default is msgspec.NODEFAULT:
            assert told[one.name] == "–"


def test_the_example_of_doors_is_taken(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml doors\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "agent.toml").write_text(example)
    doors = load(tmp_path / "agent.toml", environment={}).doors
    assert [str(drop.folder) for drop in doors.drops] == ["/srv/pos/outbox"]
    assert [printer.to for printer in doors.printers] == [Address("192.168.1.50", 9100)]
    assert doors.adapters["poslog"].setting.currency == "USD"


@pytest.mark.parametrize("page", ["connect-a-pos-by-files.md", "connect-a-pos-by-its-printer.md"])
def test_the_settings_of_the_how_to_pages_are_taken(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / page).read_text(encoding="utf-8")
    (example,) = re.findall(r"^ *```toml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "receipts.json").write_text("{}")
    (tmp_path / "agent.toml").write_text("\n".join(line.strip() for line in example.splitlines()))
    doors = load(tmp_path / "agent.toml", environment={}).doors
    assert doors.drops or doors.printers
