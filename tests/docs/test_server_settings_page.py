"""The reference of the server's settings says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tillstream_server.cli import main
from tillstream_server.config import PREFIX, Config, ConfigError, load

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "server-settings.md").read_text(encoding="utf-8")
OUTSIDE = {
    "port": (-1, 65_536),
    "batch_bytes": (1_023, 4_128_769),
    "batches_waiting": (0, 100_001),
    "ping_seconds": (0, 3_601),
    "silent_seconds": (0,),
    "opening_hours": ("8-20",),
    "time_zone": ("", "Mars/Olympus"),
    "proxies": ("caddy", "10.0.0.1/8"),
    "pack_refresh_seconds": (0.5,),
}
EDGES = {
    "port": (0, 65_535),
    "batch_bytes": (1_024, 4_128_768),
    "batches_waiting": (1, 100_000),
    "ping_seconds": (0.001, 3_600),
    "silent_seconds": (0.001,),
    "opening_hours": ("Mo-Fr 08:00-20:00, Sa 09:00-14:00",),
    "time_zone": ("Europe/Berlin",),
    "proxies": ("127.0.0.1, 172.16.0.0/12",),
    "pack_refresh_seconds": (1,),
}


def rows() -> dict[str, list[str]]:
    """Default, allowed and flag of every setting; code marks are taken off."""
    lines = PAGE.split("| setting |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]
    return {name: rest[:3] for name, *rest in cells}


def shown(value: object) -> str:
    """A default as the page has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.0f}" if isinstance(value, float) else str(value or "none")


def test_every_setting_is_there_with_its_default() -> None:
    told = {name: default for name, (default, _, _) in rows().items()}
    assert told == {name: shown(value) for name, value in msgspec.structs.asdict(Config()).items()}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_allowed_is_what_is_taken(name: str, tmp_path: Path) -> None:
    for value in OUTSIDE[name]:
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / "none.toml", {}, {name: value})
    for value in EDGES[name]:
        assert getattr(load(tmp_path / "none.toml", {}, {name: value}), name) == value
        if value not in (0, 0.001):
            assert str(value) in rows()[name][1]


def test_every_flag_is_one_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    usage = capsys.readouterr().out
    flags = [flag for _, _, flag in rows().values() if flag != "–"]
    assert [flag for flag in flags if flag not in usage] == []
    assert len(flags) == 5


def test_the_example_is_taken_and_the_environment_goes_before_it(tmp_path: Path) -> None:
    (example,) = re.findall(r"^ *```toml\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "server.toml").write_text("\n".join(line.strip() for line in example.splitlines()))
    assert f"`{PREFIX}PORT=8701`" in PAGE
    given = load(tmp_path / "server.toml", {f"{PREFIX}PORT": "8701", f"{PREFIX}HOST": "::"}, {"host": "10.0.0.1"})
    assert (given.host, given.port, given.tls_key) == ("10.0.0.1", 8701, "/etc/tillstream/key.pem")
