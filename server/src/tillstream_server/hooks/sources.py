"""Webhook sources: where a cloud POS's sales come in, and what they are vouched for by.

A source is a till of the server's own making, with a device whose private key is derived from the server's keys. The
vendor's signing secret lies sealed under a key that is derived from them, too, and bound to its source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt
from nacl.exceptions import CryptoError
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.mapping_format import mapping_of
from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.sealing import NONCE_SIZE

from .. import tills
from ..keys import Randomness, ServerKeys
from ..tills import NewDevice
from .signatures import Kind

CANONICAL: Final = "canonical"
"""What a generic source sends unless it names an adapter: canonical transactions as JSON."""
MIN_SECRET: Final = 8
MAX_SECRET: Final = 256
_SECRET_BYTES: Final = 32
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_BASE: Final = re.compile(r"https?://[^\s?#/]+(/[^\s?#]*)?")


class UnknownSource(TillstreamError):
    """There is no such source, or it is revoked."""

    code = "unknown_source"


class SourceDamaged(TillstreamError):
    """A secret that does not open: altered, or sealed under another server's keys."""

    code = "source_damaged"
    retryable = True


class SourceUnusable(TillstreamError):
    """A source whose stored settings are none any more: a zone that this system lacks, options that do not read."""

    code = "source_unusable"
    retryable = True


@dataclass(frozen=True, slots=True)
class NewSource:
    """What is to be known of a source when it is made. `options` is a JSON object for the adapter."""

    kind: Kind
    name: str
    retailer: str
    store: str
    till: str
    adapter: str
    base_url: str
    currency: str | None
    zone: str
    options: str

    @property
    def path(self) -> str:
        """Where its deliveries go: a source that is called like its kind has the short path."""
        short = self.kind != "generic" and self.name == self.kind
        return f"/hooks/{self.kind}" if short else f"/hooks/{self.kind}/{self.name}"

    @property
    def url(self) -> str:
        """What the vendor is given: the path alone where the server's address is not known."""
        return self.base_url.rstrip("/") + self.path


@dataclass(frozen=True, slots=True)
class Source:
    """A source that is in force. `secrets` are its present one and, for a while, the one before."""

    till_id: bytes
    kind: Kind
    name: str
    adapter: str
    url: str
    setting: Setting
    secrets: tuple[str, ...] = field(repr=False)


def check(new: NewSource) -> None:
    """Raise `InvalidInput` for what could not work."""
    if _NAME.fullmatch(new.name) is None:
        raise InvalidInput("cannot stand in a URL", field="name", limit="a to z, 0 to 9, and . _ - within, up to 64")
    if new.base_url and _BASE.fullmatch(new.base_url) is None:
        raise InvalidInput("is no address", field="url", limit="such as https://hooks.example.com")
    if new.kind == "square" and not new.base_url:
        hint = "give --url with the address by which Square reaches this server: Square signs it"
        raise InvalidInput("is needed", field="url", hint=hint)
    if new.adapter != CANONICAL and new.adapter not in ADAPTERS:
        raise InvalidInput("there is no such adapter", field="adapter", limit=", ".join([CANONICAL, *ADAPTERS]))
    if new.kind != "generic" and new.adapter != new.kind:
        raise InvalidInput("is for generic sources", field="adapter", limit=new.kind)
    setting = setting_of(new.currency, new.zone, new.options)
    if new.adapter == "mapping":
        mapping_of(setting.options)


def setting_of(currency: str | None, zone: str, options: str) -> Setting:
    """What the adapter is told. Raises `InvalidInput`."""
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput("is no time zone", field="zone", hint="such as Europe/Berlin") from error
    try:
        said: Mapping[str, Any] = msgspec.json.decode(options, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidInput("is no JSON object", field="options") from error
    return Setting(currency, place, said)


def secret_for(kind: Kind, given: str | None, random: Randomness) -> str:
    """The secret that was given, or a new one where the retailer may choose it. Raises `InvalidInput`."""
    if given is None:
        if kind in ("square", "shopify"):
            hint = "put it into a file of your own, and give it with --secret-file"
            raise InvalidInput(f"{kind} makes the secret itself", field="secret", hint=hint)
        return random(_SECRET_BYTES).hex()
    if not MIN_SECRET <= len(given) <= MAX_SECRET:
        limit = f"{MIN_SECRET} to {MAX_SECRET} characters"
        raise InvalidInput("is no secret", field="secret", limit=limit)
    return given


async def create(
    conn: AsyncConnection, keys: ServerKeys, new: NewSource, secret: str, *, now_ms: int, random: Randomness
) -> bytes:
    """Make a source, its till and its device; the till's id. Raises `InvalidInput`."""
    check(new)
    if await in_force(conn, new.kind, new.name) is not None:
        hint = "give another --name; for the same shop: source replace"
        raise InvalidInput(f"there is a {new.kind} source {new.name!r} already", field="name", hint=hint)
    if await tills.find(conn, new.retailer, new.store, new.till) is not None:
        raise InvalidInput(f"there is a till {new.till!r} already", field="till", hint="give another --till")
    till_id = random(16)
    place = await tills.make(conn, till_id, new.retailer, new.store, new.till, now_ms)
    device = keys.source_device(till_id)
    await tills.give_device(conn, place, NewDevice(device.key_id, device.public, "", f"webhook:{new.kind}"), now_ms)
    kept = sealed(keys, till_id, secret, random)
    await conn.exec_driver_sql(
        "INSERT INTO source (till_id, kind, name, adapter, url, currency, zone, options, secret, former_secret,"
        " former_until_ms, created_ms, revoked_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?, NULL)",
        (till_id, new.kind, new.name, new.adapter, new.url, new.currency, new.zone, new.options, kept, now_ms),
    )
    return till_id


async def rotate(
    conn: AsyncConnection, keys: ServerKeys, kind: Kind, name: str, secret: str, *, until_ms: int, random: Randomness
) -> bytes:
    """Put another secret in force; the present one goes on being taken until then. Raises `UnknownSource`."""
    till_id = await require_id(conn, kind, name)
    await conn.exec_driver_sql(
        "UPDATE source SET former_secret = secret, former_until_ms = ?, secret = ? WHERE till_id = ?",
        (until_ms, sealed(keys, till_id, secret, random), till_id),
    )
    return till_id


async def revoke(conn: AsyncConnection, kind: Kind, name: str, now_ms: int) -> bytes:
    """Take nothing more of a source. What it brought stays. Raises `UnknownSource`."""
    till_id = await require_id(conn, kind, name)
    await conn.exec_driver_sql(
        "UPDATE source SET revoked_ms = ?, former_secret = NULL, former_until_ms = NULL WHERE till_id = ?",
        (now_ms, till_id),
    )
    place = await tills.by_id(conn, till_id)
    assert place is not None
    await tills.revoke(conn, place, now_ms)
    return till_id


async def listing(conn: AsyncConnection, retailer: str | None) -> list[dict[str, object]]:
    """Every source, without its secrets."""
    rows = await conn.exec_driver_sql(_LIST, (retailer, retailer))
    return [dict(row._mapping) for row in rows]


async def find(conn: AsyncConnection, keys: ServerKeys, kind: Kind, name: str, now_ms: int) -> Source:
    """The source in force of this name. Raises `UnknownSource`, `SourceDamaged` or `SourceUnusable`."""
    rows = await _rows(conn, _BY_NAME, kind, name)
    if not rows:
        raise UnknownSource("there is no such source", hint="see: tillstream-server source list")
    till_id, *_, secret, former, until_ms = rows[0]
    good = [secret] if former is None or until_ms <= now_ms else [secret, former]
    return _source(rows[0], tuple(_open(keys, till_id, one) for one in good))


async def of_till(conn: AsyncConnection, till_id: bytes) -> Source | None:
    """The source that a till is, in force or not; None for a till like others. Raises `SourceUnusable`.

    It bears no secrets: what is read again was vouched for when it came.
    """
    rows = await _rows(conn, _BY_TILL, till_id)
    return _source(rows[0], ()) if rows else None


async def require_id(conn: AsyncConnection, kind: Kind, name: str) -> bytes:
    """The till's id of a source in force. Raises `UnknownSource`."""
    till_id = await in_force(conn, kind, name)
    if till_id is None:
        raise UnknownSource(f"there is no {kind} source {name!r}", hint="see: source list")
    return till_id


async def in_force(conn: AsyncConnection, kind: Kind, name: str) -> bytes | None:
    """The till's id of the source in force of this name, or None."""
    rows = await _rows(
        conn, "SELECT till_id FROM source WHERE kind = ? AND name = ? AND revoked_ms IS NULL", kind, name
    )
    return bytes(rows[0][0]) if rows else None


async def _rows(conn: AsyncConnection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in (await conn.exec_driver_sql(statement, values)).all()]


def _source(row: tuple[Any, ...], secrets: tuple[str, ...]) -> Source:
    till_id, kind, name, adapter, url, currency, zone, options, *_ = row
    try:
        setting = setting_of(currency, zone, options)
    except InvalidInput as error:
        hint = f"set it anew: tillstream-server source replace --kind {kind} --name {name}"
        raise SourceUnusable(f"the {kind} source {name!r} cannot be used", field=error.field, hint=hint) from error
    return Source(till_id, kind, name, adapter, url, setting, secrets)


def sealed(keys: ServerKeys, till_id: bytes, secret: str, random: Randomness) -> bytes:
    """A source's secret as the database keeps it: nonce and ciphertext, bound to its till."""
    nonce = random(NONCE_SIZE)
    return nonce + encrypt(secret.encode(), till_id, nonce, keys.source_key())


def _open(keys: ServerKeys, till_id: bytes, sealed: bytes) -> str:
    try:
        return decrypt(sealed[NONCE_SIZE:], till_id, sealed[:NONCE_SIZE], keys.source_key()).decode()
    except CryptoError as error:
        raise SourceDamaged("the source's secret does not open", hint="give it again: source rotate") from error


_COLUMNS: Final = (
    "s.till_id, s.kind, s.name, s.adapter, s.url, s.currency, s.zone, s.options, s.secret, s.former_secret,"
    " s.former_until_ms"
)

_BY_NAME: Final = f"""
SELECT {_COLUMNS} FROM source s JOIN till t ON t.till_id = s.till_id
WHERE s.kind = ? AND s.name = ? AND s.revoked_ms IS NULL AND t.revoked_ms IS NULL
"""  # noqa: S608

_BY_TILL: Final = f"SELECT {_COLUMNS} FROM source s WHERE s.till_id = ?"  # noqa: S608

_LIST: Final = """
SELECT t.retailer, t.store, t.till, s.kind, s.name, s.adapter, s.url, s.currency, s.zone, s.created_ms, s.revoked_ms,
    (SELECT COUNT(*) FROM hook_event e WHERE e.till_id = s.till_id) AS events,
    (SELECT MAX(e.received_ms) FROM hook_event e WHERE e.till_id = s.till_id) AS last_event_ms,
    (SELECT COUNT(*) FROM hinted_order h WHERE h.till_id = s.till_id) AS orders_without_lines
FROM source s JOIN till t ON t.till_id = s.till_id
WHERE ? IS NULL OR t.retailer = ? ORDER BY t.retailer, t.store, s.kind, s.name, s.created_ms
"""
