"""What an adapter makes of a file: to try one out before a POS is connected by it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from tillstream_protocol.adapters import Reading, Setting
from tillstream_protocol.adapters.base import MAX_PAYLOAD
from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.transaction import reconcile

_MAX_OPTIONS: Final = 1024 * 1024


def adapt(name: str, file: Path, setting: Setting) -> list[Reading]:
    """The transactions in a file. Raises `InvalidInput` where there is no such adapter, or it cannot read that."""
    adapter = ADAPTERS.get(name)
    if adapter is None:
        raise InvalidInput(f"there is no adapter {name!r}", field="name", limit=", ".join(ADAPTERS))
    return adapter.read(_bytes_of(file, MAX_PAYLOAD), setting)


def setting_of(currency: str | None, zone: str, options: Path | None) -> Setting:
    """What the command line says of a till. Raises `InvalidInput`."""
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"{zone!r} is no time zone", field="--zone", hint="such as Europe/Berlin") from error
    if options is None:
        return Setting(currency, place)
    try:
        said = msgspec.json.decode(_bytes_of(options, _MAX_OPTIONS), type=dict)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{options} is no JSON object: {error}", field="--options") from error
    return Setting(currency, place, said)


def facts(readings: Iterable[Reading]) -> list[dict[str, object]]:
    """Readings as JSON tells them."""
    return [
        {
            "transaction": one.transaction,
            "reconciles": reconcile(one.transaction),
            "confidence": one.confidence,
            "original_bytes": len(one.original),
        }
        for one in readings
    ]


def in_words(readings: Iterable[Reading]) -> str:
    """Readings as somebody looks them over."""
    return "\n".join(_words(one) for one in readings) or "no transaction: a payload of this kind sells nothing"


def listed() -> list[dict[str, object]]:
    """Every adapter, and what it was tried on."""
    return [{"name": one.name, "version": one.version, "tried": one.tried} for one in ADAPTERS.values()]


def list_in_words() -> str:
    """The same for people."""
    rows = [f"{a.name:<16} {a.version:<4} {a.tried or 'not yet tried on genuine data'}" for a in ADAPTERS.values()]
    return "\n".join(rows)


def _words(one: Reading) -> str:
    t = one.transaction
    scale = 10**t.exponent
    whole, part = divmod(abs(t.total), scale)
    total = f"{'-' if t.total < 0 else ''}{whole}" + (f".{part:0{t.exponent}d}" if t.exponent else "")
    fits = {True: "adds up", False: "DOES NOT ADD UP", None: "nothing to add up"}[reconcile(t)]
    rows = [
        f"{t.kind} {t.pos_id} of {t.business_date}: {total} {t.currency or '(the currency of the till)'},"
        f" {len(t.lines)} lines, {len(t.tenders)} tenders; {fits}"
    ]
    if one.confidence < 1:
        rows.append(f"    read with a confidence of {one.confidence:.2f}")
    rows += [
        f"    {what}: {', '.join(map(str, names))}"
        for what in ("assumed", "rounded")
        if isinstance(names := (t.ext or {}).get(what), list)
    ]
    return "\n".join(rows)


def _bytes_of(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror or error}", field="FILE") from error
    if len(data) > most:
        raise TooLarge(f"{file} is too large", field="FILE", limit=f"{most} bytes")
    return data
