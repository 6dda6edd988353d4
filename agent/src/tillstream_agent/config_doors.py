"""The settings of doors that a till may have several of: tables of the TOML file, named here and nowhere else.

    [adapters.NAME]     how a POS's own bytes are read: format, currency, zone, options
    [[drop]]            a folder that is watched
    [[printer]]         a port that passes print jobs on

What is wrong with one raises `InvalidInput` whose `field` is its place in the file (`drop[0].folder`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.codec import invalid
from tillstream_protocol.errors import InvalidInput, shown

WATCHES_FOLDERS: Final = sys.platform != "win32"
MAX_OPTIONS: Final = 1024 * 1024
_MOST_DOORS: Final = 32
T = TypeVar("T", bound=Struct)
_Seconds = Annotated[float, Meta(ge=0.05, le=3600)]
_Name = Annotated[str, Meta(min_length=1, max_length=1_000)]


class AdapterTable(Struct, frozen=True, forbid_unknown_fields=True):
    """`[adapters.NAME]` as it stands in the file."""

    adapter: str = ""
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = ""
    zone: str = ""
    options: str = ""
    sure: Annotated[float, Meta(ge=0, le=1)] = 1.0


class DropTable(Struct, frozen=True, forbid_unknown_fields=True):
    """`[[drop]]` as it stands in the file."""

    folder: _Name
    adapter: _Name
    pattern: _Name = "*"
    poll_s: _Seconds = 1.0
    settle_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    keep: bool = False


class PrinterTable(Struct, frozen=True, forbid_unknown_fields=True):
    """`[[printer]]` as it stands in the file."""

    to: _Name
    listen: _Name = "127.0.0.1:9100"
    adapter: _Name = "escpos"
    idle_s: _Seconds = 5.0


@dataclass(frozen=True, slots=True)
class AdapterSetting:
    """How the payloads of one door's POS are read. `adapter` names the format."""

    adapter: str
    setting: Setting = field(default_factory=Setting)
    sure: float = 1.0
    """A reading less sure than this carries its confidence in `ext`."""


@dataclass(frozen=True, slots=True)
class DropSetting:
    """A watched folder. Times are in seconds."""

    folder: Path
    adapter: str
    """A name in `Doors.adapters`, or that of an adapter."""
    pattern: str = "*"
    poll_s: float = 1.0
    settle_s: float = 2.0
    """How long a file must not have changed."""
    keep: bool = False
    """Whether a file that was captured is kept, in clear."""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PrinterSetting:
    """A printer's port, and the printer behind it."""

    to: Address
    listen: Address = Address("127.0.0.1", 9100)
    adapter: str = "escpos"
    idle_s: float = 5.0
    """Seconds of silence after which a job without a cut is taken to be over."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What the file says of doors."""

    adapters: Mapping[str, AdapterSetting] = field(default_factory=dict)
    drops: tuple[DropSetting, ...] = ()
    printers: tuple[PrinterSetting, ...] = ()

    def reading(self, name: str) -> AdapterSetting | None:
        """How to read for an adapter's name, configured or not; None where there is none of this name."""
        known = self.adapters.get(name)
        if known is None and name in ADAPTERS:
            return AdapterSetting(name, Setting(zone=MACHINE))
        return known


class MachineZone(tzinfo):
    """The zone that the machine is set to, with its summer times."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        """The offset that the machine has at this local time."""
        return None if when is None else when.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _: datetime | None) -> timedelta | None:
        """Not told apart from the offset."""
        return None

    def tzname(self, when: datetime | None) -> str | None:
        """What the machine calls it."""
        return None if when is None else when.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, when: datetime) -> datetime:
        """The local time at an instant given as UTC."""
        return when.replace(tzinfo=UTC).astimezone().replace(tzinfo=self)


MACHINE: Final = MachineZone()


def take_doors(given: dict[str, object], base: Path) -> Doors:
    """Take what is there of doors out of a file's values. Paths are relative to `base`. Raises `InvalidInput`."""
    names = [name for name in given if name.partition(".")[0] == "adapters"]
    adapters = {name.partition(".")[2]: _adapter(name, given.pop(name), base) for name in names}
    drops = _tables("drop", given.pop("drop", []), DropTable)
    if drops and not WATCHES_FOLDERS:
        raise InvalidInput("folders are not watched on Windows yet", field="drop[0].folder")
    printers = _tables("printer", given.pop("printer", []), PrinterTable)
    doors = Doors(
        adapters,
        tuple(_drop(table, base) for table in drops),
        tuple(_printer(f"printer[{n}]", table) for n, table in enumerate(printers)),
    )
    used = {f"drop[{n}].adapter": one.adapter for n, one in enumerate(doors.drops)}
    used |= {f"printer[{n}].adapter": one.adapter for n, one in enumerate(doors.printers)}
    for where, name in used.items():
        _known(where, name, adapters)
    _apart([one.folder for one in doors.drops], "drop", "folder")
    _apart([one.listen for one in doors.printers if one.listen.port], "printer", "listen")
    return doors


def _known(where: str, name: str, adapters: Mapping[str, AdapterSetting]) -> None:
    if name not in adapters and name not in ADAPTERS:
        limit = ", ".join([*adapters, *(one for one in ADAPTERS if one not in adapters)])
        raise InvalidInput(f"there is no adapter {name!r}", field=where, limit=limit)


def _apart(places: Sequence[object], kind: str, name: str) -> None:
    for number, place in enumerate(places):
        if place in places[:number]:
            raise InvalidInput(f"{str(place)!r} is named twice", field=f"{kind}[{number}].{name}")


def _table(where: str, given: object, of: type[T]) -> T:
    """A table as its type. Raises `InvalidInput` with the setting's place, its value and what is allowed."""
    try:
        return msgspec.convert(given, of)
    except msgspec.ValidationError as error:
        told = invalid(error)
        inner = "" if told.field in (None, "body") else told.field
        value: Any = given.get(inner) if isinstance(given, dict) else given
        message = told.message if value is None else f"is {shown(value)}: {told.message}"
        raise InvalidInput(message, field=f"{where}.{inner}" if inner else where, limit=told.limit) from error


def _tables(where: str, given: object, of: type[T]) -> list[T]:
    if not isinstance(given, list) or len(given) > _MOST_DOORS:
        raise InvalidInput(f"is no list of at most {_MOST_DOORS} tables", field=where, hint=f"write [[{where}]]")
    return [_table(f"{where}[{number}]", one, of) for number, one in enumerate(given)]


def _adapter(where: str, given: object, base: Path) -> AdapterSetting:
    table, name = _table(where, given, AdapterTable), where.partition(".")[2]
    adapter = table.adapter or name
    if adapter not in ADAPTERS:
        field = f"{where}.adapter" if table.adapter else where
        raise InvalidInput(f"there is no adapter {adapter!r}", field=field, limit=", ".join(ADAPTERS))
    options = _options(f"{where}.options", base / table.options) if table.options else {}
    setting = Setting(table.currency or None, _zone(f"{where}.zone", table.zone), options)
    return AdapterSetting(adapter, setting, table.sure)


def _zone(where: str, name: str) -> tzinfo:
    if not name:
        return MACHINE
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # most tills' own zone will do

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"{name!r} is no time zone", field=where, hint="such as Europe/Berlin") from error


def _options(where: str, file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_OPTIONS + 1)
    except OSError as error:
        raise InvalidInput(f"{str(file)!r} cannot be read: {error.strerror or error}", field=where) from error
    if len(data) > MAX_OPTIONS:
        raise InvalidInput(f"{str(file)!r} is too large", field=where, limit=f"{MAX_OPTIONS} bytes")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{str(file)!r} is no JSON object: {error}", field=where) from error


def _drop(table: DropTable, base: Path) -> DropSetting:
    folder = base / table.folder
    return DropSetting(folder, table.adapter, table.pattern, table.poll_s, table.settle_s, table.keep)


def _printer(where: str, table: PrinterTable) -> PrinterSetting:
    to, listen = _address(f"{where}.to", table.to, low=1), _address(f"{where}.listen", table.listen, low=0)
    return PrinterSetting(to, listen, table.adapter, table.idle_s)


def _address(where: str, text: str, low: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or port < low or parts.netloc != text or "@" in text:
        raise InvalidInput(f"{text!r} is no address", field=where, limit="host:port, such as 192.168.1.50:9100")
    return Address(host, port)
