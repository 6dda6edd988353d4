"""Doors are set in the file: adapters, watched folders, printers. What cannot be meant is named with its place."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tillstream_agent.config import ConfigError, load
from tillstream_agent.config_doors import MACHINE, Address, Doors, DropSetting, PrinterSetting


def doors(folder: Path, text: str) -> Doors:
    file = folder / "agent.toml"
    file.write_text(text)
    return load(file, environment={}).doors


def test_without_settings_no_folder_is_watched_and_every_adapter_reads_in_the_machines_zone(tmp_path: Path) -> None:
    found = doors(tmp_path, "")
    assert (found.drops, found.printers) == ((), ())
    reading = found.reading("odoo")
    assert reading is not None
    assert (reading.adapter, reading.setting.currency, reading.setting.zone) == ("odoo", None, MACHINE)
    assert found.reading("fax") is None


def test_an_adapter_gets_its_currency_zone_and_options(tmp_path: Path) -> None:
    (tmp_path / "patterns.json").write_text('{"date_order": "mdy"}')
    found = doors(
        tmp_path,
        """
        [adapters.escpos]
        currency = "SEK"
        zone = "Europe/Stockholm"
        options = "patterns.json"
        sure = 0.8
        """,
    )
    reading = found.reading("escpos")
    assert reading is not None
    assert (reading.setting.currency, str(reading.setting.zone), reading.sure) == ("SEK", "Europe/Stockholm", 0.8)
    assert reading.setting.options == {"date_order": "mdy"}


def test_one_format_can_be_read_in_two_ways(tmp_path: Path) -> None:
    found = doors(tmp_path, '[adapters.kiosk]\nadapter = "mapping"\n[[drop]]\nfolder = "in"\nadapter = "kiosk"')
    reading = found.reading("kiosk")
    assert reading is not None
    assert reading.adapter == "mapping"
    assert found.drops == (DropSetting(tmp_path / "in", "kiosk"),)


def test_folders_and_printers_are_set(tmp_path: Path) -> None:
    found = doors(
        tmp_path,
        """
        [[drop]]
        folder = "/srv/pos/out"
        adapter = "poslog"
        pattern = "*.xml"
        poll_s = 5
        settle_s = 0
        keep = true
        [[printer]]
        to = "192.168.1.50:9100"
        [[printer]]
        to = "[fe80::1]:9100"
        listen = "127.0.0.1:9101"
        idle_s = 2.5
        """,
    )
    assert found.drops == (DropSetting(Path("/srv/pos/out"), "poslog", "*.xml", 5.0, 0.0, keep=True),)
    first, second = found.printers
    assert first == PrinterSetting(Address("192.168.1.50", 9100), Address("127.0.0.1", 9100))
    assert (str(second.to), second.listen.port, second.idle_s) == ("[fe80::1]:9100", 9101, 2.5)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("[adapters.fax]", "adapters.fax", "'fax'"),
        ("[adapters.my]\nadapter = 'fax'", "adapters.my.adapter", "'fax'"),
        ("[adapters.odoo]\nzone = 'Mars/North'", "adapters.odoo.zone", "'Mars/North'"),
        ("[adapters.odoo]\nzone = '../../etc/passwd'", "adapters.odoo.zone", "passwd"),
        ("[adapters.odoo]\ncurrency = 'euro'", "adapters.odoo.currency", "'euro'"),
        ("[adapters.odoo]\nsure = 2", "adapters.odoo.sure", "2"),
        ("[adapters.odoo]\noptions = 'none.json'", "adapters.odoo.options", "none.json"),
        ("[adapters.odoo]\noptions = 'agent.toml'", "adapters.odoo.options", "agent.toml"),
        ("[adapters.odoo]\ncolour = 'red'", "adapters.odoo.colour", "colour"),
        ("[adapters]\nodoo = 'yes'", "adapters.odoo", "yes"),
        ("adapters = 'odoo'", "adapters", "odoo"),
        ("[[drop]]\nfolder = 'in'", "drop[0].adapter", "missing"),
        ("[[drop]]\nfolder = 'in'\nadapter = 'fax'", "drop[0].adapter", "'fax'"),
        ("[[drop]]\nfolder = 'in'\nadapter = 'odoo'\npoll_s = 0", "drop[0].poll_s", "0"),
        ("[drop]\nfolder = 'in'\nadapter = 'odoo'", "drop.folder", "drop.folder"),
        ("drop = 'in'", "drop", "list"),
        ("[[drop]]\nfolder = 'in'\nadapter = 'odoo'\n" * 2, "drop[1].folder", "in"),
        ("[[printer]]\nto = 'kitchen'", "printer[0].to", "'kitchen'"),
        ("[[printer]]\nto = 'kitchen:70000'", "printer[0].to", "70000"),
        ("[[printer]]\nto = 'kitchen:0'", "printer[0].to", "kitchen:0"),
        ("[[printer]]\nto = 'a:1'\nlisten = 'me@here:1'", "printer[0].listen", "me@here"),
        ("[[printer]]\nto = 'a:1'\nadapter = 'fax'", "printer[0].adapter", "'fax'"),
        ("[[printer]]\nto = 'a:1'\n" * 2, "printer[1].listen", "9100"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_value(tmp_path: Path, text: str, field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        doors(tmp_path, text)
    assert caught.value.field == field
    assert value in caught.value.message
    assert "agent.toml" in caught.value.message


def test_options_have_a_bound(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_text('{"a": "' + "x" * 1024 * 1024 + '"}')
    with pytest.raises(ConfigError) as caught:
        doors(tmp_path, "[adapters.odoo]\noptions = 'big.json'")
    assert (caught.value.field, caught.value.limit) == ("adapters.odoo.options", "1048576 bytes")


def test_the_machines_zone_gives_the_same_instants_as_the_machine() -> None:
    for when in (datetime(2026, 1, 15, 12, tzinfo=MACHINE), datetime(2026, 7, 15, 12, tzinfo=MACHINE)):
        local = when.replace(tzinfo=None)
        assert when.timestamp() == local.timestamp()
        assert datetime.fromtimestamp(local.timestamp(), MACHINE).replace(tzinfo=None) == local
        assert when.tzname() == local.astimezone().tzname()
    assert (MACHINE.utcoffset(None), MACHINE.dst(None), MACHINE.tzname(None)) == (None, None, None)
    assert datetime(2026, 1, 1, tzinfo=UTC).astimezone(MACHINE).utcoffset() is not None


def test_an_agent_starts_without_the_formats_that_it_does_not_use() -> None:
    code = "import sys, tillstream_agent.cli; print(*[name for name in sys.modules if '.adapters.' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert sorted(done.stdout.split()) == [f"tillstream_protocol.adapters.{name}" for name in ("base", "registry")]
