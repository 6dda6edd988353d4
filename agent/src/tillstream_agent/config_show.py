"""The settings in words: what holds, where each comes from, and what is wrong with them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from msgspec import Struct

from .config import Button, ConfigError, Reading, settings_of
from .config_doors import MACHINE, Doors, DropSetting, PrinterSetting

HIDDEN: Final = "(hidden)"
REDACTED: Final = ("hook.origins", "sync.ca_file")
"""Settings that name people's hosts and folders. No setting holds a secret: keys and tokens lie in the state folder."""
_DOORS_REDACTED: Final = ("folder", "to", "listen", "options", "pattern")
DEFAULT: Final = "default"


class Line(Struct, frozen=True):
    """One setting: its value, and `default`, a file, a variable or `the command line`."""

    name: str
    value: Any
    origin: str


class Wrong(Struct, frozen=True):
    """One setting that cannot be meant."""

    field: str
    reason: str
    allowed: str = ""


def lines(reading: Reading, *, redact: bool) -> list[Line]:
    """Every setting in the reference's order, then each key of each door. With `redact`, nothing names a host or a
    folder of whoever runs the till, so that the list can be passed on."""
    origin = HIDDEN if redact else str(reading.file)

    def told(name: str) -> str:
        where = reading.origins.get(name, DEFAULT)
        return origin if where == str(reading.file) else where

    singles = [Line(name, _plain(value), told(name)) for name, value in settings_of(reading.config).items()]
    listed = singles + [Line(name, value, origin) for name, value in _door_keys(reading.config.doors)]
    return [_redacted(line) for line in listed] if redact else listed


def in_words(shown: Sequence[Line]) -> str:
    """One row a setting."""
    name, value = (max((len(_cell(getattr(one, part))) for one in shown), default=0) for part in ("name", "value"))
    return "\n".join(f"{one.name:{name}}  {_cell(one.value):{min(value, 40)}}  {one.origin}" for one in shown)


def wrongs(reading: Reading) -> list[Wrong]:
    """What is wrong: everything that cannot be meant, and a file of certificates that cannot be read."""
    found = [Wrong(error.field or "config", error.message, error.limit or "") for error in reading.wrong]
    problem = _certificates(reading.config.sync_ca_file)
    if problem is not None:
        found.append(Wrong("sync.ca_file", problem, "the path of a file of certificates"))
    return found


def wrongs_in_words(found: Sequence[Wrong]) -> str:
    """One row a setting that is wrong. What is allowed stands where the reason does not say it."""
    return "\n".join(
        one.reason + (f" ({one.allowed})" if one.allowed and one.allowed not in one.reason else "") for one in found
    )


def error_of(found: Sequence[Wrong]) -> ConfigError:
    """The one error to end a command with."""
    return ConfigError(f"{len(found)} of the settings cannot be meant", field=found[0].field)


def _certificates(file: str) -> str | None:
    if not file:
        return None
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as error:
        return f"sync.ca_file is {file!r}, which cannot be used: {getattr(error, 'strerror', None) or error}"
    return None


def _redacted(line: Line) -> Line:
    door = line.name.partition(".")[0].partition("[")[0] in ("drop", "printer", "adapters")
    private = line.name in REDACTED or (door and line.name.rpartition(".")[2] in _DOORS_REDACTED)
    return Line(line.name, HIDDEN, line.origin) if private and line.value not in ("", [], {}, None) else line


def _door_keys(doors: Doors) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, reading in doors.adapters.items():
        setting = reading.setting
        zone = "" if setting.zone is MACHINE else str(setting.zone)
        given: dict[str, Any] = {"adapter": reading.adapter, "currency": setting.currency or "", "zone": zone}
        given |= {"options": _plain(setting.options), "sure": reading.sure}
        rows += [(f"adapters.{name}.{key}", value) for key, value in given.items()]
    several: dict[str, Sequence[DropSetting | PrinterSetting]] = {"drop": doors.drops, "printer": doors.printers}
    for kind, ones in several.items():
        for number, one in enumerate(ones):
            rows += [(f"{kind}[{number}].{part.name}", _plain(getattr(one, part.name))) for part in fields(one)]
    return rows


def _plain(value: object) -> Any:
    """As JSON has it: addresses and paths as text, buttons as tables."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str | int | float) or value is None:
        return value
    if isinstance(value, Button):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    return str(value)


def _cell(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
