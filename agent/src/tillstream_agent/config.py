"""Settings: a TOML file, then what head office sets from afar, then the environment, then flags; the later wins.

Each setting has one name (`hook.port`), which is its place in the TOML file, and gives its environment variable
(`TILLSTREAM_HOOK_PORT`) and flag (`--hook-port`). `TILLSTREAM_CONFIG` names the file where no flag does. Doors of which
there may be several stand in the file alone: see `config_doors.py`.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.settings import MAX_HEARTBEAT_S

from .config_doors import Doors, take_doors

DEFAULT_PORT: Final = 8710
LANGUAGES: Final = ("ar", "de", "en", "es", "fr", "hi")
"""What the cashier's page speaks."""
MAX_BUTTONS: Final = 8
MAX_LABEL: Final = 40
FILE_VARIABLE: Final = "TILLSTREAM_CONFIG"
HEAD_OFFICE: Final = "head office"
FROM_AFAR: Final = f"set by {HEAD_OFFICE}"
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


class ConfigError(TillstreamError):
    """A setting that cannot be meant. `field` names it and where it came from."""

    code = "config"


@dataclass(frozen=True, slots=True)
class Button:
    """A button for an observation on the cashier's page."""

    kind: str
    """What the record says."""
    labels: tuple[tuple[str, str], ...]
    """Pairs of a language and what the button says in it; the first is for every other language."""


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of an agent. Times are in seconds, sizes in bytes."""

    hook_port: int = DEFAULT_PORT
    """0 takes any free port."""
    hook_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the hook, e.g. `https://pos.example`."""
    hook_connections: int = 64
    """Connections to the HTTP hook at once."""
    hook_request_s: float = 10.0
    """How long a request may take to arrive whole."""
    hook_calls_s: float = 5_000.0
    """Calls a second of one caller: far more than a POS makes."""
    baskets_abandon_s: float = 4 * 3600.0
    """A basket that was not touched for so long is given up."""
    display_language: str = "auto"
    display_member: Literal["tail", "kind", "none"] = "tail"
    """What the cashier's page tells of a member."""
    display_buttons: tuple[Button, ...] | None = None
    """For observations; None means those that the page has by itself."""
    sync_heartbeat_s: float = 15.0
    sync_timeout_s: float = 30.0
    sync_ca_file: str = ""
    """Certificates to trust instead of the system's, for a server with a private authority."""
    journal_retain_s: float = 72 * 3600.0
    journal_retain_bytes: int = 1024 * 1024 * 1024
    journal_reserve_bytes: int = 64 * 1024 * 1024
    """Free room on the journal's disk below which nothing more is captured, so that what is there can be kept and sent;
    0 captures until the disk is full."""
    log_level: str = "info"
    log_kept_bytes: int = 4 * 1024 * 1024
    """How much of the log stays in the state folder, at most; 0 keeps none."""
    uvloop: bool = True
    doors: Doors = field(default_factory=Doors)
    lowered: tuple[str, ...] = ()
    """Settings that say more than holds: what an earlier version took may not stop a till from capturing."""


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    attribute: str
    expects: str
    parse: Callable[[Any], Any]
    """From a TOML value or from text; raises ValueError, TypeError or KeyError."""
    most: float | None = None
    """What is more, and was allowed once, counts as this."""

    @property
    def variable(self) -> str:
        return "TILLSTREAM_" + self.name.upper().replace(".", "_")


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _number(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        number = float(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _level(value: Any) -> str:
    if value not in ("debug", "info", "warning", "error"):
        raise ValueError
    return str(value)


def _language(value: Any) -> str:
    if value not in ("auto", *LANGUAGES):
        raise ValueError
    return str(value)


def _member(value: Any) -> str:
    if value not in ("tail", "kind", "none"):
        raise ValueError
    return str(value)


def _buttons(value: Any) -> tuple[Button, ...]:
    items = json.loads(value) if isinstance(value, str) else value
    buttons = tuple(_button(dict(item)) for item in items)
    if len(buttons) > MAX_BUTTONS or len({button.kind for button in buttons}) < len(buttons):
        raise ValueError
    return buttons


def _button(item: dict[str, Any]) -> Button:
    kind, given = _text(item.pop("kind")), item.pop("label")
    labels = {"en": given} if isinstance(given, str) else given
    if item or not _KIND.fullmatch(kind) or not labels or set(labels) - set(LANGUAGES):
        raise ValueError
    if any(not 0 < len(_text(label).strip()) <= MAX_LABEL for label in labels.values()):
        raise ValueError
    return Button(kind, tuple(labels.items()))


def _origins(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    return tuple(_origin(item) for item in items if item)


def _origin(value: Any) -> str:
    parts = urlsplit(_text(value).strip())
    origin = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not parts.hostname or origin != value.strip():
        raise ValueError
    return origin


_SETTINGS: Final = (
    _Setting("hook.port", "hook_port", "a whole number from 0 to 65535", _whole(0, 65_535)),
    _Setting("hook.origins", "hook_origins", "origins such as https://pos.example", _origins),
    _Setting("hook.connections", "hook_connections", "a whole number from 8 to 1024", _whole(8, 1024)),
    _Setting("hook.request_s", "hook_request_s", "seconds from 0.1 to 600", _number(0.1, 600)),
    _Setting("hook.calls_s", "hook_calls_s", "calls a second from 10 to 1000000", _number(10, 1_000_000)),
    _Setting("baskets.abandon_s", "baskets_abandon_s", "seconds from 60 to 604800", _number(60, 604_800)),
    _Setting("display.language", "display_language", "auto, ar, de, en, es, fr or hi", _language),
    _Setting("display.member", "display_member", "tail, kind or none", _member),
    _Setting("display.buttons", "display_buttons", "at most 8 tables of kind and label", _buttons),
    _Setting("sync.heartbeat_s", "sync_heartbeat_s", "seconds from 1 to 100", _number(1, 3600), MAX_HEARTBEAT_S),
    _Setting("sync.timeout_s", "sync_timeout_s", "seconds from 1 to 600", _number(1, 600)),
    _Setting("sync.ca_file", "sync_ca_file", "the path of a file of certificates", _text),
    _Setting("journal.retain_s", "journal_retain_s", "seconds from 0 to 31536000", _number(0, 31_536_000)),
    _Setting("journal.retain_bytes", "journal_retain_bytes", "bytes from 0 to 2**50", _whole(0, 2**50)),
    _Setting("journal.reserve_bytes", "journal_reserve_bytes", "bytes from 0 to 2**50", _whole(0, 2**50)),
    _Setting("log.level", "log_level", "debug, info, warning or error", _level),
    _Setting("log.kept_bytes", "log_kept_bytes", "bytes from 0 to 2**30", _whole(0, 2**30)),
    _Setting("run.uvloop", "uvloop", "true or false", _truth),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What all places say, taken together."""

    config: Config
    """Of what is right."""
    origins: Mapping[str, str]
    """Where each setting that is not at its default comes from, by name: a file, `head office`, a variable or `the
    command line`."""
    file: Path | None
    wrong: tuple[ConfigError, ...]
    """What is not right, one error a setting."""


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    remote: Mapping[str, str] | None = None,
) -> Config:
    """The settings from all places. `remote` and `flags` go by setting name, None for flags not given.

    Raises `ConfigError` naming the setting, its value and where it came from.
    """
    reading = read(file, environment, flags, remote)
    if reading.wrong:
        raise reading.wrong[0]
    return reading.config


def read(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    remote: Mapping[str, str] | None = None,
) -> Reading:
    """The same, with everything that is wrong instead of the first of it."""
    variables = os.environ if environment is None else environment
    if file is None and variables.get(FILE_VARIABLE):
        file = Path(variables[FILE_VARIABLE])
    chosen: dict[str, object] = {}
    origins: dict[str, str] = {}
    wrong: list[ConfigError] = []
    given = _file_values(file, chosen, wrong) if file is not None else {}
    for setting in _SETTINGS:
        places = (
            (given.pop(setting.name, None), str(file), f"in {file}"),
            ((remote or {}).get(setting.name), HEAD_OFFICE, FROM_AFAR),
            (variables.get(setting.variable), setting.variable, f"in {setting.variable}"),
            ((flags or {}).get(setting.name), "the command line", "on the command line"),
        )
        for value, origin, where in places:
            if value is not None:
                try:
                    chosen[setting.attribute] = _parse(setting, value, where)
                    origins[setting.name] = origin
                except ConfigError as error:
                    wrong.append(error)
    wrong.extend(_unknown(remote or {}))
    known = ", ".join(setting.name for setting in _SETTINGS)
    wrong.extend(
        ConfigError(f"there is no setting {name!r} (in {file})", field=name, hint=f"there are {known}")
        for name in given
    )
    return Reading(_lowered(Config(**chosen)), origins, file, tuple(wrong))  # type: ignore[arg-type]


def standing(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Callable[[Mapping[str, str]], Config]:
    """What `load` gives for settings from afar, with the file and the environment as they are now.

    A running agent builds its parts anew when head office says so: what somebody has edited meanwhile, half or for the
    next start, must not count then. Raises `ConfigError`, as what it gives does.
    """
    reading = read(file, environment, flags)
    if reading.wrong:
        raise reading.wrong[0]
    above = {name for name, origin in reading.origins.items() if origin != str(reading.file)}

    def with_remote(remote: Mapping[str, str]) -> Config:
        overlaid(reading.config, remote)
        return overlaid(reading.config, {name: value for name, value in remote.items() if name not in above})

    return with_remote


def settings_of(config: Config) -> dict[str, object]:
    """Every setting with its value, by name, without the doors."""
    return {setting.name: getattr(config, setting.attribute) for setting in _SETTINGS}


def _file_values(file: Path, chosen: dict[str, object], wrong: list[ConfigError]) -> dict[str, object]:
    """What the file says of single settings; its doors go to `chosen`, what cannot be meant to `wrong`."""
    try:
        given = _from_file(file)
    except ConfigError as error:
        wrong.append(error)
        return {}
    try:
        chosen["doors"] = _doors(given, file)
    except ConfigError as error:
        wrong.append(error)
        return {name: value for name, value in given.items() if not _is_door(name)}
    return given


def overlaid(config: Config, remote: Mapping[str, str]) -> Config:
    """These settings with those from afar in their place. Raises `ConfigError`."""
    for error in _unknown(remote):
        raise error
    chosen = {s.attribute: _parse(s, remote[s.name], FROM_AFAR) for s in _SETTINGS if s.name in remote}
    before = tuple(name for name in config.lowered if name not in remote)
    return _lowered(replace(config, lowered=before, **chosen))  # type: ignore[arg-type]


def _lowered(config: Config) -> Config:
    """No setting above the most that holds; those that were are named."""
    above = [s for s in _SETTINGS if s.most is not None and getattr(config, s.attribute) > s.most]
    names = (*config.lowered, *(setting.name for setting in above))
    return replace(config, lowered=names, **{setting.attribute: setting.most for setting in above})  # type: ignore[arg-type]


def lowered_in_words(config: Config) -> list[str]:
    """A sentence for each setting that says more than holds."""
    return [
        f"{s.name} says more than holds, so {s.most:g} counts: {s.expects}"
        for s in _SETTINGS
        if s.name in config.lowered
    ]


def _unknown(remote: Mapping[str, str]) -> list[ConfigError]:
    names = sorted(remote.keys() - {setting.name for setting in _SETTINGS})
    return [
        ConfigError(f"there is no setting {name!r} ({FROM_AFAR})", field=name, hint="upgrade the agent")
        for name in names
    ]


def _parse(setting: _Setting, value: object, where: str) -> object:
    try:
        return setting.parse(value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{setting.name} {where} is {value!r}, which is not {setting.expects}",
            field=setting.name,
            limit=setting.expects,
        ) from error


def _is_door(name: str) -> bool:
    return name in ("drop", "printer") or name.startswith("adapters.")


def _doors(given: dict[str, object], file: Path) -> Doors:
    try:
        return take_doors(given, file.parent)
    except InvalidInput as error:
        message = f"{error.field} in {file}: {error.message}"
        raise ConfigError(message, field=error.field, limit=error.limit, hint=error.hint) from error


def _from_file(file: Path) -> dict[str, object]:
    """The file's values by setting name. Tables nest one deep."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the settings file {file} cannot be read: {error.strerror}", field="config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {file} is not valid TOML: {error}", field="config") from error
    values: dict[str, object] = {}
    for table, content in tables.items():
        if isinstance(content, dict):
            values.update({f"{table}.{key}": value for key, value in content.items()})
        else:
            values[table] = content
    return values
